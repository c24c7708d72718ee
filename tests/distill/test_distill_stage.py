import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from ledger_reading import list_attempts
from medkd.completers.endpoint import make_body
from medkd.completers.ledger import FILE_NAME
from medkd.completers.outcomes import AttemptOutcome
from medkd.completers.providers import find_target
from medkd.core.errors import InputError, StoppedError
from medkd.core.jsonl import write_records
from medkd.core.records import Completion, Question, Rationale, Request, Sampling
from medkd.core.stage_output import read_manifest
from medkd.core.task import find_task
from medkd.demo.dialogue import Fault
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import RehearsalTeacher, serve_teacher
from medkd.distill.bill import bill, render
from medkd.distill.courses import Method, PromptSetup, distill
from medkd.distill.stage import Config, make_method, run


def make_questions(n: int) -> list[Question]:
    return [
        Question(
            id=f"case:{i}", case_id=f"case:{i}", source="test", system="s", instruction="i",
            input=f"【主诉】发热伴头痛{i}天。【查体】颈强直，体温39.{i}℃。", reference=f"化脓性脑膜炎{i}型",
            split=("train", "val", "test")[i % 3], deidentified_by="rules 1",
        )
        for i in range(n)
    ]  # fmt: skip


def write_questions(path: Path, questions: list[Question]) -> Path:
    write_records(path, questions)
    return path


def make_config(tmp_path: Path, base_url: str, **more) -> Config:
    return Config(
        out=tmp_path / "distill",
        input=tmp_path / "questions.jsonl",
        teacher="rehearsal",
        base_url=base_url,
        **more,
    )


def read_rationales(tmp_path: Path) -> list[Rationale]:
    return [
        Rationale.model_validate_json(line)
        for line in (tmp_path / "distill" / "rationales.jsonl").read_text("utf-8").splitlines()
    ]


class ScriptedTeacher:
    """A teacher in memory."""

    def __init__(self, answer: Callable[[Request], Completion]) -> None:
        self._answer = answer
        self.answers: dict[str, Completion] = {}

    def run(
        self,
        labelled: Iterable[tuple[str, Request]],
        n_requests: int,
        follow: Callable[[str], Iterable[tuple[str, Request]]],
    ) -> None:
        waiting = list(labelled)
        assert len(waiting) <= n_requests
        while waiting:
            label, request = waiting.pop(0)
            self.answers[request.model_dump_json()] = self._answer(request)
            waiting += follow(label)

    def recall(self, request: Request) -> Completion | None:
        return self.answers.get(request.model_dump_json())


def explain(
    questions: list[Question], teachers: Sequence[ScriptedTeacher], method: Method
) -> list[Rationale]:
    courses = distill(questions, teachers, method, len(questions))
    return [rationale for course in courses for rationale in course.list_kept()]


def test_questions_in_memory_are_explained_by_any_teacher():
    teacher = ScriptedTeacher(
        lambda request: (
            Completion(text="<think>发热、颈强直</think>脑膜炎", attempts=2)
            if request.sample
            else Completion(text="不知道")
        )
    )
    setup = PromptSetup("rationalize", Sampling(), find_task)
    plain, good = explain(
        make_questions(1), [teacher], Method(["any"], setup, n_tries=2, n_keep=2, is_graded=False)
    )
    assert (plain.id, plain.complete, plain.reasoning, plain.answer) == (
        "case:0",
        False,
        "",
        "不知道",
    )
    assert (good.id, good.complete, good.reasoning, good.answer, good.attempts) == (
        "case:0#1",
        True,
        "发热、颈强直",
        "脑膜炎",
        2,
    )


