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


def test_quick_work_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(1000), "verify", unit="rationales")) == list(range(1000))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("verify: 1000 rationales in ")


def test_work_that_fails_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        for number in track([1, 0], "divide"):
            1 / number
    assert capsys.readouterr().err.startswith("divide: 1 rows in ")
