import json

import pytest

from medkd.completers.scripted import Scripted
from medkd.core.completer import Completion
from medkd.core.errors import StoppedError
from medkd.core.records import FinishReason
from medkd.demo.teacher import serve_teacher
from medkd.train.judging import Judge, open_judge
from medkd.train.rewards import Rollout

THOUGHT = Rollout("<think>\n咳嗽\n</think>\n\n肺炎", FinishReason.STOP, 9, "咳嗽三天", "肺炎")
GOOD = json.dumps({"grounded": "5", "sound": "5", "complete": "3", "leads_there": "5", "why": "ok"})


def test_a_judge_pays_by_its_rubric():
    assert Judge(Scripted(lambda _: GOOD))([THOUGHT, THOUGHT]) == [0.875, 0.875]


def test_what_has_no_reasoning_is_not_sent_to_the_judge_and_earns_nothing():
    judge = Scripted(lambda _: GOOD)
    assert Judge(judge)(
        [THOUGHT._replace(text="肺炎"), THOUGHT._replace(text="<think>\n咳嗽")]
    ) == [0.0, 0.0]
    assert judge.asked == []


@pytest.mark.parametrize("said", ["It is fine.", Completion(complete=False, error="timeout")])
def test_a_judgement_that_cannot_be_read_stops_the_run_and_is_no_zero(said):
    with pytest.raises(StoppedError, match="the judge could not be read"):
        Judge(Scripted(lambda _: said))([THOUGHT])


def test_a_judge_over_http_that_never_says_what_was_asked_is_on_the_ledger_and_stops_the_run(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MEDKD_API_KEY", "none")
    with (
        serve_teacher(faults=0.0, seed=1) as server,
        open_judge(
            "custom", "rehearsal", server.base_url, None, tmp_path / "ledger.sqlite"
        ) as judge,
        pytest.raises(StoppedError),
    ):
        judge([THOUGHT])
    assert (tmp_path / "ledger.sqlite").stat().st_size > 0