def test_every_question_of_every_split_is_explained_in_order_through_faults(tmp_path):
    questions = make_questions(40)
    write_questions(tmp_path / "questions.jsonl", questions)
    with serve_teacher(latency_s=0.001, faults=0.2, seed=5) as teacher:
        manifest = run(make_config(tmp_path, teacher.base_url))
        n_asked = teacher.bill.requests
        assert run(make_config(tmp_path, teacher.base_url)).counts == manifest.counts
        assert teacher.bill.requests == n_asked
    rationales = read_rationales(tmp_path)
    assert [r.question for r in rationales] == questions
    assert all(
        r.complete and r.answer == r.question.reference and "体温39." in r.reasoning
        for r in rationales
    )
    assert (manifest.counts.read, manifest.counts.kept, manifest.state) == (40, 40, "finished")
    assert manifest.cost.amount >= round(teacher.bill.amount, 6)
    assert manifest.facts["mode"] == "rationalize"


def test_solving_thinks_beside_the_content(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(2))
    with serve_teacher(latency_s=0) as teacher:
        run(make_config(tmp_path, teacher.base_url, mode="solve"))
    for rationale in read_rationales(tmp_path):
        assert rationale.complete
        assert rationale.usage.reasoning > 0
        assert "<" not in rationale.reasoning
        assert rationale.answer == "诊断不明"


def test_an_edited_row_is_bought_alone_and_a_new_order_costs_nothing(tmp_path):
    questions = make_questions(12)
    write_questions(tmp_path / "questions.jsonl", questions)
    with serve_teacher(latency_s=0) as teacher:
        run(make_config(tmp_path, teacher.base_url))
        edited = [
            questions[0].model_copy(update={"input": "【主诉】抽搐1天。【查体】颈强直。"}),
            *reversed(questions[1:]),
        ]
        write_questions(tmp_path / "questions.jsonl", edited)
        manifest = run(make_config(tmp_path, teacher.base_url))
        assert teacher.bill.requests == 13
    assert manifest.facts["bought"] == 1
    assert [r.id for r in read_rationales(tmp_path)] == [q.id for q in edited]


def test_a_failed_question_is_a_record_with_its_reason(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(3))
    with serve_teacher(latency_s=0, script=[Fault.BAD_REQUEST]) as teacher:
        manifest = run(make_config(tmp_path, teacher.base_url, concurrency=1))
    failed, *others = read_rationales(tmp_path)
    assert (failed.complete, failed.finish_reason, failed.reasoning) == (False, "refused", "")
    assert all(r.complete for r in others)
    assert (manifest.counts.kept, manifest.facts["failed"], manifest.facts["incomplete"]) == (
        3,
        1,
        1,
    )


def test_a_stopped_run_keeps_what_was_paid_and_the_same_command_goes_on(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(30))
    with serve_teacher(latency_s=0) as teacher:
        with pytest.raises(StoppedError, match="--budget"):
            run(make_config(tmp_path, teacher.base_url, budget=0.02))
        n_first = len(read_rationales(tmp_path))
        assert read_manifest(tmp_path / "distill").state == "stopped"
        assert bill(tmp_path).missing == 30 - n_first > 0
        run(make_config(tmp_path, teacher.base_url))
        assert teacher.bill.requests == 30
    assert len(read_rationales(tmp_path)) == 30
    assert bill(tmp_path / "distill").rerun == {"CNY": 0.0}


