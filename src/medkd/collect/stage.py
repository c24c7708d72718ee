"""The stage `collect`: a case site or a file in, `raw_cases.jsonl` out. What it writes may name patients.

Not done here: taking identifiers out (`medkd deidentify`, which comes next), repairs of the text (`medkd prepare`).
"""

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from medkd import __version__
from medkd.core.errors import InputError
from medkd.core.recipe import HOW, StageConfig
from medkd.core.workspace import Manifest, Workspace, open_workspace

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
N_PROBLEMS_SHOWN = 20


class Config(StageConfig):
    """Where cases come from, and how politely they are asked for."""

    source: Literal["iiyi", "files"] = "iiyi"
    """A case site of iiyi's layout, or a file of cases."""
    input: Annotated[Path | None, HOW] = None
    """With files: a JSON array or JSON Lines of cases, or another raw_cases.jsonl (or the directory it is in)."""
    base_url: str = "https://bingli.iiyi.com"
    """With iiyi: address of the site."""
    limit: int | None = Field(default=None, ge=1)
    """Keep so many cases and stop."""
    delay: Annotated[float, HOW] = Field(default=2.0, ge=0)
    """Seconds between two requests, give or take half; slower where the site is. 0 only on a site of one's own."""
    contact: Annotated[str, HOW] = ""
    """Web or mail address for the site's owner to write to; goes into the user agent."""

    def decisive_fields(self) -> dict[str, Any]:
        """Leave out the port of a site on this machine: a rehearsal site has another one each time."""
        fields = super().decisive_fields()
        if self.source == "files":
            return {name: value for name, value in fields.items() if name != "base_url"}
        if _host(self.base_url) in LOOPBACK:
            fields["base_url"] = "loopback"
        return fields


def run(config: Config) -> Manifest:
    """Collect cases into `--out`."""
    if config.source == "files":
        return _collect_files(config)
    if config.input is not None:
        raise InputError(f"{config.input}: --input is read with --source files only; add that, or leave --input out")
    if not config.base_url.startswith(("http://", "https://")) or not _host(config.base_url):
        raise InputError(f"{config.base_url}: no web address; give --base-url as https://host")
    with open_workspace("collect", config, libraries=["scrapy", "parsel"]) as space:
        if not space.is_finished:
            _collect_site(config, space)
        return space.manifest


def _collect_site(config: Config, space: Workspace) -> None:
    from medkd.collect.crawl import Journal, Outcome, crawl, finish

    journal = Journal(space.directory)
    failed = 0
    try:
        failed = crawl(journal.order(config.base_url, config.delay, _user_agent(config), config.limit), journal).total()
    finally:
        counts = journal.counts
        space.manifest.counts.read = counts.total() + failed
        space.manifest.counts.kept = len(journal.kept)
        space.manifest.facts = {"list_pages": journal.n_lists, "case_pages": counts.total() + failed}
        for outcome in (Outcome.MISSING, Outcome.UNREADABLE, Outcome.FORBIDDEN):
            space.drop(outcome, counts[outcome])
        space.drop(Outcome.FAILED, failed)
    if not journal.kept:
        raise InputError(f"{config.base_url}: {counts.total()} case pages asked and no case among them; check --base-url")
    finish(space.directory)


def _collect_files(config: Config) -> Manifest:
    from medkd.collect.files import CaseFile

    if config.input is None:
        raise InputError("collect: --source files needs --input; give the file of cases")
    path = config.input / "raw_cases.jsonl" if config.input.is_dir() else config.input
    if not path.is_file():
        raise InputError(f"{path}: no such file; check --input")
    with open_workspace("collect", config, inputs=[path]) as space:
        if space.is_finished:
            return space.manifest
        rows = CaseFile(path)
        space.manifest.counts.kept = space.write_records("raw_cases.jsonl", islice(rows, config.limit))
        space.read(rows.n_read)
        space.drop_all(rows.dropped)
        space.manifest.facts = {"problems": rows.problems[:N_PROBLEMS_SHOWN]} if rows.problems else {}
        for problem in rows.problems[:N_PROBLEMS_SHOWN]:
            print(f"warning: {problem}; passed over", file=sys.stderr)
        return space.manifest


def _user_agent(config: Config) -> str:
    if not config.contact and _host(config.base_url) not in LOOPBACK:
        print("warning: no --contact; the site's owner cannot see whom to write to", file=sys.stderr)
    contact = " ".join(config.contact.split()).encode("ascii", "ignore").decode()
    return f"MedKD/{__version__} (research crawler, obeys robots.txt{f'; +{contact}' if contact else ''})"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
