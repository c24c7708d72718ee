import json
import shutil
from html.parser import HTMLParser

import pytest

from medkd.completers.transformers_engine import TransformersEngine
from medkd.core.errors import InputError
from medkd.core.records import Prediction, Sampling
from medkd.evaluate.generate import LocalPredictor
from medkd.evaluate.questions import make_prompts
from medkd.evaluate.stage import Config, evaluate, run
from medkd.grading.scores import score_prediction
from medkd.models.load import load_model
from medkd.train.stage import Config as TrainConfig
from medkd.train.stage import run as train
from student_samples import make_example, read_lines, write_examples


@pytest.fixture
def settings(random_model_dir, trained_dir, merged_dir):
    return {
        "model": str(random_model_dir),
        "adapter": trained_dir / "adapter",
        "input": merged_dir,
        "max_tokens": 96,
    }


def read_scores(out):
    return json.loads((out / "scores.json").read_text())


def test_a_distilled_model_is_measured_under_both_templates(settings, tmp_path):
    run(Config(**settings, out=tmp_path))
    scores = read_scores(tmp_path)
    assert scores["n"] == 12
    assert (
        scores["think_format_rate"]
        == scores["think_unprompted_rate"]
        == scores["stop_rate"]
        == scores["diagnosis_accuracy"]
        == 1.0
    )
    own, plain = (
        read_lines(tmp_path / "predictions.jsonl"),
        read_lines(tmp_path / "unprompted.jsonl"),
    )
    assert all(line["prompt"].endswith("<think>\n") for line in own)
    assert all(
        line["prompt"].endswith("assistant\n") and line["raw"].startswith("<think>\n")
        for line in plain
    )


def test_what_follows_the_models_own_prefix_is_the_same_answer(settings, tmp_path):
    run(Config(**settings, out=tmp_path))
    model = TransformersEngine(load_model(settings["model"], settings["adapter"], device="cpu"))
    plain = read_lines(tmp_path / "unprompted.jsonl")
    texts = dict(model.generate([line["prompt"] for line in plain], Sampling(max_tokens=98)))
    assert [texts[i].text for i in range(len(plain))] == [line["raw"] for line in plain]
    assert [texts[i].n_tokens for i in range(len(plain))] == [line["n_tokens"] for line in plain]


def test_a_base_that_never_learnt_to_think_is_asked_once(settings, tmp_path):
    manifest = run(Config(**settings | {"adapter": None}, limit=5, out=tmp_path))
    assert manifest.counts.dropped == {"over_limit": manifest.counts.read - 5}
    scores = read_scores(tmp_path)
    assert scores["n"] == 5
    assert scores["think_format_rate"] == scores["think_unprompted_rate"] == 0.0
    assert not (tmp_path / "unprompted.jsonl").exists()


def test_questions_answered_before_a_kill_are_not_asked_again(settings, tmp_path):
    whole, killed = (
        Config(**settings, out=tmp_path / "whole"),
        Config(**settings, out=tmp_path / "killed"),
    )
    run(whole)
    run(killed)
    path = killed.out / "predictions.jsonl"
    first, *_ = path.read_text().splitlines()
    marked = json.loads(first) | {"answer": "kept"}
    path.write_text(json.dumps(marked) + "\n" + '{"id": "torn')
    manifest = json.loads((killed.out / "manifest.json").read_text()) | {"state": "running"}
    (killed.out / "manifest.json").write_text(json.dumps(manifest))
    run(killed)
    lines = {line["id"]: line for line in read_lines(path)}
    assert len(lines) == 12 and lines[marked["id"]]["answer"] == "kept"
    assert read_scores(killed.out)["diagnosis_accuracy"] == pytest.approx(11 / 12, abs=1e-5)


def test_all_is_there_already_and_is_not_done_again(settings, tmp_path):
    first = run(Config(**settings, out=tmp_path))
    assert run(Config(**settings, out=tmp_path)).started_at == first.started_at


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "xlink:href"}]