def stop_half_way(config: Config, teacher: RehearsalTeacher, *how: signal.Signals) -> int:
    """Run the stage in a process of its own and send it signals once about a quarter of the answers
    came."""
    enough = teacher.bill.billed + 16
    script = "import sys\nfrom medkd.distill.stage import Config, run\nrun(Config.model_validate_json(sys.argv[1]))"
    said_path = config.out.parent / "said.txt"
    with said_path.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", script, config.model_dump_json()], stderr=said
        )
    wait_until(lambda: teacher.bill.billed >= enough)
    time.sleep(0.6)
    for number, one in enumerate(how):
        process.send_signal(one)
        if number + 1 < len(how):
            wait_until(lambda: "Ctrl-C again" in said_path.read_text())
    return process.wait(timeout=60)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_killed_run_goes_on_and_buys_nothing_complete_again(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(60))
    with serve_teacher(latency_s=0.02, pace_s=0.05) as teacher:
        config = make_config(tmp_path, teacher.base_url, concurrency=8)
        assert stop_half_way(config, teacher, signal.SIGKILL) == -signal.SIGKILL
        complete = {
            a.item
            for a in list_attempts(tmp_path / "distill" / FILE_NAME)
            if a.outcome is AttemptOutcome.COMPLETE
        }
        assert 8 <= len(complete) < 60
        run(config)
    attempts = list_attempts(tmp_path / "distill" / FILE_NAME)
    n_complete = Counter(a.item for a in attempts if a.outcome is AttemptOutcome.COMPLETE)
    n_unknown = Counter(a.item for a in attempts if a.outcome is AttemptOutcome.UNKNOWN)
    assert len(n_complete) == 60
    assert max(n_complete.values()) == 1
    assert 1 <= sum(n_unknown.values()) <= 8
    assert max(n_unknown.values()) == 1
    assert not complete & set(n_unknown)
    assert all(r.complete for r in read_rationales(tmp_path))


def test_the_first_interrupt_finishes_what_runs_and_the_second_stops_now(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(100))
    with serve_teacher(latency_s=0.02, pace_s=0.15) as teacher:
        config = make_config(tmp_path, teacher.base_url, concurrency=16)
        assert stop_half_way(config, teacher, signal.SIGINT) != 0
        attempts = list_attempts(tmp_path / "distill" / FILE_NAME)
        assert {a.outcome for a in attempts} == {AttemptOutcome.COMPLETE}
        assert len(attempts) == teacher.bill.requests < 60
        assert stop_half_way(config, teacher, signal.SIGINT, signal.SIGINT) != 0
    outcomes = Counter(a.outcome for a in list_attempts(tmp_path / "distill" / FILE_NAME))
    assert set(outcomes) == {AttemptOutcome.COMPLETE, AttemptOutcome.INTERRUPTED}
    assert (
        sum(r.complete for r in read_rationales(tmp_path))
        == outcomes[AttemptOutcome.COMPLETE]
        < 100
    )
    assert read_manifest(tmp_path / "distill").state == "stopped"


def test_a_termination_stops_at_once_and_the_same_command_goes_on_from_the_text(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(48))
    with serve_teacher(latency_s=0.02, pace_s=0.15) as teacher:
        config = make_config(tmp_path, teacher.base_url, concurrency=16)
        assert stop_half_way(config, teacher, signal.SIGTERM) != 0
        assert {a.outcome for a in list_attempts(tmp_path / "distill" / FILE_NAME)} == {
            AttemptOutcome.COMPLETE,
            AttemptOutcome.INTERRUPTED,
        }
    with serve_teacher(latency_s=0) as teacher:
        run(config.model_copy(update={"base_url": (teacher.base_url,)}))
        assert teacher.bill.n_gone_on > 0
    assert all(r.complete and r.reasoning.count("因此考虑") == 1 for r in read_rationales(tmp_path))


def test_broken_lines_are_counted(tmp_path):
    path = write_questions(tmp_path / "questions.jsonl", make_questions(3))
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[1][:40], lines[2]]), "utf-8")
    with serve_teacher(latency_s=0) as teacher:
        manifest = run(make_config(tmp_path, teacher.base_url))
        assert teacher.bill.requests == 2
    counts = manifest.counts
    assert (counts.read, counts.kept, counts.dropped) == (3, 2, {"broken_line": 1})


