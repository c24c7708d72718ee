import pytest

from medkd.core import progress
from medkd.core.progress import Bar, track


def test_in_a_pipe_it_prints_plain_lines_with_rate_time_left_and_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    with Bar("distill", total=4, unit="answers") as bar:
        bar.advance(2, note="0.0100 CNY")
        bar.advance()
    printed = capsys.readouterr()
    assert printed.out == ""
    first, second, last = printed.err.splitlines()
    assert first.startswith("distill: 2/4 answers, ")
    assert "s left" in first
    assert first.endswith(", 0.0100 CNY")
    assert second.startswith("distill: 3/4 answers, ")
    assert last.startswith("distill: 3 answers in ")
    assert "\x1b" not in printed.err


def test_what_an_earlier_run_did_counts_for_how_far_it_is_and_not_for_how_fast(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    now = iter([0.0, 2.0, 4.0, 4.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with Bar("train", total=100, unit="steps") as bar:
        bar.reach(90, n_before=90)
        bar.reach(92, n_before=90)
    assert capsys.readouterr().err.splitlines() == [
        "train: 90/100 steps, 0.0/s",
        "train: 92/100 steps, 0.5/s, about 16 s left",
        "train: 2 steps in 4.0 s, 90 before",
    ]


def test_quick_work_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(1000), "verify", unit="rationales")) == list(range(1000))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("verify: 1000 rationales in ")


def test_work_that_fails_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        for number in track([1, 0], "divide"):
            1 / number
    assert capsys.readouterr().err.startswith("divide: 1 rows in ")