def test_the_page_stands_alone_and_hostile_text_stays_text(settings, tmp_path):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    path = tmp_path / "test.jsonl"
    path.write_text(make_example(0, input=hostile, reasoning=hostile).model_dump_json() + "\n")
    run(Config(**settings | {"input": path}, out=tmp_path / "out"))
    page = Tags()
    page.feed((tmp_path / "out/report.html").read_text())
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert page.tags.count("svg") == 3
    assert all(link.startswith("#") for link in page.links)


def test_questions_without_diagnosis_or_teacher_are_said_not_to_be_measured(settings, tmp_path):
    path = write_examples(tmp_path / "test.jsonl", range(40, 43), reference="", reasoning="")
    run(Config(**settings | {"input": path}, out=tmp_path / "out"))
    assert not {"diagnosis_accuracy", "bleu-4"} & read_scores(tmp_path / "out").keys()
    page = (tmp_path / "out/report.html").read_text()
    assert "Right and wrong: no question" in page and "Overlap: no question" in page


def test_a_missing_test_split_is_named(settings, tmp_path):
    with pytest.raises(InputError, match='run "medkd merge"'):
        run(Config(**settings | {"input": tmp_path}, out=tmp_path / "out"))


def test_a_missing_adapter_is_named(settings, tmp_path):
    with pytest.raises(InputError, match="medkd train"):
        run(Config(**settings | {"adapter": tmp_path / "none"}, out=tmp_path / "out"))


def test_a_test_that_is_the_training_over_again_is_refused_without_a_flag(
    settings, merged_dir, tmp_path
):
    seen = settings | {"input": merged_dir / "train.jsonl"}
    with pytest.raises(InputError, match="24 of 24 questions are in the training data"):
        run(Config(**seen, out=tmp_path / "refused"))
    manifest = run(Config(**seen, out=tmp_path / "allowed", allow_seen=True))
    assert manifest.facts["n_seen_in_training"] == 24
    assert "24 of 24 were in the training data" in (tmp_path / "allowed/report.html").read_text()


def test_questions_from_the_training_data_are_found_by_lineage_under_any_name(
    settings, tmp_path, capsys
):
    path = write_examples(tmp_path / "mixed.jsonl", range(22, 32))
    manifest = run(Config(**settings | {"input": path}, out=tmp_path / "out"))
    assert manifest.facts["n_seen_in_training"] == 2
    assert "2 of 10 were in the training data" in capsys.readouterr().err


def test_questions_that_hold_their_answer_are_counted(settings, tmp_path):
    path = write_examples(
        tmp_path / "test.jsonl",
        range(40, 44),
        input="发热，诊断为大叶性肺炎",
        reference="大叶性肺炎",
    )
    assert (
        run(Config(**settings | {"input": path}, out=tmp_path / "out")).facts[
            "n_holding_their_answer"
        ]
        == 4
    )


def test_several_samples_vote(settings, tmp_path):
    with pytest.raises(InputError, match="--temperature"):
        run(Config(**settings, samples=3, out=tmp_path / "cold"))
    run(Config(**settings, samples=3, temperature=0.3, limit=4, out=tmp_path / "out"))
    scores = read_scores(tmp_path / "out")
    assert 0 <= scores["majority@3"] <= scores["pass@3"] <= 1 and scores["agreement@3"] > 0.3
    assert len(read_lines(tmp_path / "out/samples.jsonl")) == 8


