"""The stage `deidentify`: raw cases in, cases and an audit out.

In: `raw_cases.jsonl`. Out: `cases.jsonl`, and in the manifest how often each rule found something,
never what. Beside the raw cases: `private_ids.json`, which ids became which hash.
Not done here: finding and replacing (`search`, `replace`). A clean audit proves nothing.
"""

import hmac
import itertools
import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from medkd.core.config import RUNTIME, StageConfig
from medkd.core.errors import InputError, from_os_error
from medkd.core.html import write_page
from medkd.core.jsonl import RecordReader, first_problem, resolve_input, write_text
from medkd.core.parallel import map_in_order
from medkd.core.progress import track
from medkd.core.records import Case, RawCase
from medkd.core.stage_output import Manifest, open_stage_output
from medkd.deidentify.replace import CaseTexts, Style, deidentify_case, has_private_url
from medkd.deidentify.rules import VERSION, Match
from medkd.deidentify.search import find_in_all

REVIEW = "review.html"
PRIVATE_IDS = "private_ids.json"
WRITES = ("cases.jsonl", REVIEW)
MAX_CHARACTERS = 200_000
_MAX_REVIEWED = 300
_MAX_SHOWN = 20_000
"""Characters shown of one text of a reviewed case."""


class Config(StageConfig):
    """Find and replace what identifies a patient."""

    input: Annotated[Path, RUNTIME]
    """Raw cases: the directory of collect, or a JSON Lines file."""
    style: Style = "mask"
    """What stands in an identifier's place: a mark such as [姓名1], or a surrogate that looks
    real."""
    review: Annotated[bool, RUNTIME] = False
    """Also write review.html, the ORIGINAL text with what was found marked, for a person to look
    through. It names patients."""
    rules: str = VERSION
    """Name and version of the rules: a directory made by an older version is not taken for a
    finished one."""

    @field_validator("rules")
    @classmethod
    def _check(cls, rules: str) -> str:
        if rules != VERSION:
            raise ValueError(f"these rules are not here, only {VERSION!r}")
        return rules


class DropReason(StrEnum):
    """Why a raw case goes no further."""

    DUPLICATE_ID = "duplicate_id"
    """Another case before it has the same id."""
    EMPTY = "empty"
    """It holds no text in any section."""
    TOO_LONG = "too_long"
    """No record is that long: a file read wrongly, or something else."""


class _Pairs(BaseModel):
    """The content of `private_ids.json`."""

    model_config = ConfigDict(extra="forbid")
    salt: str
    ids: dict[str, str] = {}


