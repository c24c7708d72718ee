"""A person's judgement overrules the checks."""

from pathlib import Path

from medkd.core.records import Checked, Cost, Question, Rationale, Usage, Verdict
from medkd.core.reviews import Decision, Review, add_review
from medkd.merge.stage import Config, run
from student_samples import read_lines


def make_checked(number: int, *verdicts: Verdict) -> Checked:
    signs = (
        "发热咳嗽",
        "头晕乏力",
        "腹痛呕吐",
        "胸闷气短",
        "关节肿痛",
        "皮疹瘙痒",
        "咯血盗汗",
        "尿频尿急",
    )
    question = Question(
        id=f"q:{number}", case_id=f"q:{number}", source="site", system="S", instruction="I",
        input=f"【主诉】{signs[number]}{number + 2}天", reference="肺炎", split="train", deidentified_by="rules 1",
    )  # fmt: skip
    rationale = Rationale(
        id=f"q:{number}", question=question, reasoning=f"理由{number}", answer="肺炎", finish_reason="stop", complete=True, model="teacher",
        mode="rationalize", attempts=1, usage=Usage(), cost=Cost(),
    )  # fmt: skip
    return Checked(rationale=rationale, verdicts=verdicts)


def write(path: Path, rows: list[Checked]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")


def test_merge_honours_what_people_decided(tmp_path: Path) -> None:
    verified = tmp_path / "verify"
    failed = Verdict(check="length", passed=False, reason="too_short")
    write(verified / "verified.jsonl", [make_checked(n) for n in range(4)])
    write(verified / "rejected.jsonl", [make_checked(n, failed) for n in (4, 5)])
    unsure = Verdict(check="answer", passed=False, reason="undecided")
    write(verified / "undecided.jsonl", [make_checked(n, unsure) for n in (6, 7)])
    config = Config(input=(verified,), out=tmp_path / "merge", near=1, val_share=0, test_share=0)
    assert run(config).counts.kept == 4

    add_review(verified, Review(id="q:0", reviewer="a", decision=Decision.REJECT, reason="wrong"))
    add_review(
        verified,
        Review(
            id="q:1",
            reviewer="a",
            decision=Decision.EDIT,
            reasoning="改过的理由",
            answer=" 支气管肺炎 ",
        ),
    )
    add_review(verified, Review(id="q:2", reviewer="a", decision=Decision.ACCEPT))
    add_review(verified, Review(id="q:4", reviewer="a", decision=Decision.ACCEPT))
    add_review(verified, Review(id="q:6", reviewer="a", decision=Decision.ACCEPT))
    manifest = run(config.model_copy(update={"overwrite": True}))
    rows = {row["id"]: row for row in read_lines(tmp_path / "merge" / "train.jsonl")}
    assert set(rows) == {"q:1", "q:2", "q:3", "q:4", "q:6"}
    assert (rows["q:1"]["reasoning"], rows["q:1"]["answer"]) == ("改过的理由", "支气管肺炎")
    assert rows["q:4"]["reasoning"] == "理由4"
    assert manifest.counts.dropped == {"rejected_by_reviewer": 1}


def test_a_new_judgement_makes_the_merge_begin_again(tmp_path: Path) -> None:
    verified = tmp_path / "verify"
    write(verified / "verified.jsonl", [make_checked(n) for n in range(3)])
    config = Config(input=(verified,), out=tmp_path / "merge", near=1)
    first = run(config)
    add_review(verified, Review(id="q:0", reviewer="a", decision=Decision.REJECT))
    second = run(config.model_copy(update={"overwrite": True}))
    assert first.inputs != second.inputs
    assert run(config) == second
