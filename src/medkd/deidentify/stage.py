"""The stage `deidentify`: raw cases in, cases, an audit and a list of what is left out.

In: `raw_cases.jsonl`. Out: `cases.jsonl`; in the manifest counts by rule and of what is left, never
the text; `residue.jsonl`, which holds such text, and `small_cells.csv` for a person.
Not done here: finding and replacing (`search`, `replace`). A clean audit proves nothing.
"""

import csv
import errno
import io
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

from pydantic import Field

from medkd.core.config import RUNTIME, StageConfig
from medkd.core.errors import InputError, StoppedError, from_os_error
from medkd.core.i18n import tell
from medkd.core.jsonl import (
    RecordReader,
    ShardRows,
    count_lines,
    read_lines,
    resolve_input,
    write_text,
)
from medkd.core.parallel import MANY, DoneWork, Engine, map_in_order
from medkd.core.progress import track
from medkd.core.records import Case, RawCase
from medkd.core.remote import RemotePath
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.deidentify.recognizers import Known, load_tagger, read_known
from medkd.deidentify.replace import (
    PLAIN,
    PRIVATE_IDS,
    Deidentified,
    Plan,
    PrivateIds,
    deidentify_case,
    finds_english_names,
    fingerprint,
    has_private_url,
    read_secret,
    seal_map,
)
from medkd.deidentify.review import estimate_recall, write_review
from medkd.deidentify.rules import VERSION
from medkd.deidentify.search import Help
from medkd.text.normalize import is_chinese

REVIEW = "review.html"
RESIDUE = "residue.jsonl"
SMALL_CELLS = "small_cells.csv"
WRITES = ("cases.jsonl", REVIEW, RESIDUE, SMALL_CELLS)
MAX_CHARACTERS = 200_000
_MANY_FOR_TAGGER = 64
"""Cases from which a tagger is worth several processes."""


class Config(StageConfig):
    """Find and replace what identifies a patient."""

    input: Annotated[Path, RUNTIME]
    """Raw cases: the directory of collect, or a JSON Lines file."""
    tagger: str = ""
    """A second opinion on names: lac (Chinese), or a token-classification model for transformers by
    its folder or name. A plausible name is masked, anything else listed in residue.jsonl."""
    known: Annotated[Path | None, RUNTIME] = None
    """What the house knows: a file with a term a line, masked wherever it stands (with a tab and
    `keep`: never masked); or what the review page saved, which also gives an estimate of recall."""
    patient_key: str = ""
    """The section that tells whose case it is, or "id": dates move alike and names get the same
    mark in all cases of a patient, decided by a secret."""
    secret_file: Annotated[Path | None, RUNTIME] = None
    """The secret for --patient-key and --map; without it the variable MEDKD_DEID_SECRET."""
    map: Annotated[Path | None, RUNTIME] = None
    """Write here, sealed with the secret, what each mark stands for. Outside --out."""
    natural: bool = False
    """Write surrogates that look real instead of marks such as [姓名1]."""
    strict: Annotated[bool, RUNTIME] = False
    """End with exit code 3 where residue.jsonl is not empty."""
    review: Annotated[bool, RUNTIME] = False
    """Also write review.html, the ORIGINAL text of a random sample with what was found marked, for
    a person to mark what was missed. It names patients."""
    review_share: Annotated[float, RUNTIME, Field(gt=0, le=1)] = 0.01
    """The share of cases with a miss that reading the sample without one rules out (95 %): the
    sample has 3 / share cases."""
    engine: Engine = "local"
    """Where cases are worked on: on this machine's processors, or on a Ray cluster of the same
    house, whose network then carries patients' text."""
    shard_rows: ShardRows = 0
    """Write the records as a folder of packed parts of so many rows (part-00000.jsonl.zst); 0: one
    plain file."""


class DropReason(StrEnum):
    """Why a raw case goes no further."""

    DUPLICATE_ID = "duplicate_id"
    """Another case before it has the same id."""
    EMPTY = "empty"
    """It holds no text in any section."""
    TOO_LONG = "too_long"
    """No record is that long: a file read wrongly, or something else."""


