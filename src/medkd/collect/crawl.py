"""A crawl seen from outside: an order goes to a child process, what it sees comes back and is kept, page by page.

In: where to ask, how politely, how much. Out: records appended to `raw_cases.jsonl`, a line for every page asked in
`pages.jsonl`, unreadable pages in `unread_pages.jsonl`; together they are what a killed crawl goes on from.
Not done here: asking (`iiyi`, the child: a Scrapy reactor runs once in a process), reading pages (`pages`).
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from medkd.collect.pages import native_id_of
from medkd.core.artifacts import RecordAppender, RecordReader, write_records
from medkd.core.errors import InputError, PersonNeededError, StoppedError
from medkd.core.progress import Bar
from medkd.core.records import RawCase, Record

R = TypeVar("R", bound=Record)

CASES = "raw_cases.jsonl"
PAGES = "pages.jsonl"
UNREAD = "unread_pages.jsonl"
LOG = "crawl.log"


class Outcome(StrEnum):
    """What became of one page that was asked for; all but the first two are why a case was dropped."""

    LISTED = "listed"
    """A list, its links taken."""
    KEPT = "kept"
    """A case, read."""
    MISSING = "missing"
    """The site has no such page (404, 410)."""
    UNREADABLE = "unreadable"
    """No layout finds a case in it; the page is kept aside."""
    FORBIDDEN = "forbidden"
    """The site's robots.txt does not allow it."""
    FAILED = "failed"
    """No answer or an error, after retries; asked again next time."""


class End(StrEnum):
    """Why a crawl ended."""

    DONE = "done"
    """Nothing is left to ask, or the limit is reached."""
    VERIFICATION = "verification"
    """The site wants a person to pass its verification."""
    FORBIDDEN = "forbidden"
    """The site's robots.txt does not allow the list."""
    UNREACHABLE = "unreachable"
    """A list or several cases in a row gave no answer."""


class Visit(Record):
    """A line of `pages.jsonl`: one page that was asked for."""

    address: str
    """Path on the site."""
    outcome: Outcome
    links: tuple[str, ...] = ()
    """Native ids that a list names."""
    note: str = ""


class UnreadPage(Record):
    """A page that parses to nothing, as it came."""

    url: str
    html: str


class Event(Record):
    """What the child says: a page seen, or the end."""

    visit: Visit | None = None
    case: RawCase | None = None
    unread: UnreadPage | None = None
    end: End | None = None
    place: str = ""
    """The address at which the crawl ended before its time."""
    reason: str = ""


class Order(Record):
    """What the child is asked to do, and how far earlier runs came."""

    base_url: str
    delay: float
    user_agent: str
    limit: int | None = None
    n_kept: int = 0
    seen: tuple[str, ...] = ()
    """Native ids that any list named so far."""
    todo: tuple[str, ...] = ()
    """Native ids named and not asked yet, in order."""
    next_list: int | None = 1
    """The list page to ask next; None after the last one."""


