"""A crawl: what it is told, what it says of each page, and how far it came.

In: a `CrawlJob`, carried out by a child process (a Scrapy reactor runs once in a process). Out:
records in `raw_cases.jsonl`, a `PageVisit` a page in `pages.jsonl`, unreadable pages in
`unread_pages.jsonl`; a killed crawl goes on from these. Not done here: requests (`spider`, the
child), reading pages (`parser`).
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from medkd.collect.parser import native_id_of
from medkd.core.errors import HumanActionRequiredError, InputError, Said, StoppedError
from medkd.core.jsonl import RecordAppender, RecordReader, write_records
from medkd.core.progress import Bar
from medkd.core.records import RawCase, Record

R = TypeVar("R", bound=Record)

CASES = "raw_cases.jsonl"
PAGES = "pages.jsonl"
UNREAD = "unread_pages.jsonl"
LOG = "crawl.log"


MAX_UNREADABLE = 0.2
"""Share of unreadable case pages past which the site's layout must have changed."""


class PageOutcome(StrEnum):
    """What became of one page that was asked for; all but the first three are why a case was
    dropped."""

    LISTED = "listed"
    """A list, its links taken."""
    LOOKED_UP = "looked_up"
    """A page in which a department's number was looked up; `note` is the number, or empty."""
    KEPT = "kept"
    """A case, read."""
    MISSING = "missing"
    """The site has no such page (404, 410)."""
    UNREADABLE = "unreadable"
    """No layout finds a case in it; the page is kept aside."""
    FORBIDDEN = "forbidden"
    """The site's robots.txt does not allow it."""
    OTHER_DEPARTMENT = "other_department"
    """A case of another department than the one asked for."""
    FAILED = "failed"
    """No answer or an error, after retries; asked again next time."""


class StopReason(StrEnum):
    """Why a crawl ended."""

    DONE = "done"
    """Nothing is left to ask, or the limit is reached."""
    VERIFICATION = "verification"
    """The site wants a person to pass its verification."""
    LOGIN = "login"
    """The site wants a person to log in."""
    LAYOUT = "layout"
    """Too many case pages parse to nothing."""
    FORBIDDEN = "forbidden"
    """The site's robots.txt does not allow the list."""
    UNREACHABLE = "unreachable"
    """A list or several cases in a row gave no answer."""


class PageVisit(Record):
    """A line of `pages.jsonl`: one page that was asked for."""

    address: str
    """Path on the site."""
    outcome: PageOutcome
    links: tuple[str, ...] = ()
    """Native ids that a list names."""
    note: str = ""


class UnreadPage(Record):
    """A page that parses to nothing, as it came."""

    url: str
    html: str


class CrawlEvent(Record):
    """What the child says: a page seen, or the end."""

    visit: PageVisit | None = None
    case: RawCase | None = None
    unread: UnreadPage | None = None
    end: StopReason | None = None
    place: str = ""
    """The address at which the crawl ended before its time."""
    reason: str = ""


class CrawlJob(Record):
    """What the child is asked to do, and how far earlier runs came."""

    base_url: str
    delay: float
    user_agent: str
    limit: int | None = None
    cookies: dict[str, str] = Field(default_factory=dict)
    section_names: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """What sections are called besides what the package knows."""
    department: str = ""
    """Only cases of this department, by the site's name for it."""
    department_number: str | None = None
    """The site's number for it; empty where none was found, None where it was not looked for."""
    n_kept: int = 0
    seen: tuple[str, ...] = ()
    """Native ids that any list named so far."""
    todo: tuple[str, ...] = ()
    """Native ids named and not asked yet, in order."""
    next_list: int | None = 1
    """The list page to ask next; None after the last one, and where no list is walked."""


class VerificationRequiredError(HumanActionRequiredError):
    """The site wants a person at this address."""

    def __init__(self, address: str, what: str) -> None:
        self.address = address
        super().__init__(
            "{}: the site asks a person to {}; open this address in a browser and do it, then run "
            "the same command again, with --cookies FILE (that browser's cookies, exported) or, "
            "where there is a screen, --browser; it goes on from here",
            address,
            Said(what),
        )