@pytest.mark.parametrize("mark", [None, "", "  "])
def test_questions_without_a_mark_are_sent_only_where_somebody_accepts_them(tmp_path, mark):
    path = write_questions(tmp_path / "questions.jsonl", make_questions(3))
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows[1]["deidentified_by"] = mark
    if mark is None:
        del rows[1]["deidentified_by"]
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    with serve_teacher(latency_s=0) as teacher:
        with pytest.raises(InputError, match=r"1 of 3 rows have no deidentified_by.*--accept-id"):
            run(make_config(tmp_path, teacher.base_url))
        assert teacher.bill.requests == 0
        assert run(make_config(tmp_path, teacher.base_url, accept_identified=True)).counts.kept == 3
    verified = [
        rationale.question.deidentified_by.strip() for rationale in read_rationales(tmp_path)
    ]
    assert verified == ["rules 1", "", "rules 1"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"teacher": "deepseek"}, "DEEPSEEK_API_KEY"),
        ({"teacher": "rehersal"}, "did you mean 'rehearsal'"),
        (
            {"teacher": "custom", "model": "m", "base_url": "http://127.0.0.1:9/v1", "budget": 1.0},
            "no price is known",
        ),
        ({"input": "nowhere"}, 'run "medkd prepare" first'),
    ],
)
def test_an_unusable_config_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, more, said
):
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    write_questions(tmp_path / "questions.jsonl", make_questions(1))
    with pytest.raises(InputError, match=said):
        run(
            Config.model_validate(
                {"out": tmp_path / "distill", "input": tmp_path / "questions.jsonl"} | more
            )
        )
    assert not (tmp_path / "distill").exists()


@pytest.mark.parametrize("field", ["samples", "max_tokens", "concurrency"])
def test_numbers_beyond_measure_are_refused(tmp_path, field):
    with pytest.raises(ValidationError, match="less than or equal"):
        make_config(tmp_path, "", **{field: 10**20})


def test_the_bill_says_what_was_wasted_and_why(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(6))
    own = tmp_path / "providers.yaml"
    own.write_text("rehearsal: {prefix: null}\n")
    with serve_teacher(latency_s=0, script=[Fault.CUT, Fault.OVERLOADED, None]) as teacher:
        run(make_config(tmp_path, teacher.base_url, concurrency=1, providers=own))
    found = bill(tmp_path)
    by_outcome = {line.outcome: line for line in found.lines}
    assert {name: line.attempts for name, line in by_outcome.items()} == {
        "complete": 6,
        "cut": 1,
        "overloaded": 1,
    }
    assert by_outcome["complete"].wasted == by_outcome["overloaded"].amount == 0
    assert found.wasted["CNY"] == by_outcome["cut"].amount > 0
    assert (found.items, found.answered, found.unknown, found.missing) == (6, 6, 0, 0)
    assert sum(day.attempts for day in found.days) == 8
    assert sum(day.amount for day in found.days) == pytest.approx(found.amounts["CNY"])
    text = render(found)
    assert "6 of 6 items answered in 8 attempts" in text
    assert "(cut)" in text
    assert "rerun    0.0000 CNY" in text


def test_the_bill_says_where_no_price_is_known(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(2))
    with serve_teacher(latency_s=0) as teacher:
        config = {"teacher": "custom", "model": "any", "base_url": teacher.base_url}
        run(
            Config.model_validate(
                {"out": tmp_path / "distill", "input": tmp_path / "questions.jsonl"} | config
            )
        )
    assert bill(tmp_path).unpriced == 2
    assert "no price is known for 2 attempts" in render(bill(tmp_path))


def test_a_reply_of_another_model_than_was_asked_is_told_and_stands_on_the_bill(tmp_path, capsys):
    write_questions(tmp_path / "questions.jsonl", make_questions(3))
    with serve_teacher(latency_s=0) as teacher:
        given = {"teacher": "custom", "model": "v4-pro", "base_url": teacher.base_url}
        paths = {"out": tmp_path / "distill", "input": tmp_path / "questions.jsonl"}
        run(Config.model_validate(paths | given))
    said = capsys.readouterr().err
    assert said.count("asked for v4-pro, the reply says that rehearsal answered") == 1
    assert [tuple(one) for one in bill(tmp_path).served] == [("v4-pro", "rehearsal", 3)]
    assert "answered 3 attempts at v4-pro by rehearsal, as the replies say" in render(
        bill(tmp_path)
    )


def test_a_place_without_a_ledger_has_no_bill(tmp_path):
    with pytest.raises(InputError, match=r"no ledger\.sqlite"):
        bill(tmp_path)


