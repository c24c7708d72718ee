"""The stage `collect`: a case site or files in, `raw_cases.jsonl` out. What it writes may name
patients.

Not done here: taking identifiers out (`medkd deidentify`, which comes next), repairs of the text
(`medkd prepare`).
"""

import re
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from medkd import __version__
from medkd.collect.columns import Columns, fit_task
from medkd.collect.crawl import (
    CrawlJob,
    CrawlState,
    PageOutcome,
    VerificationRequiredError,
    crawl,
    finish,
)
from medkd.collect.files import CASES, MAX_PROBLEMS, NEXT_STEPS, CaseFiles
from medkd.collect.login import check_browser, read_cookies, wait_for_verification
from medkd.collect.sections import load_names
from medkd.core.config import RUNTIME, StageConfig
from medkd.core.errors import InputError
from medkd.core.i18n import tell
from medkd.core.jsonl import write_records
from medkd.core.progress import warn_large_drops
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.core.task import TaskFile
from medkd.text.tables import is_hub_name

WRITES = ("raw_cases.jsonl", "pages.jsonl", "unread_pages.jsonl", "crawl.log")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
MAX_IDS = 1_000_000
N_PROBLEMS_SHOWN = MAX_PROBLEMS + 2
"""Rows that could not be read, and what is to be said of columns."""


class Config(StageConfig):
    """Where cases come from, and how politely they are asked for."""

    source: Literal["iiyi", "files"] = "iiyi"
    """A case site of iiyi's layouts, or files of cases."""
    input: Annotated[Path | None, RUNTIME] = None
    """With files: cases, or questions with answers: a file or a folder of them (JSON, JSON Lines,
    CSV, Excel, saved HTML pages, another raw_cases.jsonl), hf:owner/name or ms:owner/name."""
    columns: tuple[str, ...] = ()
    """With files: what the columns of a table hold, as COLUMN=NAME; NAME is a section, question,
    answer, id, title, department, url or diagnosis."""
    task: TaskFile = ""
    """With files: a task file of your own, whose sections columns may be called by."""
    section_names: Annotated[Path | None, RUNTIME] = None
    """YAML file with more names of sections (主诉: [Complaint, 主要症状]), on top of the
    package's."""
    base_url: str = "https://bingli.iiyi.com"
    """With iiyi: address of the site."""
    department: str = ""
    """With iiyi: only this department, by its name or the site's number for it."""
    ids: str = ""
    """With iiyi: ask for these pages instead of walking lists: 66000-66449, or
    66001,66007,66100-66120."""
    limit: int | None = Field(default=None, ge=1)
    """Keep so many cases and stop."""
    delay: Annotated[float, RUNTIME] = Field(default=2.0, ge=0)
    """Seconds between two requests, give or take half; slower where the site is. 0 only on a site
    of one's own."""
    contact: Annotated[str, RUNTIME] = ""
    """Web or mail address for the site's owner to write to; goes into the user agent."""
    cookies: Annotated[Path | None, RUNTIME] = None
    """Cookies of a browser in which a person passed the site's verification: Netscape's
    cookies.txt, or JSON."""
    browser: Annotated[bool, RUNTIME] = False
    """At a verification open the page in a visible browser, wait for the person at the screen, take
    over the cookies and go on."""

    def fingerprint_fields(self) -> dict[str, Any]:
        """Leave out what the source does not use, and the port of a site on this machine: a
        rehearsal site has another one each time."""
        fields = super().fingerprint_fields()
        unused = {"base_url", "department", "ids"} if self.source == "files" else {"columns"}
        if _host(self.base_url) in LOOPBACK:
            fields["base_url"] = "loopback"
        return {name: value for name, value in fields.items() if name not in unused}

    @field_validator("department", "ids", mode="before")
    @classmethod
    def _as_typed(cls, value: Any) -> Any:
        """Take back what a command line made of 8 and 7,12: a number, a tuple of numbers."""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return (
            ",".join(map(str, cast("list[Any]", value)))
            if isinstance(value, list | tuple)
            else value
        )

    @field_validator("ids")
    @classmethod
    def _check_ids(cls, ids: str) -> str:
        list_ids(ids)
        return ids

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ids and self.department:
            raise ValueError("ids and department exclude each other; give one of them")
        return self