def run(config: Config) -> Manifest:
    """De-identify a file of raw cases."""
    path = resolve_input(config.input, "raw_cases.jsonl", made_by="collect")
    known = read_known(config.known) if config.known else Known()
    plan = _make_plan(config, known)
    inputs = {"input": path} | ({"known": config.known} if config.known else {})
    names = {"rules": [VERSION]}  # an older version's directory is not taken for a finished one
    if plan.secret:
        names["secret"] = [fingerprint(plan.secret)]
    if not finds_english_names(config.tagger):
        _warn_of_english(path)
    with open_stage_output("deidentify", config, inputs, WRITES, names=names) as output:
        if config.review:
            write_review(output.path(REVIEW), path, config.review_share, plan.help)
        if not output.is_finished:
            _work(config, path, plan, known, output)
        elif config.map:
            said = "{} is finished: {} is not written; run with --overwrite"
            tell(said, config.out, config.map, to=sys.stderr)
    if config.review:
        tell("to be read by a person, for it names patients: {}", output.path(REVIEW))
    if "recall" in (reviewed := output.manifest.facts.get("recall_in_review", {})):
        low, high = reviewed["interval"]
        tell(
            "recall in the cases that were read: {:.3f} [{:.3f}, {:.3f}], {} found and {} missed",
            *(reviewed["recall"], low, high, reviewed["found"], reviewed["missed"]),
        )
    n_left = sum(output.manifest.facts.get("residue", {}).values())
    if n_left:
        said = (
            "{}: {} things are left that may identify somebody; look at them, and pass --known: "
            "those that do, and with a tab and keep those that do not"
        )
        if config.strict:
            raise StoppedError(said, output.path(RESIDUE), n_left)
        tell(said, output.path(RESIDUE), n_left, to=sys.stderr)
    return output.manifest


def _make_plan(config: Config, known: Known) -> Plan:
    """Read the secret and load the tagger before anything is written."""
    secret = b""
    if config.patient_key or config.map:
        secret = read_secret(config.secret_file)
    if config.map:
        _check_map(config.map, config.out)
    if config.tagger:
        load_tagger(config.tagger)
    help_ = Help(known, config.tagger)
    return Plan(config.natural, help_, config.patient_key, secret, config.map is not None)


def _check_map(path: Path, out: Path) -> None:
    """Refuse a map that cannot be written, before hours of work."""
    if path.resolve().is_relative_to(out.resolve()):
        raise InputError("{}: keep the map apart from the data, outside {}", path, out)
    if path.is_dir():
        raise from_os_error(IsADirectoryError(errno.EISDIR, ""), path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise from_os_error(error, path.parent) from error


def _work(config: Config, path: Path, plan: Plan, known: Known, output: StageOutput) -> None:
    reader = RecordReader(path, RawCase, made_by="collect")
    audit = Audit(known)
    home = config.out if isinstance(path, RemotePath) else path
    private_ids = PrivateIds(home.parent / PRIVATE_IDS)
    found = deidentify(reader, private_ids, audit, plan, config.engine, output.open_done_work())
    shown = track(found, "deidentify", count_lines(path), "cases")
    kept = output.write_records("cases.jsonl", shown)
    private_ids.save()
    output.read(reader.n_read)
    output.drop_all({**reader.dropped(), **audit.dropped})
    if not kept:
        raise InputError(
            "{}: no case holds any text of at most {:,} characters; look at it, and "
            "collect again if the pages or columns were misread",
            path,
            MAX_CHARACTERS,
        )
    if config.patient_key and audit.n_without_key == kept:
        raise InputError(
            "{}: no case has a section {}, which --patient-key names; where a table of yours "
            "has the column, keep it with medkd collect --columns {}={}",
            path,
            config.patient_key,
            config.patient_key,
            config.patient_key,
        )
    if config.patient_key and audit.n_without_key:
        tell(
            "warning: {} of {} cases have no {}; their dates and marks are those of the case, not "
            "of the patient",
            audit.n_without_key,
            kept,
            config.patient_key,
            to=sys.stderr,
        )
    if unread := audit.find_unread():
        said = "warning: {}: {} of the cases read are not in {}, such as {}; they count for nothing"
        tell(said, config.known, len(unread), path, unread[0], to=sys.stderr)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in audit.residue)
    write_text(output.path(RESIDUE), "".join(lines), private=True)
    cells = find_small_cells(audit.cells)
    write_text(output.path(SMALL_CELLS), _as_csv(cells))
    if config.map:
        seal_map(config.map, plan.secret, audit.map)
    output.manifest.counts.kept = kept
    output.manifest.facts = {**audit.facts(plan), "small_cells": len(cells)}


SMALL = 5
_AGE = re.compile(r"(\d{1,3})\s?岁|(\d{1,3})[- ]?(?:years?[- ]old|y/?o\b)|(90\+)")
_SEX = re.compile(r"[男女]|\b(?:fe)?male\b|\b(?:wo)?man\b", re.IGNORECASE)
_PLACE = re.compile(r"(?![自从在于到至去往来由住])[一-鿿]{2,3}(?:省|市|自治区|自治州)")


class Cell(NamedTuple):
    """What a few cases share."""

    age: str
    """A band of ten years, as 60-69."""
    sex: str
    place: str
    """A province or city that the case still names."""
    rare_disease: str
    """The first diagnosis, where fewer than five cases have it."""
    n: int = 0


