"""What the crawl and its child say to each other: the order, and an event for each page seen.

Visits and unread pages are also lines of files. Not done here: keeping them (`crawl`), asking the
site (`iiyi`).
"""

from enum import StrEnum

from pydantic import Field

from medkd.core.records import RawCase, Record


class Outcome(StrEnum):
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


class End(StrEnum):
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
    cookies: dict[str, str] = Field(default_factory=dict)
    cache_dir: str = ""
    """Directory of case pages as they came; what is in it is not asked again."""
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
