"""Preference pairs and replayed rows: what is set beside the rows to train on."""

import json
from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.jsonl import write_records
from medkd.core.records import (
    Checked,
    Cost,
    Prediction,
    Preference,
    Question,
    Rationale,
    Usage,
    Verdict,
)
from medkd.core.reviews import Decision, Review, add_review
from medkd.merge.stage import Config, run

INPUTS = [
    "【主诉】腹痛3天，伴发热与恶心。",
    "【主诉】头痛1周，视物成双。",
    "【主诉】咳嗽2月，咯血一次。",
]


def make_rationale(number: int, answer: str, split: str = "train", complete: bool = True):
    question = Question(
        id=f"q:{number}", case_id=f"q:{number}", source="site", system="", instruction="",
        input=INPUTS[number], reference="急性阑尾炎", split=split, deidentified_by="rules 1",
    )  # fmt: skip
    return Rationale(
        id=f"q:{number}", question=question, reasoning=f"想到{answer}，理由充分。", answer=answer,
        finish_reason="stop", complete=complete, model="teacher", mode="solve", attempts=1,
        usage=Usage(), cost=Cost(),
    )  # fmt: skip


def check(rationale: Rationale, reason: str = "") -> Checked:
    verdict = Verdict(check="answer", passed=not reason, reason=reason)
    return Checked(rationale=rationale, verdicts=(verdict,))


def predict(number: int, answer: str) -> Prediction:
    return Prediction(
        id=f"q:{number}#2", prompt="p", question=INPUTS[number], reasoning="乱想", answer=answer,
        raw="", reference="急性阑尾炎", finish_reason="stop", n_tokens=3,
    )  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three questions with a right row each, the last one in test."""
    for name in ("verify", "distill", "evaluate"):
        (tmp_path / name).mkdir()
    splits = ("train", "train", "test")
    right = [check(make_rationale(n, "急性阑尾炎", s)) for n, s in enumerate(splits)]
    write_records(tmp_path / "verify" / "verified.jsonl", right)
    rejected = [
        check(make_rationale(0, "感冒"), "wrong_diagnosis"),
        check(make_rationale(0, "胃炎", complete=False), "incomplete"),
    ]
    write_records(tmp_path / "verify" / "rejected.jsonl", rejected)
    write_records(tmp_path / "distill" / "wrong.jsonl", [make_rationale(1, "胃炎")])
    predictions = [
        predict(0, "肠炎"),
        predict(0, "肠炎"),
        predict(1, "急性阑尾炎"),
        predict(2, "胃炎"),
    ]
    write_records(tmp_path / "evaluate" / "predictions.jsonl", predictions)
    return tmp_path


def merge(folders: Path, **more):
    given = {"input": folders / "verify", "out": folders / "merge", "bare_share": 1.0, **more}
    return run(Config.model_validate(given))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_worse_answers_of_every_kind_stand_beside_the_right_row_of_their_question(folders, capsys):
    pairs = [folders / name for name in ("verify", "distill", "evaluate")]
    manifest = merge(folders, pairs=pairs)
    found = [
        Preference.model_validate(row) for row in read_lines(folders / "merge/preferences.jsonl")
    ]
    said = {(p.input, p.rejected.answer, p.rejected.why, p.rejected.origin) for p in found}
    assert said == {
        (INPUTS[0], "感冒", "wrong_diagnosis", "teacher"),
        (INPUTS[0], "肠炎", "wrong", "student"),
        (INPUTS[1], "胃炎", "wrong", "teacher"),
    }
    assert {p.answer for p in found} == {"急性阑尾炎"} and len({p.id for p in found}) == 3
    facts = manifest.facts["pairs"]
    assert (facts["n"], facts["questions"], facts["without_row"]) == (3, 2, 1)
    assert "merge: 3 pairs of 2 questions; worse because" in capsys.readouterr().err


def test_pairs_stand_in_the_forms_of_trl_and_llamafactory(folders):
    merge(folders, pairs=folders / "distill")
    (row,) = read_lines(folders / "merge" / "messages" / "preferences.jsonl")
    assert row["prompt"] == [{"role": "user", "content": INPUTS[1]}]
    worse = "<think>\n想到胃炎，理由充分。\n</think>\n\n胃炎"
    assert row["rejected"] == [{"role": "assistant", "content": worse}]
    assert row["chosen"][0]["content"].endswith("急性阑尾炎")
    folder = folders / "merge" / "llamafactory"
    (ranked,) = json.loads((folder / "medkd_preferences.json").read_text("utf-8"))
    assert ranked["rejected"] == worse and ranked["input"] == INPUTS[1]
    entry = json.loads((folder / "dataset_info.json").read_text())["medkd_preferences"]
    assert entry["ranking"] is True and entry["columns"]["chosen"] == "chosen"


def test_a_persons_word_decides_which_side_a_row_is_on(folders):
    for number, decision in ((0, Decision.ACCEPT), (1, Decision.REJECT)):
        review = Review(id=f"q:{number}", reviewer="a", decision=decision)
        add_review(folders / "verify", review)
    merge(folders, pairs=folders / "verify", val_share=0.0)
    assert read_lines(folders / "merge" / "preferences.jsonl") == []


def test_what_rules_left_open_is_worse_where_a_judge_says_so(folders):
    undecided = predict(1, "多喝水").model_copy(update={"task": "open-question"})
    write_records(folders / "evaluate" / "predictions.jsonl", [undecided])
    scores = {"judged_decided": 1.0, "judged_accuracy": 0.0}
    row = {"id": "q:1#2", "scores": scores}
    (folders / "evaluate" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    merge(folders, pairs=folders / "evaluate")
    whys = [p["rejected"]["why"] for p in read_lines(folders / "merge" / "preferences.jsonl")]
    assert whys == ["judged_wrong"]
    (folders / "evaluate" / "rows.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:1: .*; this is no Row file"):
        merge(folders, pairs=folders / "evaluate", overwrite=True)


def test_a_directory_without_worse_answers_is_one_line(folders):
    (folders / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no worse answers there"):
        merge(folders, pairs=folders / "empty")


def test_general_rows_are_mixed_in_by_their_share_bare_and_counted_apart(folders):
    rows = [
        {"instruction": f"写第{n}首关于{'山水花鸟'[n % 4]}的诗，要{n * n}行", "output": f"诗{n}"}
        for n in range(40)
    ]
    (folders / "general.json").write_text(json.dumps(rows), "utf-8")
    rights = [
        check(make_rationale(n % 2, "急性阑尾炎").model_copy(update={"id": f"q:{n}"}))
        for n in range(2)
    ]
    write_records(folders / "verify" / "verified.jsonl", rights)
    manifest = merge(folders, replay=f"{folders / 'general.json'}=2", bare_share=0.0)
    assert manifest.facts["replay"] == 4
    assert manifest.counts.dropped == {"over_cap": 36}
    written = read_lines(folders / "merge" / "train.jsonl")
    general = [row for row in written if row["source"] == "replay/general"]
    assert len(general) == 4 and {row["style"] for row in general} == {"bare"}
    assert {row["style"] for row in written if row not in general} == {"instructed"}
    with pytest.raises(InputError, match="is no share; write"):
        merge(folders, replay=f"{folders / 'general.json'}=-1", overwrite=True)