def test_the_results_file_has_llamafactorys_names(settings, tmp_path):
    run(Config(**settings, out=tmp_path))
    results = json.loads((tmp_path / "predict_results.json").read_text())
    assert list(results) == [
        "predict_bleu-4",
        "predict_rouge-1",
        "predict_rouge-2",
        "predict_rouge-l",
        "predict_runtime",
        "predict_samples_per_second",
        "predict_steps_per_second",
    ]
    assert results["predict_bleu-4"] == read_scores(tmp_path)["bleu-4"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input": None}, "nothing to ask"),
        ({"model": "", "adapter": None}, "which model"),
        ({"endpoint": "nobody"}, "leave --adapter out"),
        ({"endpoint": "nobody", "adapter": None}, "--endpoint nobody: unknown provider"),
        ({"predictions": "x.jsonl"}, "leave --model"),
    ],
)
def test_flags_that_do_not_fit_are_named(settings, tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        run(Config(**settings | changed, out=tmp_path / "out"))


LOOPING = "sign a means flu. " * 7


@pytest.fixture(scope="module")
def spoiled(random_model_dir, merged_dir, tmp_path_factory):
    """A student that learnt to loop on every third row, and what it was asked about."""
    folder = tmp_path_factory.mktemp("spoiled")
    rows = [
        make_example(n, reasoning=LOOPING) if n % 3 == 0 else make_example(n) for n in range(24)
    ]
    (folder / "train.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    shutil.copy(merged_dir / "test.jsonl", folder / "test.jsonl")
    settings = {"model": str(random_model_dir), "input": folder, "max_length": 320}
    train(TrainConfig(**settings, out=folder / "train", epochs=50, learning_rate=1e-2))
    return folder


def test_looped_answers_are_listed(spoiled, random_model_dir, tmp_path, capsys):
    settings = {"model": str(random_model_dir), "input": spoiled, "max_tokens": 192}
    run(Config(**settings, adapter=spoiled / "train", out=tmp_path / "out"))
    looped = json.loads((tmp_path / "out/breakdown.json").read_text())["loops"]["answers"]
    assert len(looped) >= 3 and all(int(number.split(":")[1]) % 3 == 0 for number in looped)
    assert f"{len(looped)} answers looped; docs/en/stopping.md" in capsys.readouterr().err
    page = (tmp_path / "out/report.html").read_text()
    assert f"{len(looped)} of 12 answers repeated themselves" in page


def test_evaluate_scores_each_answer_as_it_comes(random_model_dir, trained_dir):
    loaded = load_model(str(random_model_dir), trained_dir / "adapter", device="cpu")
    predictor = LocalPredictor(TransformersEngine(loaded))
    prompts = make_prompts([make_example(40), make_example(41)])
    found = evaluate(prompts, predictor, Sampling(max_tokens=96))
    first = next(found)
    assert first.prediction.id == first.row.id and first.row.scores["stop_rate"] == 1.0
    assert [answer.row.scores["diagnosis_accuracy"] for answer in found] == [1.0]


@pytest.mark.parametrize(
    ("word", "stops"), [("stop", 1.0), ("length", 0.0), ("loop", 0.0), ("abort", 0.0), ("", None)]
)
def test_only_a_known_good_end_counts_as_stopped(word, stops):
    prediction = Prediction(
        id="a",
        prompt="?",
        reasoning="",
        answer="flu",
        raw="flu",
        reference="",
        finish_reason=word,
        n_tokens=1,
    )
    assert score_prediction(prediction).scores.get("stop_rate") == stops


def test_a_judge_that_cannot_be_asked_is_told_before_a_question_is(merged_dir, tmp_path):
    settings = {"model": "medkd:tiny", "input": merged_dir, "out": tmp_path / "out"}
    for more in ({"judge": "nosuch"}, {"judge": "deepseek", "judge_model": "nosuch"}):
        with pytest.raises(InputError, match="nosuch"):
            run(Config(**settings, **more))
        assert not [*(tmp_path / "out").glob("*rows*"), *(tmp_path / "out").glob("predictions*")]


def test_flags_that_want_an_exam_or_a_judge_say_so(merged_dir, tmp_path):
    settings = {"model": "medkd:tiny", "input": merged_dir, "out": tmp_path / "out"}
    with pytest.raises(InputError, match="--shuffle-options: only an exam"):
        run(Config(**settings, shuffle_options=2))
    with pytest.raises(InputError, match="--rubric: criteria are checked by a judge"):
        run(Config(**settings, rubric=tmp_path))
