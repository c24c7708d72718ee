import json

import pytest

from medkd.core.config import make_config
from medkd.core.errors import InputError
from medkd.core.statistics import compare_paired
from medkd.evaluate.compare import Config, run
from medkd.evaluate.stage import Config as EvaluateConfig
from medkd.evaluate.stage import run as evaluate
from medkd.report.material import show_tests


def make_evaluation(
    folder, answers, prompt="请诊断。【主诉】发热{}", label="<think>发热。</think>急性阑尾炎"
):
    folder.mkdir(parents=True)
    path = folder / "generated_predictions.jsonl"
    lines = [
        {"prompt": prompt.format(n), "predict": answer, "label": label}
        for n, answer in enumerate(answers)
    ]
    path.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    evaluate(EvaluateConfig(predictions=path, out=folder / "scored"))
    return folder / "scored"


@pytest.fixture
def before(tmp_path):
    return make_evaluation(tmp_path / "before", ["急性胆囊炎"] * 15 + ["急性阑尾炎"] * 15)


@pytest.fixture
def after(tmp_path):
    return make_evaluation(
        tmp_path / "after", ["<think>发热。</think>急性阑尾炎"] * 25 + ["<b>急性胆囊炎</b>"] * 5
    )


def test_two_models_are_held_against_each_other_on_the_same_questions(
    before, after, tmp_path, capsys
):
    run(Config(input=[before, after], names=["base", "student"], out=tmp_path / "out"))
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    accuracy = found["against_first"]["student"]["diagnosis_accuracy"]
    assert (accuracy["n"], accuracy["n_second_only"], accuracy["n_first_only"]) == (30, 15, 5)
    assert accuracy["difference"] == pytest.approx(1 / 3, abs=1e-5)
    assert accuracy["p"] == pytest.approx(0.0414, abs=1e-4)
    page = (tmp_path / "out/report.html").read_text()
    assert (
        "Before and after, in the terms of the worked example" in page and "base was wrong" in page
    )
    assert "McNemar, 15 gained, 5 lost" in page and "&lt;b&gt;" in page and "<script" not in page
    assert "student against base, 30 questions" in capsys.readouterr().out


def test_one_evaluation_alone_is_told_what_is_missing_before_anything_runs(before, tmp_path):
    with pytest.raises(
        InputError,
        match="compare: input: nothing to compare with; name two directories of evaluate, or more",
    ):
        make_config(Config, {"input": [before], "out": tmp_path / "out"}, "compare")


def test_only_questions_that_all_were_asked_count(before, tmp_path, capsys):
    shorter = make_evaluation(tmp_path / "shorter", ["急性阑尾炎"] * 20)
    manifest = run(Config(input=[before, shorter], names=["a", "b"], out=tmp_path / "out"))
    assert manifest.counts.kept == 20 and manifest.counts.dropped == {"not_asked_of_all": 10}
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    assert found["scores"]["a"]["n"] == found["scores"]["b"]["n"] == 20
    assert found["scores"]["a"]["diagnosis_accuracy"] == 0.25
    assert "not all models were asked: 10 of 30" in capsys.readouterr().err


def test_answers_that_were_not_made_alike_are_warned_of(before, after, tmp_path, capsys):
    run(Config(input=[before, after], names=["base", "student"], out=tmp_path / "alike"))
    assert "made alike" not in capsys.readouterr().err
    manifest = json.loads((after / "manifest.json").read_text())
    manifest["facts"] |= {"generator": "vllm", "dtype": "bfloat16"}
    manifest["config"] |= {"temperature": 0.6}
    (after / "manifest.json").write_text(json.dumps(manifest))
    run(Config(input=[before, after], names=["base", "student"], out=tmp_path / "unlike"))
    said = capsys.readouterr().err
    assert "made alike: generator differs (base unknown, student vllm); dtype differs" in said
    assert "temperature differs (base 0.0, student 0.6)" in said and "max_tokens" not in said
    assert (
        "temperature differs (base 0.0, student 0.6)"
        in (tmp_path / "unlike/report.html").read_text()
    )


def test_a_file_that_numbers_its_rows_is_held_against_an_evaluation_with_ids(
    before, after, tmp_path
):
    for name in ("rows.jsonl", "predictions.jsonl"):
        path = after / name
        path.write_text(path.read_text().replace('"row:', '"clinic:'))
    manifest = run(Config(input=[before, after], names=["a", "b"], out=tmp_path / "out"))
    assert manifest.counts.kept == 30


def test_models_that_were_asked_other_questions_are_refused(before, tmp_path):
    other = make_evaluation(tmp_path / "other", ["急性阑尾炎"] * 30, label="肺炎")
    with pytest.raises(InputError, match="30 of 30 questions are others"):
        run(Config(input=[before, other], names=["a", "b"], out=tmp_path / "out"))


def test_names_must_tell_the_models_apart(before, after, tmp_path):
    with pytest.raises(InputError, match="1 names for 2"):
        run(Config(input=[before, after], names=["a"], out=tmp_path / "out"))
    with pytest.raises(InputError, match="both called"):
        run(Config(input=[before, before], out=tmp_path / "out"))
    run(Config(input=[before, after], out=tmp_path / "out"))
    assert set(json.loads((tmp_path / "out/comparison.json").read_text())["scores"]) == {
        "before/scored",
        "after/scored",
    }


def test_a_directory_without_an_evaluation_is_named(before, tmp_path):
    with pytest.raises(InputError, match='run "medkd evaluate" first'):
        run(Config(input=[before, tmp_path], out=tmp_path / "out"))


def test_many_lines_of_tests_are_corrected():
    weak = compare_paired([0.0] * 20 + [1.0] * 20, [1.0] * 6 + [0.0] * 14 + [1.0] * 20)
    assert weak.p < 0.05
    assert show_tests({"m": {"a": weak}})[0]["is_significant"]
    assert not any(
        line["is_significant"] for line in show_tests({"m": {str(n): weak for n in range(8)}})
    )


def damage_rows(folder):
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("".join(line + "\n" for line in lines[1:]))


def damage_predictions(folder):
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    (folder / "predictions.jsonl").write_text("".join(line + "\n" for line in lines[1:]))


def damage_ids(folder):
    text = (folder / "rows.jsonl").read_text()
    (folder / "rows.jsonl").write_text(text.replace('"row:3"', '"row:2"'))


def damage_values(folder):
    text = (folder / "rows.jsonl").read_text()
    (folder / "rows.jsonl").write_text(
        text.replace('"diagnosis_accuracy":0.0', '"diagnosis_accuracy":1.0')
    )


def damage_scores(folder):
    (folder / "scores.json").write_text("[]")


@pytest.mark.parametrize(
    "damage", [damage_rows, damage_predictions, damage_ids, damage_values, damage_scores]
)
def test_files_that_are_not_of_one_evaluation_are_refused(before, after, tmp_path, damage):
    damage(after)
    with pytest.raises(InputError, match=r"(rows.jsonl|scores.json): .*again"):
        run(Config(input=[before, after], names=["a", "b"], out=tmp_path / "out"))


def test_turned_round_it_is_another_comparison(before, after, tmp_path):
    run(Config(input=[before, after], out=tmp_path / "out"))
    with pytest.raises(InputError, match="choose another --out"):
        run(Config(input=[after, before], out=tmp_path / "out"))