class CrawlState:
    """What a crawl has kept in its directory, this time and before."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.counts: Counter[str] = Counter()
        self.n_lists = 0
        self.kept: set[str] = set()
        self.seen: dict[str, None] = {}
        self.asked: set[str] = set()
        self.next_list: int | None = 1
        self.department_number: str | None = None
        for name in (CASES, PAGES, UNREAD):
            with RecordAppender(directory / name, private=True):
                pass  # opening cuts off a line that a kill tore
        for case in _read_if_there(directory / CASES, RawCase):
            self.kept.add(case.id.partition(":")[2])
        self.asked |= self.kept
        for visit in _read_if_there(directory / PAGES, PageVisit):
            self.note(visit)

    def note(self, visit: PageVisit) -> None:
        """Take one visit into the account."""
        if visit.outcome is PageOutcome.FAILED:
            return
        if visit.outcome is PageOutcome.LOOKED_UP:
            self.department_number = visit.note
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

    def order(self, order: CrawlJob, ids: Iterable[str] | None = None) -> CrawlJob:
        """Fill into an order what is left to do; with `ids` these pages are asked for and no list
        is walked."""
        wanted = self.seen if ids is None else ids
        return order.model_copy(
            update={
                "n_kept": len(self.kept),
                "seen": tuple(self.seen),
                "todo": tuple(native_id for native_id in wanted if native_id not in self.asked),
                "next_list": self.next_list if ids is None else None,
                "department_number": self.department_number
                if order.department_number is None
                else order.department_number,
            }
        )


def crawl(order: CrawlJob, journal: CrawlState) -> Counter[str]:
    """Carry out an order and keep what it brings; return how many pages of each outcome this run
    brought.

    Raises VerificationRequiredError where the site asks for a person, InputError where nothing
    could be asked at all, StoppedError where the site stopped answering or the child broke. What
    was kept before stays and is not asked again.
    """
    brought: Counter[str] = Counter()
    directory = journal.directory
    end: CrawlEvent | None = None
    with (
        RecordAppender(directory / CASES, private=True) as cases,
        RecordAppender(directory / PAGES) as pages,
        RecordAppender(directory / UNREAD, private=True) as unread,
        Bar("collect", order.limit, "cases") as bar,
        _events(order, directory / LOG) as events,
    ):
        bar.reach(order.n_kept, n_before=order.n_kept)
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
                brought[event.visit.outcome] += 1
            n_missing = journal.counts[PageOutcome.MISSING]
            bar.advance(
                int(event.case is not None), note=f"{journal.n_lists} lists, {n_missing} missing"
            )
    _check_end(end, journal, directory / LOG)
    if is_layout_changed(brought[PageOutcome.KEPT], brought[PageOutcome.UNREADABLE]):
        _check_end(CrawlEvent(end=StopReason.LAYOUT), journal, directory / LOG)
    return brought


def is_layout_changed(n_kept: int, n_unreadable: int) -> bool:
    """Tell whether so many pages parse to nothing that it cannot be their own fault."""
    return n_unreadable > MAX_UNREADABLE * (n_kept + n_unreadable)


def finish(directory: Path) -> int:
    """Put the records into the order of their ids, so that equal crawls give equal files; return
    how many."""
    cases = {case.id: case for case in _read_if_there(directory / CASES, RawCase)}
    for name in (UNREAD, LOG):
        path = directory / name
        if path.exists() and path.stat().st_size == 0:
            path.unlink()
    # The ids are numbers, so that shorter ones come first.
    in_order = sorted(cases, key=lambda case_id: (len(case_id), case_id))
    return write_records(directory / CASES, (cases[case_id] for case_id in in_order), private=True)


def _check_end(end: CrawlEvent | None, journal: CrawlState, log_path: Path) -> None:
    match end:
        case CrawlEvent(end=StopReason.DONE):
            return
        case CrawlEvent(end=StopReason.VERIFICATION):
            raise VerificationRequiredError(end.place, "pass its verification")
        case CrawlEvent(end=StopReason.LOGIN):
            raise VerificationRequiredError(end.place, "log in")
        case CrawlEvent(end=StopReason.LAYOUT):
            raise StoppedError(
                "{}: more than {:.0%} of the case pages parse to nothing and are kept "
                "there; the site's layout may have changed: compare one with "
                "src/medkd/collect/parser.py; the same command goes on without them",
                journal.directory / UNREAD,
                MAX_UNREADABLE,
            )
        case CrawlEvent(end=StopReason.FORBIDDEN):
            raise InputError(
                "{}: the site's robots.txt forbids it; ask the site's owner, or use "
                "--source files on saved cases",
                end.place,
            )
        case CrawlEvent(end=StopReason.UNREACHABLE) if not journal.n_lists and not journal.kept:
            raise InputError(
                "{}: {}; check --base-url and that the site is up, or use --source files "
                "on saved pages",
                end.place,
                end.reason,
            )
        case CrawlEvent(end=StopReason.UNREACHABLE):
            raise StoppedError(
                "{}: {}; run the same command again later, it goes on from here",
                end.place,
                end.reason,
            )
        case _:
            raise StoppedError(
                "{}: the crawl broke off, its last words are there; run the same command "
                "again to go on",
                log_path,
            )


@contextmanager
def _events(order: CrawlJob, log_path: Path) -> Generator[Iterator[CrawlEvent], None, None]:
    """Start the child and yield what it says; it ends with this context, and by itself should this
    process die."""
    command = [sys.executable, "-P", "-m", "medkd.collect.spider"]
    with log_path.open("wb") as log:
        # A group of its own: Ctrl-C reaches this process alone, which then ends the child.
        child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, process_group=0
        )
        if child.stdin is None or child.stdout is None:
            raise AssertionError("both pipes were asked for")
        try:
            child.stdin.write(order.model_dump_json().encode() + b"\n")
            child.stdin.flush()
            yield (CrawlEvent.model_validate_json(line) for line in child.stdout)
        except BrokenPipeError:
            yield iter(())
        finally:
            child.kill()
            child.stdout.close()
            with suppress(BrokenPipeError):
                child.stdin.close()
            child.wait()


def _read_if_there(path: Path, record: type[R]) -> Iterator[R]:
    if path.exists() and path.stat().st_size:
        yield from RecordReader(path, record, made_by="collect")