def test_a_broken_answer_that_was_gone_on_from_is_no_waste(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(3))
    with serve_teacher(latency_s=0, script=[Fault.CUT, Fault.LENGTH]) as teacher:
        run(make_config(tmp_path, teacher.base_url, concurrency=1))
        assert teacher.bill.n_gone_on == 2
    assert (bill(tmp_path).wasted, bill(tmp_path).attempts) == ({"CNY": 0.0}, 5)


def test_the_bill_prices_a_rerun_of_the_questions_as_they_are_now(tmp_path):
    questions = make_questions(8)
    path = write_questions(tmp_path / "questions.jsonl", questions)
    with serve_teacher(latency_s=0) as teacher:
        run(make_config(tmp_path, teacher.base_url))
    assert (bill(tmp_path).missing, bill(tmp_path).rerun) == (0, {"CNY": 0.0})
    write_questions(
        path, [questions[0].model_copy(update={"input": "【主诉】抽搐1天。"}), *questions[1:]]
    )
    assert bill(tmp_path).missing == 1
    assert 0 < bill(tmp_path).rerun["CNY"] < 2 * sum(bill(tmp_path).amounts.values()) / 8
    path.unlink()
    assert bill(tmp_path).missing is None


def test_a_dry_run_prices_the_job_and_sends_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    write_questions(tmp_path / "questions.jsonl", make_questions(20))
    run(
        Config(
            out=tmp_path / "distill",
            input=tmp_path / "questions.jsonl",
            teacher="deepseek",
            dry_run=True,
        )
    )
    said = capsys.readouterr().out
    assert "deepseek deepseek-flash: 20 answers wanted, 0 on the ledger, 20 to buy" in said
    assert "700 each (assumed" in said
    assert "in the dear hours" in said
    assert not (tmp_path / "distill").exists()


def test_a_dry_run_counts_what_is_on_the_ledger_and_learns_from_it(tmp_path, capsys):
    write_questions(tmp_path / "questions.jsonl", make_questions(10))
    with serve_teacher(latency_s=0) as teacher:
        run(make_config(tmp_path, teacher.base_url))
        paid = teacher.bill.amount
        capsys.readouterr()
        write_questions(tmp_path / "questions.jsonl", make_questions(20))
        run(make_config(tmp_path, teacher.base_url, dry_run=True))
        assert teacher.bill.requests == 10
        said = capsys.readouterr().out
        assert "20 answers wanted, 10 on the ledger, 10 to buy" in said
        forecast = float(re.search(r"about ([\d.]+) CNY", said)[1])
        run(make_config(tmp_path, teacher.base_url))
        assert forecast == pytest.approx(teacher.bill.amount - paid, rel=0.15)


def test_where_the_blind_answer_is_wrong_the_fallback_explains_the_known_one_and_says_so(tmp_path):
    known = generate_cases(40, seed=7)[0]
    names = ("基本信息", "主诉", "现病史", "既往史", "查体", "辅助检查")
    record = " ".join(
        f"【{name}】{known.sections[name]}" for name in names if name in known.sections
    )
    solvable = make_questions(1)[0].model_copy(
        update={"id": "case:known", "input": record, "reference": "；".join(known.diagnosis[:1])}
    )
    write_questions(tmp_path / "questions.jsonl", [solvable, *make_questions(2)])
    with serve_teacher(latency_s=0) as teacher:
        config = make_config(
            tmp_path, teacher.base_url, mode="solve", fallback="rationalize", samples=2
        )
        run(config)
        assert teacher.bill.requests == 6 + 2
        run(config.model_copy(update={"overwrite": True}))
        assert teacher.bill.requests == 8
    rationales = read_rationales(tmp_path)
    assert [r.mode for r in rationales] == ["solve"] * 2 + ["rationalize"] * 2
    assert all(r.complete and r.answer == r.question.reference for r in rationales)
    assert [r.attempts for r in rationales] == [1, 1, 3, 3]
    assert bill(tmp_path).missing == 0


