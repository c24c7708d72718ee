import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_reading import list_attempts
from medkd.completers.client import LedgerClient
from medkd.completers.endpoint import TimeLimits
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import AttemptOutcome, AttemptResult, MissingPart, RetryPolicy
from medkd.completers.providers import find_target
from medkd.completers.resume import (
    AnswerPart,
    PartialAnswer,
    ResumeSupport,
    append_continuation,
    could_be_whole,
    make_partial,
)
from medkd.completers.scheduler import RunOptions
from medkd.core.records import Message, Request, Sampling
from medkd.demo.dialogue import Fault, Prefix
from medkd.demo.teacher import serve_teacher
from medkd.distill.courses import find_missing_part

REASONING = "患者发热伴头痛三天，颈强直阳性，提示脑膜受刺激；脑脊液白细胞升高、糖降低，支持细菌感染，因此考虑本病。"
WHOLE = f"<think>\n{REASONING}\n</think>\n\n化脓性脑膜炎"


def ask(number: int, thinking: bool = False) -> Request:
    text = f"<diagnosis>化脓性脑膜炎{number}</diagnosis><record>【主诉】发热伴头痛{number}天。【查体】颈强直，体温39.{number}℃。</record>"
    return Request(
        messages=(Message(role="user", content=text),),
        sampling=Sampling(max_tokens=1024, thinking=thinking),
    )


def open_completer(ledger, base_url, has_prefix=True, **more) -> LedgerClient:
    target = find_target("rehearsal", "", base_url)
    options = RunOptions(
        concurrency=4,
        retry=RetryPolicy(backoff_s=0.01, backoff_cap_s=0.05),
        limits=more.get("limits") or TimeLimits(),
        find_missing=find_missing_part,
    )
    return LedgerClient(target if has_prefix else replace(target, prefix=None), ledger, options)


def resume(before: PartialAnswer, reasoning: str, text: str) -> tuple[str, str] | None:
    own = AttemptResult(AttemptOutcome.COMPLETE, reasoning, text)
    found = append_continuation(before, own)
    return (found.reasoning, found.text) if found else None


@given(st.integers(1, len(WHOLE)))
def test_a_text_cut_anywhere_and_gone_on_with_is_the_text(cut):
    assert resume(PartialAnswer(1, "", WHOLE[:cut]), "", WHOLE[cut:]) == ("", WHOLE)


@given(st.integers(1, len(REASONING)))
def test_a_reasoning_cut_anywhere_and_gone_on_with_is_the_reasoning(cut):
    assert resume(PartialAnswer(1, REASONING[:cut], ""), REASONING[cut:], "化脓性脑膜炎") in {
        (REASONING, "化脓性脑膜炎"),
        None if cut == len(REASONING) else (REASONING, "化脓性脑膜炎"),
    }


@pytest.mark.parametrize("cut", [10, 30, len(WHOLE) - 8, len(WHOLE)])
@pytest.mark.parametrize(
    "anew", [WHOLE, "<think>先看主诉。</think>脑炎", f"好的。{WHOLE.removeprefix('<think>')}"]
)
def test_a_text_that_begins_anew_is_not_put_behind_the_first(cut, anew):
    assert resume(PartialAnswer(1, "", WHOLE[:cut]), "", anew) is None or (
        cut == 10 and not anew.startswith("<think>")
    )


def test_half_a_reasoning_followed_by_an_answer_or_an_answer_by_new_thoughts_are_not_joined():
    assert resume(PartialAnswer(1, REASONING[:30], ""), "", "化脓性脑膜炎") is None
    assert resume(PartialAnswer(1, REASONING, "化脓性"), "再想一遍", "脑膜炎") is None
    assert resume(PartialAnswer(1, REASONING, "化脓性"), "", "脑膜炎") == (
        REASONING,
        "化脓性脑膜炎",
    )


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (AttemptResult(AttemptOutcome.CUT, text=WHOLE[:40]), True),
        (AttemptResult(AttemptOutcome.CUT, text=WHOLE[:40] + "\ufffd"), True),
        (AttemptResult(AttemptOutcome.CUT, text=WHOLE[:40] + " \n"), True),
        (AttemptResult(AttemptOutcome.UNKNOWN, reasoning=REASONING), True),
        (AttemptResult(AttemptOutcome.CUT, text=WHOLE[:8]), False),
        (AttemptResult(AttemptOutcome.FILTERED, text=WHOLE[:40]), False),
        (AttemptResult(AttemptOutcome.UNREADABLE, text=REASONING), False),
        (AttemptResult(AttemptOutcome.UNREADABLE, text=f"<think>{REASONING}</think>"), True),
        (AttemptResult(AttemptOutcome.UNREADABLE, reasoning=REASONING), True),
    ],
)
def test_only_what_merely_lacks_its_end_is_gone_on_from(answer, is_kept):
    so_far = make_partial(7, answer, find_missing_part)
    assert (so_far is not None) == is_kept
    assert so_far is None or not so_far.text.endswith(("\ufffd", "\n"))


PLAIN = Request(messages=(), sampling=Sampling(thinking=False))


