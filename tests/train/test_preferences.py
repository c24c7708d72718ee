"""Preference training on pairs of short answers; the start knows the rows by heart."""

import json
import shutil

import pytest
import torch

from medkd.core.errors import InputError
from medkd.core.records import Preference, Rejected
from medkd.evaluate.questions import find_seen
from medkd.models.load import load_tokenizer
from medkd.train.preferences import TokenizedPair, make_single_rows
from medkd.train.stage import Config, run
from student_samples import (
    have_equal_weights,
    make_example,
    make_random_model,
    read_adapter,
    read_lines,
    undo_last_steps,
)

ANSWERS = ("flu", "mumps", "croup")


def make_pair(number, **rejected):
    """A pair whose worse answer is a wrong one, after reasoning of the same length."""
    wrong = ANSWERS[(number + 1) % 3]
    said = {"reasoning": f"sign x means {wrong}", "answer": wrong, "why": "wrong_answer"}
    worse = Rejected.model_validate(said | {"origin": "student"} | rejected)
    return Preference.model_validate({**make_example(number).model_dump(), "rejected": worse})


def write_pairs(folder, pairs):
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(pair.model_dump_json() + "\n" for pair in pairs)
    (folder / "preferences.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pairs_dir(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), map(make_pair, range(16)))


@pytest.fixture(scope="module")
def settings(start, pairs_dir):
    preferred = {"method": "dpo", "input": pairs_dir, "epochs": 2, "learning_rate": 1e-3}
    return start | preferred | {"max_length": 256}


@pytest.fixture(scope="module")
def tuned_dir(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("dpo")
    run(Config(**settings, out=out))
    return out


def test_the_better_answers_gain_on_the_worse_ones_against_the_start(tuned_dir, trained_dir):
    lines = [line for line in read_lines(tuned_dir / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert lines[-1]["rewards/margins"] > 0.01
    start, end = read_adapter(trained_dir), read_adapter(tuned_dir)
    assert start.keys() == end.keys()
    assert any(not torch.equal(start[name], end[name]) for name in start)
    assert not (tuned_dir / "adapter/ref").exists()


def test_the_report_has_the_pairs_the_curves_and_what_is_said_at_each_save(tuned_dir):
    facts = json.loads((tuned_dir / "manifest.json").read_text())["facts"]
    assert facts["pairs"]["n_pairs"] == 16
    assert facts["pairs"]["chosen_logp"] > facts["pairs"]["rejected_logp"]
    samples = read_lines(tuned_dir / "samples.jsonl")
    assert {sample["step"] for sample in samples} == {1, 2, 3, 4}
    assert all(sample["thinks"] and sample["stops"] for sample in samples)
    page = (tuned_dir / "report.html").read_text()
    assert all(title in page for title in ("rewards against the start", "the right way round"))


def test_lineage_and_template_are_those_of_the_start(tuned_dir, trained_dir):
    start, end = (
        json.loads((folder / "adapter/lineage.json").read_text())
        for folder in (trained_dir, tuned_dir)
    )
    assert end == start | {"dpo": {"pairs": 16, "steps": 4}}
    one, other = (load_tokenizer(f / "adapter").chat_template for f in (trained_dir, tuned_dir))
    assert one == other


@pytest.mark.slow
def test_single_verdicts_are_learnt_from_and_a_base_needs_no_adapter(settings, tmp_path):
    plain = {key: value for key, value in settings.items() if key != "adapter"}
    manifest = run(Config(**plain | {"method": "kto", "epochs": 1, "lora_rank": 4}, out=tmp_path))
    assert manifest.facts["steps"] == 4  # 32 answers, 8 a step
    assert any("rewards/chosen" in line for line in read_lines(tmp_path / "metrics.jsonl"))
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["r"] == 4


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(settings, tuned_dir, tmp_path):
    """What a kill at step 3 leaves is made of a finished run."""
    killed = shutil.copytree(tuned_dir, tmp_path / "killed")
    undo_last_steps(killed, 4)
    assert run(Config(**settings, out=killed)).facts["resumed_from_step"] == 3
    assert have_equal_weights(tuned_dir, killed)


@pytest.mark.slow
@pytest.mark.parametrize("length", [{"trainer": {"max_steps": 1}}, {"epochs": 0.5}])
def test_a_run_killed_behind_its_last_checkpoint_trains_no_further_step(settings, tmp_path, length):
    settings = settings | length
    run(Config(**settings, out=tmp_path / "whole"))
    killed = shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    undo_last_steps(killed, None)
    assert run(Config(**settings, out=killed)).facts["steps"] == 1
    assert have_equal_weights(tmp_path / "whole", killed)


def test_pairs_that_teach_nothing_are_counted_and_none_left_is_one_line(settings, tmp_path):
    same = make_example(1)
    folder = write_pairs(
        tmp_path / "in",
        [
            make_pair(1, reasoning=same.reasoning, answer=f"{same.answer} "),
            make_pair(2, reasoning="long " * 100),
            make_pair(3, reasoning="ends <|im_end|> early"),
        ],
    )
    with pytest.raises(InputError, match="no pair is left to train on") as caught:
        run(Config(**settings | {"input": folder}, out=tmp_path / "out"))
    said = str(caught.value)
    assert "\n" not in said
    assert all(f"{name} 1" in said for name in ("no_difference", "too_long", "control_tokens"))


@pytest.mark.parametrize("n_more_tokens", [0, 9])
def test_a_start_of_another_base_is_refused_whatever_its_tokenizer(
    settings, trained_dir, tmp_path, n_more_tokens
):
    other = make_random_model(tmp_path / "other", hidden_size=32)
    start = shutil.copytree(trained_dir / "adapter", tmp_path / "start")
    tokenizer = load_tokenizer(start)
    tokenizer.add_tokens([f"<{number}>" for number in range(n_more_tokens)])
    tokenizer.save_pretrained(start)
    with pytest.raises(InputError, match="was trained on"):
        run(Config(**settings | {"model": str(other), "adapter": start}, out=tmp_path / "out"))


def test_a_directory_without_pairs_names_what_makes_them(settings, merged_dir, tmp_path):
    with pytest.raises(InputError, match="merge --pairs"):
        run(Config(**settings | {"input": merged_dir}, out=tmp_path / "out"))


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_each_single_answer_stands_beside_another_one(tmp_path, batch_size):
    pairs = [
        TokenizedPair([0], [1], [2]),
        *(TokenizedPair([n], [n + 1], [n + 2]) for n in (10, 20)),
    ]
    fields = {"model": "any", "method": "kto", "batch_size": batch_size}
    for n_pairs in (1, 2, 3):
        rows = make_single_rows(pairs[:n_pairs], Config(**fields, input=tmp_path, out=tmp_path))
        assert len(rows) == 2 * n_pairs
        assert all(row["KL_completion_ids"] != row["completion_ids"] for row in rows)
    same = [TokenizedPair([0], [1], [n]) for n in range(2, 8)]
    assert len(make_single_rows(same, Config(**fields, input=tmp_path, out=tmp_path))) == 7


def test_kto_on_one_pair_of_equal_answers_is_one_line(tmp_path):
    config = Config(model="any", method="kto", batch_size=2, input=tmp_path, out=tmp_path)
    with pytest.raises(InputError, match="give more pairs"):
        make_single_rows([TokenizedPair([0], [1], [1])], config)


def test_length_as_the_only_difference_is_said(pairs_dir):
    from medkd.train.preferences import PairFacts, list_notes

    alike, longer = (list_notes(PairFacts(9, n, 40.0, -0.5, -0.6, 0.7)) for n in (44.0, 90.0))
    assert len(alike) == 1 and "margin +0.100" in alike[0]
    assert "2.2 times as long" in longer[1]


def test_an_evaluation_finds_the_questions_of_the_pairs_among_its_own(tuned_dir, pairs_dir):
    asked = [make_example(0), make_example(100)]
    seen = find_seen(asked, pairs_dir / "test.jsonl", tuned_dir / "adapter")
    assert (seen.ids, seen.training_path) == ({"made:0"}, pairs_dir / "preferences.jsonl")