def test_a_file_of_raw_cases_is_refused_before_anything_is_sent(tmp_path):
    case = {
        "id": "iiyi:1",
        "source": "iiyi",
        "sections": {"主诉": "张三，发热"},
        "diagnosis": ["肺炎"],
    }
    (tmp_path / "questions.jsonl").write_text(json.dumps(case) + "\n", "utf-8")
    with serve_teacher(latency_s=0) as teacher:
        with pytest.raises(
            InputError, match=r'a raw case, no deidentified_by; run "medkd deidentify"'
        ):
            run(make_config(tmp_path, teacher.base_url))
        assert teacher.bill.requests == 0


def test_a_question_too_long_for_the_context_is_a_record_with_its_reason_and_is_not_sent(tmp_path):
    long, *others = make_questions(3)
    write_questions(
        tmp_path / "questions.jsonl",
        [long.model_copy(update={"input": "发热。" * 60_000}), *others],
    )
    with serve_teacher(latency_s=0) as teacher:
        manifest = run(make_config(tmp_path, teacher.base_url))
        assert teacher.bill.requests == 2
    assert [r.finish_reason for r in read_rationales(tmp_path)] == ["too_long", "stop", "stop"]
    assert manifest.facts["incomplete"] == 1


def test_the_effort_goes_to_the_teacher_in_the_providers_field(tmp_path):
    question, target = make_questions(1)[0], find_target("rehearsal")
    config = make_config(tmp_path, "", effort="max", thinking=True)
    request = make_method(config, ["rehearsal"]).first.make_request(question)
    body = make_body(target, request)
    assert (body["reasoning_effort"], body["thinking"]) == ("max", {"type": "enabled"})


def test_an_effort_that_no_teacher_can_be_told_is_refused_before_anything_is_sent(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(1))
    given = {"input": tmp_path / "questions.jsonl", "out": tmp_path / "distill", "effort": "max"}
    with pytest.raises(InputError, match="--effort: dashscope has no such setting"):
        run(Config(**given, teacher="dashscope", dry_run=True))
    run(Config(**given, teachers=("dashscope", "deepseek"), mode="solve", dry_run=True))


def test_the_bill_of_a_directory_of_version_0_1_still_prices_a_rerun(tmp_path):
    write_questions(tmp_path / "questions.jsonl", make_questions(4))
    with serve_teacher(latency_s=0) as teacher:
        run(make_config(tmp_path, teacher.base_url))
        path = tmp_path / "distill" / "manifest.json"
        manifest = json.loads(path.read_text("utf-8"))
        del manifest["config"]["task"]
        manifest["config"]["language"] = "zh"
        path.write_text(json.dumps(manifest), encoding="utf-8")
        write_questions(tmp_path / "questions.jsonl", make_questions(5))
        assert bill(tmp_path / "distill").missing == 1
        n_asked = teacher.bill.requests
        run(make_config(tmp_path, teacher.base_url))
        assert teacher.bill.requests == n_asked + 1


def test_each_question_is_asked_by_its_own_task_and_in_its_own_language(tmp_path):
    (zh,) = make_questions(1)
    english = {"id": "q:en", "task": "open-question", "language": "en", "input": "Why?"}
    teacher = ScriptedTeacher(
        lambda r: Completion(text=f"<think>{r.messages[0].content[:6]}</think>好")
    )
    setup = PromptSetup("rationalize", Sampling(), find_task)
    asked = [zh, zh.model_copy(update=english)]
    first, second = explain(asked, [teacher], Method(["any"], setup))
    assert first.reasoning == "你是一名经验" and second.reasoning == "You ar"


def test_questions_of_an_unknown_task_are_refused_before_anything_is_sent(tmp_path):
    (question,) = make_questions(1)
    write_questions(
        tmp_path / "questions.jsonl", [question.model_copy(update={"task": "pump-fault"})]
    )
    with pytest.raises(InputError, match="name its file with --task"):
        run(make_config(tmp_path, "http://127.0.0.1:9/v1"))