class PrivateIds:
    """Hashes in the place of ids that may name a patient, salted with a secret that stays beside
    the raw cases.

    The file is made when the first id needs it. The same directory gives the same hashes again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pairs: _Pairs | None = None

    def hash(self, native: str) -> str:
        """Hash an id without its source; note the pair."""
        pairs = self._pairs = self._pairs or self._load()
        digest = hmac.new(bytes.fromhex(pairs.salt), native.encode("utf-8", "replace"), "sha256")
        return pairs.ids.setdefault(native, f"id{digest.hexdigest()[:16]}")

    def save(self) -> None:
        """Write the pairs, readable by their owner alone."""
        if self._pairs is not None:
            text = json.dumps(self._pairs.model_dump(), ensure_ascii=False)
            write_text(self.path, text + "\n", private=True)

    def _load(self) -> _Pairs:
        try:
            pairs = _Pairs.model_validate_json(self.path.read_bytes())
            bytes.fromhex(pairs.salt)
            return pairs
        except FileNotFoundError:
            self._pairs = _Pairs(salt=secrets.token_hex(32))
            self.save()  # before any hash leaves, so that no other salt follows a killed run
            return self._pairs
        except OSError as error:
            raise from_os_error(error, self.path) from error
        except (ValidationError, ValueError) as error:
            what = first_problem(error) if isinstance(error, ValidationError) else "salt is no hex"
            raise InputError(
                f"{self.path}: {what}; it holds the salt of earlier runs: put the right file back, "
                "or move it away to begin with new hashes"
            ) from error


def run(config: Config) -> Manifest:
    """De-identify a file of raw cases."""
    path = resolve_input(config.input, "raw_cases.jsonl", made_by="collect")
    with open_stage_output("deidentify", config, {"input": path}, WRITES) as output:
        if config.review:
            write_review(output.path(REVIEW), path)
        if output.is_finished:
            return output.manifest
        reader = RecordReader(path, RawCase, made_by="collect")
        dropped: Counter[str] = Counter()
        audit: Counter[str] = Counter()
        private_ids = PrivateIds(path.parent / PRIVATE_IDS)
        cases = track(reader, "deidentify", unit="cases")
        kept = output.write_records(
            "cases.jsonl", deidentify(cases, private_ids, dropped, audit, config.style)
        )
        private_ids.save()
        output.read(reader.n_read)
        output.drop_all({**reader.dropped(), **dropped})
        if not kept:
            raise InputError(
                f"{path}: no case holds any text of at most {MAX_CHARACTERS:,} characters; "
                "look at it, and collect again if the pages or columns were misread"
            )
        output.manifest.counts.kept = kept
        output.manifest.facts = {"rules": VERSION, "finds_by_rule": dict(audit.most_common())}
    return output.manifest


def deidentify(
    cases: Iterable[RawCase],
    private_ids: PrivateIds,
    dropped: Counter[str],
    audit: Counter[str],
    style: Style = "mask",
) -> Iterator[Case]:
    """De-identify cases in order; count drops by reason, and in the audit matches by rule."""
    work = partial(deidentify_case, style=style)
    for clean, matches, has_private_id in map_in_order(work, _choose(cases, dropped)):
        audit.update(matches)
        yield _hide_id(clean, private_ids, has_private_id)


def _hide_id(case: Case, private_ids: PrivateIds, has_private_id: bool) -> Case:
    """Put a hash in the place of an id that may name the patient, in the address of the page too;
    hash an address that names one itself."""
    url = case.url
    if has_private_id:
        native = case.id.removeprefix(f"{case.source}:")
        hashed = private_ids.hash(native)
        for spelt in {native, quote(native), quote(native, safe="")}:
            url = re.sub(rf"(?<![A-Za-z\d]){re.escape(spelt)}(?![A-Za-z\d])", hashed, url)
        case = case.model_copy(update={"id": f"{case.source}:{hashed}", "url": url})
    if url and has_private_url(url):
        host = re.match(r"[a-z]+://[^/?#@]*/", url)
        case = case.model_copy(
            update={"url": (host[0] if host else "") + private_ids.hash(case.url)}
        )
    return case


def _choose(cases: Iterable[RawCase], dropped: Counter[str]) -> Iterator[RawCase]:
    """Leave out what cannot go further, with its reason."""
    seen: set[str] = set()
    for case in cases:
        n_characters = sum(len(text.strip()) for text in case.sections.values())
        if case.id in seen:
            dropped[DropReason.DUPLICATE_ID] += 1
        elif not n_characters:
            dropped[DropReason.EMPTY] += 1
        elif n_characters > MAX_CHARACTERS:
            dropped[DropReason.TOO_LONG] += 1
        else:
            yield case
        seen.add(case.id)


class Piece(NamedTuple):
    """A stretch of text on the review page, marked with the rule that found it or not."""

    text: str
    rule: str = ""
    category: str = ""


def write_review(path: Path, source: Path) -> None:
    """Write a page that shows a person the original text of the first cases with what the rules
    find marked, so that what they miss can be seen; readable by its owner alone."""
    reader = RecordReader(source, RawCase, made_by="collect")
    cases = [(case, _mark(case)) for case in itertools.islice(reader, _MAX_REVIEWED)]
    rules = Counter(
        piece.rule for _, parts in cases for _, pieces in parts for piece in pieces if piece.rule
    )
    write_page(
        path,
        "medkd.deidentify",
        "review.html.jinja",
        private=True,
        title="What the rules found",
        cases=cases,
        rules=rules.most_common(),
        limit=_MAX_REVIEWED,
    )


def _mark(case: RawCase) -> list[tuple[list[Piece], list[Piece]]]:
    """Cut the texts of a case into pieces: each section's name with its text, then the others."""
    texts = [(text[:_MAX_SHOWN], joint) for text, joint in CaseTexts.of(case).joined()]
    cut = [
        _cut(text, matches) for (text, _), matches in zip(texts, find_in_all(texts), strict=True)
    ]
    n = 2 * len(case.sections)
    names = [
        "title",
        *("department" for _ in case.department),
        *("diagnosis" for _ in case.diagnosis),
    ]
    others = [([Piece(name)], pieces) for name, pieces in zip(names, cut[n:], strict=True)]
    return [
        (name, pieces)
        for name, pieces in (*zip(cut[:n:2], cut[1:n:2], strict=True), *others)
        if pieces
    ]


def _cut(text: str, matches: list[Match]) -> list[Piece]:
    pieces: list[Piece] = []
    position = 0
    for match in matches:
        pieces += [
            Piece(text[position : match.start]),
            Piece(text[match.start : match.end], match.rule, str(match.category)),
        ]
        position = match.end
    return [piece for piece in (*pieces, Piece(text[position:])) if piece.text]