class Journal:
    """What a crawl has kept in its directory, this time and before."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.n_lists = 0
        self.kept: set[str] = set()
        self.seen: dict[str, None] = {}
        self.asked: set[str] = set()
        self.next_list: int | None = 1
        for name in (CASES, PAGES, UNREAD):
            with RecordAppender(directory / name):
                pass  # opening cuts off a line that a kill tore
        for case in _read_if_there(directory / CASES, RawCase):
            self.kept.add(case.id.partition(":")[2])
        self.asked |= self.kept
        for visit in _read_if_there(directory / PAGES, Visit):
            self.note(visit)

    def note(self, visit: Visit) -> None:
        """Take one visit into the account."""
        if visit.outcome is Outcome.FAILED:
            return
        native_id = native_id_of(visit.address)
        if native_id:
            self.asked.add(native_id)
            self.seen.setdefault(native_id)
            self.counts[visit.outcome] += 1
            return
        n_before = len(self.seen)
        self.seen.update(dict.fromkeys(visit.links))
        self.n_lists += 1
        self.next_list = self.n_lists + 1 if len(self.seen) > n_before else None

    def order(self, base_url: str, delay: float, user_agent: str, limit: int | None) -> Order:
        """Say what is left to do."""
        return Order(
            base_url=base_url,
            delay=delay,
            user_agent=user_agent,
            limit=limit,
            n_kept=len(self.kept),
            seen=tuple(self.seen),
            todo=tuple(native_id for native_id in self.seen if native_id not in self.asked),
            next_list=self.next_list,
        )


def crawl(order: Order, journal: Journal) -> Counter[str]:
    """Carry out an order and keep what it brings; return how many pages failed in this run.

    Raises PersonNeededError at the site's verification, InputError where nothing could be asked at all, StoppedError
    where the site stopped answering or the child broke. What was kept before stays and is not asked again.
    """
    failed: Counter[str] = Counter()
    directory = journal.directory
    end: Event | None = None
    with (
        RecordAppender(directory / CASES) as cases,
        RecordAppender(directory / PAGES) as pages,
        RecordAppender(directory / UNREAD) as unread,
        Bar("collect", order.limit, "cases") as bar,
        _events(order, directory / LOG) as events,
    ):
        bar.advance(order.n_kept)
        for event in events:
            if event.end is not None:
                end = event
                break
            # The case before its visit: killed in between, the case counts as asked all the same.
            if event.case is not None:
                cases.append(event.case)
                journal.kept.add(event.case.id.partition(":")[2])
            if event.unread is not None:
                unread.append(event.unread)
            if event.visit is not None:
                pages.append(event.visit)
                journal.note(event.visit)
                failed[event.visit.outcome] += event.visit.outcome is Outcome.FAILED
            n_missing = journal.counts[Outcome.MISSING]
            bar.advance(int(event.case is not None), note=f"{journal.n_lists} lists, {n_missing} missing")
    _check_end(end, journal, directory / LOG)
    return +failed


def finish(directory: Path) -> int:
    """Put the records into the order of their ids, so that equal crawls give equal files; return how many."""
    cases = {case.id: case for case in _read_if_there(directory / CASES, RawCase)}
    for name in (UNREAD, LOG):
        path = directory / name
        if path.exists() and path.stat().st_size == 0:
            path.unlink()
    # The ids are numbers, so that shorter ones come first.
    in_order = sorted(cases, key=lambda case_id: (len(case_id), case_id))
    return write_records(directory / CASES, (cases[case_id] for case_id in in_order))


def _check_end(end: Event | None, journal: Journal, log_path: Path) -> None:
    match end:
        case Event(end=End.DONE):
            return
        case Event(end=End.VERIFICATION):
            raise PersonNeededError(
                f"{end.place}: the site asks a person to pass its verification; open this address in a browser, pass it, "
                "then run the same command again, it goes on from here"
            )
        case Event(end=End.FORBIDDEN):
            raise InputError(f"{end.place}: the site's robots.txt forbids it; ask the site's owner, or use --source files on saved cases")
        case Event(end=End.UNREACHABLE) if not journal.n_lists and not journal.kept:
            raise InputError(f"{end.place}: {end.reason}; check --base-url and that the site is up")
        case Event(end=End.UNREACHABLE):
            raise StoppedError(f"{end.place}: {end.reason}; run the same command again later, it goes on from here")
        case _:
            raise StoppedError(f"{log_path}: the crawl broke off, its last words are there; run the same command again to go on")


@contextmanager
def _events(order: Order, log_path: Path) -> Generator[Iterator[Event], None, None]:
    """Start the child and give what it says; it ends with this context, and by itself should this process die."""
    command = [sys.executable, "-P", "-m", "medkd.collect.iiyi"]
    with log_path.open("wb") as log:
        # A group of its own: Ctrl-C reaches this process alone, which then ends the child.
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, process_group=0)  # noqa: S603
        if child.stdin is None or child.stdout is None:
            raise AssertionError("both pipes were asked for")
        try:
            child.stdin.write(order.model_dump_json().encode() + b"\n")
            child.stdin.flush()
            yield (Event.model_validate_json(line) for line in child.stdout)
        except BrokenPipeError:
            yield iter(())
        finally:
            child.kill()
            child.stdout.close()
            _close_quietly(child)
            child.wait()


def _close_quietly(child: "subprocess.Popen[bytes]") -> None:
    try:
        if child.stdin is not None:
            child.stdin.close()
    except BrokenPipeError:
        return


def _read_if_there(path: Path, record: type[R]) -> Iterator[R]:
    if path.exists() and path.stat().st_size:
        yield from RecordReader(path, record, made_by="collect")