def find_small_cells(seen: Mapping[Cell, int]) -> list[Cell]:
    """Find the cells with fewer than five cases that name a place or a rare disease."""
    diseases, cells = Counter[str](), Counter[Cell]()
    for cell, n in seen.items():
        diseases[cell.rare_disease] += n
    for cell, n in seen.items():
        is_rare = diseases[cell.rare_disease] < SMALL
        cells[cell if is_rare else cell._replace(rare_disease="")] += n
    return sorted(
        cell._replace(n=n)
        for cell, n in cells.items()
        if n < SMALL and (cell.place or cell.rare_disease)
    )


def _cell_of(case: Case) -> Cell:
    text = "\n".join(case.sections.values())
    age, sex, place = _AGE.search(text), _SEX.search(text), _PLACE.search(text)
    years = 90 if age and age[3] else int(age[1] or age[2]) if age else -1
    band = (
        "" if years < 0 else "90+" if years >= 90 else f"{years // 10 * 10}-{years // 10 * 10 + 9}"
    )
    said = sex[0].lower() if sex else ""
    return Cell(
        band,
        "" if not said else "女" if said in {"女", "female", "woman"} else "男",
        place[0] if place else "",
        case.diagnosis[0] if case.diagnosis else "",
    )


def _as_csv(cells: list[Cell]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Cell._fields)
    writer.writerows(cells)
    return file.getvalue()


def _warn_of_english(path: Path) -> None:
    """Say how many cases are in English, where nothing looks for names without a label."""
    n = n_english = 0
    for _, line in read_lines(path):
        try:
            sections = json.loads(line)["sections"]
            text = "\n".join(map(str, sections.values()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        n += 1
        n_english += not is_chinese(text)
    if n_english:
        tell(
            "warning: {} of {} cases are in English, and only names with a label, a title or a "
            "relation are found there; pass --tagger MODEL for the others, without which distill "
            "will want --accept-identified",
            n_english,
            n,
            to=sys.stderr,
        )


class Audit:
    """What is counted and listed while cases are de-identified."""

    def __init__(self, known: Known | None = None) -> None:
        self.dropped: Counter[str] = Counter()
        self.finds: Counter[str] = Counter()
        self.residue: list[dict[str, str]] = []
        self.map: list[dict[str, Any]] = []
        self.cells: Counter[Cell] = Counter()
        self._kinds: Counter[str] = Counter()
        self._known = known or Known()
        self._read: set[str] = set()
        self._n_found_in_read = 0
        self.n_without_key = 0

    def note(self, case: Case, result: Deidentified) -> None:
        """Note what was found and left in a case; `case` has the id it keeps."""
        self.cells[_cell_of(case)] += 1
        self.finds.update(result.matches)
        self.n_without_key += not result.has_patient_key
        if result.case.id in self._known.read:
            self._read.add(result.case.id)
            self._n_found_in_read += result.matches.total() - result.matches["known"]
        for left in result.residue:
            self._kinds[left.kind] += 1
            self.residue.append(
                {"case": case.id, "kind": left.kind, "text": left.text, "around": left.around}
            )
        if result.surrogates:
            self.map.append({"id": case.id, "days": result.days, "surrogates": result.surrogates})

    def facts(self, plan: Plan) -> dict[str, Any]:
        """Put the counts together for the manifest."""
        facts: dict[str, Any] = {
            "rules": VERSION,
            "finds_by_rule": dict(self.finds.most_common()),
            "residue": dict(self._kinds.most_common()),
        }
        if plan.patient_key:
            facts["without_patient_key"] = self.n_without_key
        if self._known.read:
            facts["recall_in_review"] = estimate_recall(
                self._n_found_in_read, self._known.n_missed
            ) | {"cases_read": len(self._read)}
        return facts

    def find_unread(self) -> list[str]:
        """Find the cases that a person says to have read and that are not among these."""
        return sorted(self._known.read - self._read)


def deidentify(
    cases: Iterable[RawCase],
    private_ids: PrivateIds,
    audit: Audit,
    plan: Plan = PLAIN,
    engine: Engine = "local",
    done: DoneWork | None = None,
) -> Iterator[Case]:
    """De-identify cases in order; note in the audit what was dropped, found and left."""
    work = partial(deidentify_case, plan=plan)
    many = _MANY_FOR_TAGGER if plan.help.tagger else MANY
    for result in map_in_order(work, _choose(cases, audit.dropped), many, engine, done=done):
        case = _hide_id(result.case, private_ids, result.has_private_id)
        audit.note(case, result)
        yield case


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
