import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_reading import list_attempts
from medkd.completers.costs import count_items, list_lines, measure_answers
from medkd.completers.ledger import Ledger, copy_path, keep_copy
from medkd.completers.outcomes import AttemptOutcome, AttemptResult, Charge
from medkd.completers.providers import Price, find_target
from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Message, Request, Sampling, Usage

TARGET = find_target("rehearsal")
PRICE = Price(cache_hit=0.02, cache_miss=1, output=4)


def make_closing(
    outcome: AttemptOutcome, text: str = "脑膜炎", word: str = "stop", usage: Usage | None = None
) -> tuple[AttemptResult, Charge]:
    result = AttemptResult(outcome, "发热", text, word, status=200, seconds=0.1)
    return result, Charge(usage or Usage(prompt=10, completion=5), False, 0.5)


def test_an_item_is_known_by_content_alone():
    def make(text: str, sample: int = 0, tokens: int = 64) -> Request:
        return Request(
            messages=(Message(role="user", content=text),),
            sampling=Sampling(max_tokens=tokens),
            sample=sample,
        )

    def key_of(provider: str, model: str, request: Request) -> str:
        return replace(TARGET, name=provider, model=model).item_key(request)

    keys = {
        key_of("p", "m", make("发热")), key_of("q", "m", make("发热")), key_of("p", "n", make("发热")),
        key_of("p", "m", make("头痛")), key_of("p", "m", make("发热", sample=1)), key_of("p", "m", make("发热", tokens=65)),
    }  # fmt: skip
    assert len(keys) == 6
    assert key_of("p", "m", make("发热")) in keys