def test_a_server_that_refuses_or_begins_anew_is_no_longer_asked_unless_it_has_gone_on_before():
    text, thought = PartialAnswer(1, "", WHOLE[:40]), PartialAnswer(1, REASONING[:40], "")
    refused = ResumeSupport(find_target("rehearsal").prefix)
    refused.note_refused(text)
    assert (
        refused.is_possible(text, PLAIN),
        refused.is_possible(thought, PLAIN),
        thought.part,
    ) == (False, True, AnswerPart.REASONING)
    proven = ResumeSupport(find_target("rehearsal").prefix)
    proven.note_resumed(text)
    for _ in range(9):
        proven.note_restarted(text)
    proven.note_refused(text)
    assert proven.is_possible(text, PLAIN)
    assert not ResumeSupport(
        find_target("custom", "m", "http://127.0.0.1:9/v1").prefix
    ).is_possible(text, PLAIN)


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        Fault.CUT,
        Fault.ERROR_IN_STREAM,
        Fault.NO_RESOURCE,
        Fault.LENGTH,
        Fault.NO_ANSWER,
        Fault.SILENCE,
    ],
)
def test_what_was_paid_for_is_gone_on_from_and_no_token_is_bought_twice(tmp_path, fault, thinking):
    with serve_teacher(latency_s=0) as teacher, Ledger(tmp_path / "ideal.sqlite") as ledger:
        [ideal] = open_completer(ledger, teacher.base_url).complete([ask(1, thinking)])
    path = tmp_path / "l.sqlite"
    with (
        serve_teacher(latency_s=0, script=[fault, Fault.RATE_LIMIT]) as teacher,
        Ledger(path) as ledger,
    ):
        [answer] = open_completer(
            ledger, teacher.base_url, limits=TimeLimits(silence_s=0.2)
        ).complete([ask(1, thinking)])
        assert teacher.bill.n_gone_on == 1
        assert teacher.bill.usage.completion <= ideal.usage.completion + 3
    assert (answer.complete, answer.reasoning, answer.text, answer.attempts) == (
        True,
        ideal.reasoning,
        ideal.text,
        3,
    )
    first, limited, last = list_attempts(path)
    assert (first.continues, limited.continues, last.continues) == (
        None,
        first.id,
        first.id,
    ) or limited.continues is None
    assert last.continues == first.id


@pytest.mark.parametrize("prefix", [Prefix.REFUSES, Prefix.IGNORES])
def test_where_the_server_does_not_go_on_it_is_asked_again_the_plain_way(tmp_path, prefix):
    with (
        serve_teacher(latency_s=0, prefix=prefix, script=[Fault.CUT] * 12) as teacher,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        answers = open_completer(ledger, teacher.base_url).complete([ask(n) for n in range(12)])
    assert all(a.complete and a.text.count("<think>") == 1 for a in answers)


def test_what_neither_goes_on_nor_begins_anew_is_kept_out(tmp_path):
    begun = "<think>\n" + REASONING + "\n"
    with (
        serve_teacher(latency_s=0, script=[Fault.NO_ANSWER, Fault.BLANK, None]) as teacher,
        Ledger(tmp_path / "l.sqlite") as ledger,
    ):
        completer = open_completer(ledger, teacher.base_url)
        [answer] = completer.complete([ask(1)])
        assert len(ledger.attempts_of(completer.key_of(ask(1)))) == 3
    assert answer.text.count("<think>") == answer.text.count("</think>") == 1
    assert could_be_whole(PartialAnswer(1, "", begun), "<think>先看主诉") and not could_be_whole(
        PartialAnswer(1, "", begun), "9℃，这一点需要解释。</think>脑炎"
    )
    assert could_be_whole(PartialAnswer(1, REASONING, "化脓性"), "脑膜炎")


def test_what_a_stopped_run_left_unfinished_is_gone_on_from(tmp_path):
    text = "<think>\n患者的主要问题是发热伴头痛1天，先看记录中有哪些异常。\n记录中有：颈强直"
    with serve_teacher(latency_s=0) as teacher, Ledger(tmp_path / "l.sqlite") as ledger:
        completer = open_completer(ledger, teacher.base_url)
        ledger.start_run(1)
        attempt = ledger.open_attempt(
            completer.key_of(ask(1)), "case", completer.target, 10, None
        ).result()
        ledger.save_pieces([(attempt, 1, False, text)]).result()
    with serve_teacher(latency_s=0) as teacher:
        connection = sqlite3.connect(tmp_path / "l.sqlite")  # as a kill leaves it
        connection.execute("UPDATE attempts SET outcome = NULL")
        connection.commit()
        connection.close()
        with Ledger(tmp_path / "l.sqlite") as ledger:
            [answer] = open_completer(ledger, teacher.base_url).complete([ask(1)])
        assert teacher.bill.n_gone_on == 1
    assert answer.complete
    assert answer.text.startswith(text)


def test_missing_names_what_could_still_come():
    assert find_missing_part("", "<think>发热") == MissingPart(
        "no answer after </think>", is_at_end=True
    )
    assert find_missing_part("", "脑膜炎") == MissingPart(
        "no reasoning between <think> and </think>", is_at_end=False
    )