def list_ids(ids: str) -> list[str]:
    """List the ids of ranges; raises ValueError where they are none.

    >>> list_ids("7, 12-14")
    ['7', '12', '13', '14']
    """
    found: dict[str, None] = {}
    for part in filter(None, (part.strip() for part in ids.replace("，", ",").split(","))):
        match = re.fullmatch(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(
                f"no range of ids: {part[:40]!r}; give them as 66000-66449 or 66001,66007"
            )
        if last - first >= MAX_IDS - len(found):
            raise ValueError(f"more than {MAX_IDS} ids; ask for fewer at a time")
        found.update((str(number), None) for number in range(first, last + 1))
    return list(found)


def run(config: Config) -> Manifest:
    """Collect cases into `--out`."""
    if config.source == "files":
        return _collect_files(config)
    if config.input is not None:
        raise InputError(
            "{}: --input is read with --source files only; add that, or leave --input out",
            config.input,
        )
    if not config.base_url.startswith(("http://", "https://")) or not _host(config.base_url):
        raise InputError("{}: no web address; give --base-url as https://host", config.base_url)
    order = _make_order(config)
    with open_stage_output(
        "collect", config, {"tables": _tables(config)}, WRITES, libraries=["scrapy", "parsel"]
    ) as space:
        if not space.is_finished:
            _collect_site(config, order, space)
        return space.manifest


def _tables(config: Config) -> list[Path]:
    return [] if config.section_names is None else [config.section_names]


def _make_order(config: Config) -> CrawlJob:
    """Write down what is to be crawled; raises InputError where a file it needs cannot be used."""
    if config.browser:
        check_browser()
    department = config.department.strip()
    return CrawlJob(
        base_url=config.base_url,
        delay=config.delay,
        user_agent=_user_agent(config),
        limit=config.limit,
        cookies={}
        if config.cookies is None
        else read_cookies(config.cookies, _host(config.base_url)),
        section_names={}
        if config.section_names is None
        else load_names(config.section_names).table,
        department="" if department.isdecimal() else department,
        department_number=department if department.isdecimal() else None,
    )


def _collect_site(config: Config, order: CrawlJob, space: StageOutput) -> None:
    journal = CrawlState(space.directory)
    n_failed = 0
    try:
        n_failed = _crawl_with_person(config, order, journal)
    finally:
        counts = journal.counts
        space.manifest.counts.read = counts.total() + n_failed
        space.manifest.counts.kept = len(journal.kept)
        space.manifest.facts = {
            "list_pages": journal.n_lists,
            "case_pages": counts.total() + n_failed,
        }
        for outcome in (
            PageOutcome.MISSING,
            PageOutcome.UNREADABLE,
            PageOutcome.FORBIDDEN,
            PageOutcome.OTHER_DEPARTMENT,
        ):
            space.drop(outcome, counts[outcome])
        space.drop(PageOutcome.FAILED, n_failed)
    if not journal.kept:
        if counts[PageOutcome.FORBIDDEN] and counts[PageOutcome.FORBIDDEN] == counts.total():
            raise InputError(
                "{}: the site's robots.txt forbids every case page; ask the site's "
                "owner, or use --source files on saved cases",
                config.base_url,
            )
        what = (
            f"check --department {config.department!r} and --base-url"
            if config.department
            else "check --base-url"
        )
        raise InputError(
            "{}: {} case pages asked and no case among them; {}",
            config.base_url,
            counts.total(),
            what,
        )
    finish(space.directory)


def _crawl_with_person(config: Config, order: CrawlJob, journal: CrawlState) -> int:
    """Crawl; with a browser, let the person at the screen pass what the site asks for and go on.
    Returns how many pages failed."""
    ids = list_ids(config.ids) if config.ids else None
    n_before = -1
    while True:
        try:
            return crawl(journal.order(order, ids), journal)[PageOutcome.FAILED]
        except VerificationRequiredError as wanted:
            n_now = journal.n_lists + len(journal.asked)
            if (
                not config.browser or n_now == n_before
            ):  # passing it did not help: the site asks again at once
                raise
            n_before = n_now
            order = order.model_copy(
                update={
                    "cookies": wait_for_verification(
                        wanted.address, order.cookies, order.user_agent
                    )
                }
            )


def _collect_files(config: Config) -> Manifest:
    if config.input is None:
        raise InputError("collect: --source files needs --input; give the file or folder of cases")
    names, of_task = fit_task(config.task, load_names(config.section_names))
    columns = (*config.columns, *of_task)
    files = CaseFiles(config.input, names, Columns(columns, names))
    inputs = {"input": files.paths if is_hub_name(config.input) else config.input}
    inputs["tables"] = _tables(config)
    named = {"task": list(columns)} if len(columns) > len(config.columns) else {}
    with open_stage_output("collect", config, inputs, WRITES, names=named) as space:
        if space.is_finished:
            return space.manifest
        space.manifest.counts.kept = write_records(
            space.path(CASES), islice(files, config.limit), private=True
        )
        space.read(files.n_read)
        space.drop_all(files.dropped)
        problems = [*files.problems, *files.describe_columns()]
        facts = {"problems": problems[:N_PROBLEMS_SHOWN], "repairs": dict(+files.repairs)}
        space.manifest.facts = {name: fact for name, fact in facts.items() if fact}
        for problem in problems[:N_PROBLEMS_SHOWN]:
            print(f"warning: {problem}", file=sys.stderr)
        warn_large_drops(
            config.input.name, files.n_read, files.dropped, NEXT_STEPS, files.first_problems
        )
        return space.manifest


def _user_agent(config: Config) -> str:
    if not config.contact and _host(config.base_url) not in LOOPBACK:
        said = "warning: no --contact; the site's owner cannot see whom to write to"
        tell(said, to=sys.stderr)
    contact = " ".join(config.contact.split()).encode("ascii", "ignore").decode()
    address = f"; +{contact}" if contact else ""
    return f"MedKD/{__version__} (research crawler, obeys robots.txt{address})"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