def test_an_attempt_is_on_the_disk_before_it_is_sent_and_complete_after(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.start_run(1)
        attempt = ledger.open_attempt("item", "case:1", TARGET, 10, PRICE).result()
        [row] = list_attempts(path)
        assert (row.id, row.outcome, row.label) == (attempt, None, "case:1")
        ledger.close_attempt(attempt, *make_closing(AttemptOutcome.COMPLETE)).result()
        assert ledger.is_complete("item")
        assert ledger.spent() == 0.5
        assert ledger.attempts_of("item")[0].text == "脑膜炎"


def test_what_streamed_before_a_kill_is_kept_as_one_unknown_attempt(tmp_path):
    path = tmp_path / "ledger.sqlite"
    script = f"""
import os, signal
from pathlib import Path
from medkd.completers.ledger import Ledger
from medkd.completers.providers import Price, find_target
ledger = Ledger(Path({str(path)!r}))
ledger.start_run(2)
price = Price(cache_hit=0, cache_miss=1, output=4)
first = ledger.open_attempt("one", "case:1", find_target("rehearsal"), 1000000, price).result()
ledger.open_attempt("two", "case:2", find_target("rehearsal"), 0, None).result()
ledger.save_pieces([(first, 1, True, "发热"), (first, 2, True, "伴颈强直"), (first, 3, False, "脑")]).result()
ledger.save_pieces([(first, 4, False, "膜炎")]).result()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    with Ledger(path) as ledger:
        [one], [two] = ledger.attempts_of("one"), ledger.attempts_of("two")
        assert (one.outcome, one.reasoning, one.text, one.is_estimate) == (
            AttemptOutcome.UNKNOWN,
            "发热伴颈强直",
            "脑膜炎",
            True,
        )
        assert one.amount == pytest.approx(1.0, abs=1e-3)
        assert (two.outcome, two.text) == (AttemptOutcome.UNKNOWN, "")
        assert not ledger.is_complete("one")


def test_a_row_that_was_opened_and_never_sent_costs_nothing(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.start_run(1)
        ledger.open_attempt("item", "case:1", TARGET, 10, PRICE).result()
    [row] = list_attempts(tmp_path / "ledger.sqlite")
    assert (row.outcome, row.amount, row.usage) == (AttemptOutcome.INTERRUPTED, 0.0, Usage())


def test_a_second_process_is_told_who_holds_the_ledger(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path):
        script = f"from pathlib import Path\nfrom medkd.completers.ledger import Ledger\nLedger(Path({str(path)!r}))"
        told = subprocess.run(
            [sys.executable, "-c", script], check=False, capture_output=True, text=True
        )
    assert f"held by process {os.getpid()}" in told.stderr
    with Ledger(path):
        pass


def write_newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE t (a); PRAGMA user_version = 99;")
    connection.close()


def write_foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (write_newer, "written by a newer medkd"),
        (write_foreign, "is no ledger"),
        (
            lambda path: path.write_bytes(b"no database at all, only words" * 100),
            "damaged or no ledger",
        ),
    ],
)
def test_a_file_that_is_no_ledger_of_ours_is_refused_and_let_go(tmp_path, write, said):
    path = tmp_path / "ledger.sqlite"
    write(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(InputError, match=said):
            Ledger(path)
    assert path.read_bytes() == before


def test_a_directory_in_the_ledgers_place_is_said_in_one_line(tmp_path):
    (tmp_path / "ledger.sqlite").mkdir()
    for _ in range(2):
        with pytest.raises(InputError, match=r"ledger\.sqlite: is no file; move it away"):
            Ledger(tmp_path / "ledger.sqlite")


def test_a_file_system_that_cannot_lock_is_told_from_another_process(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StoppedError, match=r"cannot be locked \(No locks available\)"):
        Ledger(tmp_path / "ledger.sqlite")


@pytest.mark.parametrize(
    "usage",
    [Usage(prompt=2**63), Usage(completion=2**80), Usage(prompt=1, cache_hit=-(2**64))],
)
def test_what_cannot_be_written_fails_alone_and_the_writer_goes_on(tmp_path, usage):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.start_run(10**20)
        ids = [ledger.open_attempt(f"i{n}", "case", TARGET, 10, PRICE).result() for n in range(9)]
        bad = make_closing(AttemptOutcome.COMPLETE, "a\ud800", usage=usage)
        closings = [ledger.close_attempt(ids[0], *bad)] + [
            ledger.close_attempt(one, *make_closing(AttemptOutcome.COMPLETE)) for one in ids[1:]
        ]
        assert isinstance(closings[0].exception(timeout=20), StoppedError)
        assert [one.exception(timeout=20) for one in closings[1:]] == [None] * 8
        assert sum(ledger.is_complete(f"i{n}") for n in range(9)) == 8


def test_a_ledger_of_version_0_1_with_huge_counts_still_has_its_bill(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.start_run(2)
        for n in range(4):
            attempt = ledger.open_attempt(f"i{n}", "case", TARGET, 10, PRICE).result()
            huge = make_closing(AttemptOutcome.COMPLETE, usage=Usage(prompt=2**62, completion=7))
            ledger.close_attempt(attempt, *huge).result()
        [line] = list_lines(ledger)
        assert line.usage.prompt == 2**64
        assert measure_answers(ledger, TARGET) == (4, 7.0)


def test_an_answer_that_version_0_1_took_for_complete_is_a_cut_by_its_own_word(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.start_run(3)
        for word in ("abort", "max_tokens", "stop", ""):
            attempt = ledger.open_attempt(word, "case", TARGET, 10, PRICE).result()
            closing = make_closing(AttemptOutcome.COMPLETE, word=word)
            ledger.close_attempt(attempt, *closing).result()
    with sqlite3.connect(path) as old:
        old.execute("DROP TABLE served")
    with Ledger(path):
        pass
    assert {a.item: a.outcome for a in list_attempts(path)} == {
        "abort": AttemptOutcome.CUT,
        "max_tokens": AttemptOutcome.LENGTH,
        "stop": AttemptOutcome.COMPLETE,
        "": AttemptOutcome.COMPLETE,
    }


def test_a_full_disk_stops_with_one_line_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.start_run(1)
        attempt = ledger.open_attempt("item", "case:1", TARGET, 10, PRICE).result()
        n_pages = ledger._writer.execute("PRAGMA page_count").fetchone()[0]
        ledger._writer.execute(f"PRAGMA max_page_count = {n_pages}")
        failing = ledger.close_attempt(
            attempt, *make_closing(AttemptOutcome.COMPLETE, text="长" * 100_000)
        )
        error = failing.exception()
        assert "free some space and run the same command again" in str(error)
        assert error.exit_code == 3
        ledger._writer.execute("PRAGMA max_page_count = 1073741823")
        ledger.close_attempt(attempt, *make_closing(AttemptOutcome.COMPLETE)).result()
    assert list_attempts(path)[0].outcome is AttemptOutcome.COMPLETE


def fill(path: Path, n: int) -> None:
    with Ledger(path) as ledger:
        ledger.start_run(n)
        for number in range(n):
            attempt = ledger.open_attempt(f"item {number}", "case:1", TARGET, 10, PRICE).result()
            ledger.close_attempt(
                attempt, *make_closing(AttemptOutcome.COMPLETE, text="长" * 2000)
            ).result()


def test_a_damaged_ledger_offers_its_last_good_copy_and_the_offer_works(tmp_path):
    tmp_path = tmp_path / "my runs; here"
    path = tmp_path / "my ledger.sqlite"
    fill(path, 20)
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\0damage\0" * 3000 + whole[32192:])
    with pytest.raises(InputError, match=r"the last good copy, of .*: cd ") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)
    subprocess.run("cd " + str(caught.value).rpartition(": cd ")[2], shell=True, check=True)
    with Ledger(path) as ledger:
        assert count_items(ledger) == (20, 20)
    assert (tmp_path / "my ledger.sqlite.damaged").exists()


def test_a_damaged_ledger_does_not_take_the_good_copys_place(tmp_path):
    path = tmp_path / "ledger.sqlite"
    fill(path, 20)
    good = copy_path(path).read_bytes()
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\0damage\0" * 3000 + whole[32192:])
    keep_copy(path)
    assert copy_path(path).read_bytes() == good
    assert sorted(child.name for child in tmp_path.iterdir()) == [
        "ledger.sqlite",
        "ledger.sqlite.good",
        "ledger.sqlite.lock",
    ]


def test_what_is_on_its_way_when_the_disk_is_full_goes_into_the_room_kept_back_and_nothing_new_begins(
    tmp_path, monkeypatch
):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.start_run(1)
        attempts = [
            ledger.open_attempt(f"item {n}", "case:1", TARGET, 10, PRICE).result() for n in range(3)
        ]
        release = ledger._reserve.release

        def make_room() -> bool:
            with contextlib.suppress(sqlite3.ProgrammingError):  # released again when all is closed
                ledger._writer.execute("PRAGMA max_page_count = 1073741823")
            return release()

        monkeypatch.setattr(ledger._reserve, "release", make_room)
        n_pages = ledger._writer.execute("PRAGMA page_count").fetchone()[0]
        ledger._writer.execute(f"PRAGMA max_page_count = {n_pages}")
        for attempt in attempts:
            ledger.close_attempt(
                attempt, *make_closing(AttemptOutcome.COMPLETE, text="长" * 50_000)
            ).result()
        refused = ledger.open_attempt("item 9", "case:1", TARGET, 10, PRICE).exception()
        assert "free some space and run the same command again" in str(refused)
    assert [a.outcome for a in list_attempts(path)] == [AttemptOutcome.COMPLETE] * 3
    assert not list(tmp_path.glob("*.reserve"))
