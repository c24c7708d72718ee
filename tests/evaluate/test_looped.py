"""From looped answers to the rows that taught them, on a student that was really spoiled."""

import json
import shutil

import pytest

from medkd.core.records import Prediction
from medkd.evaluate.looped import Flaw, find_flaws, has_looped, tell_stops, trace
from medkd.evaluate.stage import Config, run
from medkd.train.stage import Config as TrainConfig
from medkd.train.stage import run as train
from student_samples import make_example, write_examples

LOOPING = "sign a means flu. " * 7


def predict(number: int, raw: str, finish_reason: str = "loop") -> Prediction:
    return Prediction(
        id=f"asked:{number}",
        prompt="?",
        reasoning="",
        answer="",
        raw=raw,
        reference="flu",
        finish_reason=finish_reason,
        n_tokens=9,
    )


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


def test_looped_answers_lead_to_the_rows_that_taught_them(
    spoiled, random_model_dir, tmp_path, capsys
):
    run(
        Config(
            model=str(random_model_dir),
            adapter=spoiled / "train",
            input=spoiled,
            max_tokens=192,
            out=tmp_path,
        )
    )
    traced = json.loads((tmp_path / "breakdown.json").read_text())["loops"]
    looped = {answer["id"] for answer in traced["answers"]}
    assert len(looped) >= 3 and all(int(number.split(":")[1]) % 3 == 0 for number in looped)
    for answer in traced["answers"]:
        assert answer["says"].startswith(("sign a means flu", "<think>"))
        assert all(
            int(row["id"].split(":")[1]) % 3 == 0 and row["flaws"] == [Flaw.REPEATS]
            for row in answer["rows"]
        )
    assert (
        f"{len(looped)} of {len(looped)} looped answers are like a training row that repeats itself"
        in traced["lines"][0]
    )
    assert "loops: In all, 8 of 24 training rows: repeats itself" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert "What taught it to loop?" in page and "made:0" in page


def test_a_student_that_does_not_loop_has_nothing_to_trace(
    random_model_dir, trained_dir, merged_dir, tmp_path
):
    run(
        Config(
            model=str(random_model_dir),
            adapter=trained_dir,
            input=merged_dir,
            max_tokens=96,
            out=tmp_path,
        )
    )
    assert "loops" not in json.loads((tmp_path / "breakdown.json").read_text())
    assert "What taught it to loop?" not in (tmp_path / "report.html").read_text()


def test_without_a_lineage_the_page_says_that_the_rows_are_unknown(
    spoiled, random_model_dir, tmp_path
):
    shutil.copytree(spoiled / "train/adapter", tmp_path / "moved")
    run(
        Config(
            model=str(random_model_dir),
            adapter=tmp_path / "moved",
            input=spoiled,
            max_tokens=192,
            out=tmp_path / "out",
        )
    )
    assert "no lineage leads to the rows" in (tmp_path / "out/report.html").read_text()


def test_a_row_that_says_it_as_often_is_nearer_than_one_that_says_it_once(tmp_path):
    once, often = (
        make_example(1, reasoning="sign a means flu, says the book."),
        make_example(2, reasoning=LOOPING),
    )
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(
            row.model_dump_json() + "\n"
            for row in (once, often, make_example(3, reasoning="Zwölf Boxkämpfer."))
        )
    )
    (answer,) = trace([predict(1, LOOPING * 2)], path).answers
    assert [row.id for row in answer.rows] == ["made:2", "made:1"]
    assert answer.rows[0].likeness > 0.95 > answer.rows[1].likeness


def test_rows_that_were_cut_off_are_told_from_whole_ones():
    assert find_flaws(make_example(1, reasoning="The patient has a fev")) == (Flaw.ENDS_EARLY,)
    assert find_flaws(
        make_example(
            1,
            reasoning="发热三天。",
            answer="考虑"
            + "社区获得性肺炎，" * 2
            + "建议完善胸部影像学检查并予以抗感染治疗同时注意补液对症支持",
        )
    ) == (Flaw.ENDS_EARLY,)
    assert find_flaws(make_example(1, reasoning="发热三天（体温39℃）。", answer="脑积水")) == ()


def test_rows_without_a_flaw_are_said_to_be_without_one(tmp_path):
    path = write_examples(tmp_path / "train.jsonl", range(4), reasoning="Short and whole.")
    traced = trace([predict(n, LOOPING) for n in range(60)], path)
    assert len(traced.answers) == 50 and traced.lines[0] == "50 of 60 looped answers are traced."
    assert "None of 4 training rows" in traced.lines[1]


def test_a_finished_answer_that_repeats_itself_counts_too():
    assert has_looped(predict(1, LOOPING, "stop")) and not has_looped(predict(1, "flu", "stop"))


def test_a_model_that_stops_elsewhere_is_named(random_model_dir, trained_dir):
    (line,) = tell_stops(random_model_dir, random_model_dir)
    assert "does not stop on <|im_end|>" in line
    assert tell_stops(trained_dir / "adapter", random_model_dir) == []
