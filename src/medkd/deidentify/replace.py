"""Replacing the identifiers of a case: consistent surrogates, dates moved by one offset, so that
intervals survive; what a secret decides of a patient, of an id, of the sealed way back.

In: a raw case. Out: the same case de-identified, and how often each rule found something. Not done
here: the rules (`search`), how a date is moved (`dates`); keeping the secret, which is never
written.
"""

import base64
import hashlib
import hmac
import itertools
import json
import os
import random
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, ValidationError

from medkd.core.errors import InputError, from_os_error
from medkd.core.jsonl import first_problem, write_text
from medkd.core.records import NAMES_NOT_SOUGHT, Case, RawCase
from medkd.deidentify import names
from medkd.deidentify.dates import MONTH_FIRST, DateShifter
from medkd.deidentify.numbers import is_record_label, link_names
from medkd.deidentify.recognizers import LAC
from medkd.deidentify.rules import VERSION, Category, Match, Table
from medkd.deidentify.search import (
    MARK,
    NO_HELP,
    Help,
    Residue,
    find_identifiers,
    find_in_all,
    find_residue,
)
from medkd.text.normalize import is_chinese, normalize

_TABLE = Table("surrogates.yaml")
_MAX_OFFSET_DAYS = 365
_SEAM = "。\n"
"""Between two texts of a case: nothing that identifies goes on over it."""
_LABEL_SEAM = ":\n"
"""Between a section's name and its text: the name is a label of the text, as in 姓名:."""
_TRIES = 20
_NUMERALS = "一二三四五六七八九"
_MAX_NUMBER = 99_999
"""Of marks that a patient's key draws."""


PRIVATE_IDS = "private_ids.json"
VARIABLE = "MEDKD_DEID_SECRET"
_SHORTEST = 16


class Patient(NamedTuple):
    """A patient whom the house knows by a key, and the house's secret."""

    secret: bytes
    key: str

    def draw(self, what: str) -> int:
        """Draw the number that belongs to something of this patient: a date offset, a name."""
        message = f"{self.key}\0{what}".encode("utf-8", "replace")
        return int.from_bytes(hmac.digest(self.secret, message, "sha256")[:8])


def read_secret(path: Path | None) -> bytes:
    """Read the secret from a file, else from the environment; raise InputError without one."""
    if path is None:
        secret = os.environ.get(VARIABLE, "").strip().encode()
        place = f"the variable {VARIABLE}"
    else:
        place = str(path)
        try:
            secret = path.read_bytes().strip()
        except OSError as error:
            raise from_os_error(error, path) from error
    if len(secret) < _SHORTEST:
        raise InputError(
            "{}: a secret of at least {} characters is needed for --patient-key and "
            "--map; set {} or pass --secret-file",
            place,
            _SHORTEST,
            VARIABLE,
        )
    return secret


def fingerprint(secret: bytes) -> str:
    """Tell a secret from another one; too short to lead back to it."""
    return hmac.digest(secret, b"fingerprint", "sha256").hex()[:8]


def _fernet(secret: bytes) -> Any:
    from cryptography.fernet import Fernet

    return Fernet(base64.urlsafe_b64encode(hmac.digest(secret, b"map", "sha256")))


def seal_map(path: Path, secret: bytes, rows: Iterable[dict[str, Any]]) -> None:
    """Write which surrogate stands for what in each case, sealed; only its owner may read it."""
    content = json.dumps(list(rows), ensure_ascii=False).encode("utf-8", "replace")
    write_text(path, _fernet(secret).encrypt(content).decode() + "\n", private=True)


def open_map(path: Path, secret: bytes) -> list[dict[str, Any]]:
    """Read a sealed map: for each case its `id`, `days` and `surrogates`."""
    from cryptography.fernet import InvalidToken

    try:
        content = _fernet(secret).decrypt(path.read_bytes().strip())
    except OSError as error:
        raise from_os_error(error, path) from error
    except InvalidToken as error:
        raise InputError("{}: another secret sealed it, or it was changed", path) from error
    return cast(list[dict[str, Any]], json.loads(content))


class _Pairs(BaseModel):
    """The content of `private_ids.json`."""

    model_config = ConfigDict(extra="forbid")
    salt: str
    ids: dict[str, str] = {}


class PrivateIds:
    """The hashes of a directory of raw cases.

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
                "{}: {}; it holds the salt of earlier runs: put the right file back, or "
                "move it away to begin with new hashes",
                self.path,
                what,
            ) from error


class Deidentified(NamedTuple):
    """A case without its identifiers, and the audit."""

    case: Case
    matches: Counter[str]
    """Matches by rule."""
    has_private_id: bool
    """Whether the id itself may name the patient and must become a hash."""
    residue: list[Residue]
    """What is left and deserves a look."""
    surrogates: dict[str, str]
    """What stands for what, from surrogate to original; filled for a sealed map alone."""
    days: int
    """Days by which dates were moved."""
    has_patient_key: bool


class Plan(NamedTuple):
    """How cases are de-identified."""

    natural: bool = False
    """Whether surrogates look real."""
    help: Help = NO_HELP
    patient_key: str = ""
    """The section, or `id`, that tells whose case it is."""
    secret: bytes = b""
    keeps_map: bool = False


PLAIN = Plan()


def list_texts(case: RawCase) -> list[tuple[str, str]]:
    """List the texts of a case as `find_in_all` takes them: each section's name and its text, then
    title, departments and diagnoses."""
    sections = [
        piece
        for name, text in case.sections.items()
        for piece in ((name, _LABEL_SEAM if name else ""), (text, _SEAM))
    ]
    others = (case.title, *case.department, *case.diagnosis)
    return [*sections, *((text, _SEAM) for text in others)]


def deidentify_case(case: RawCase, plan: Plan = PLAIN) -> Deidentified:
    """Replace the identifiers in a case's sections and their names, title, departments and
    diagnoses; id and address of the page stay as they are."""
    joined = list_texts(case)
    texts = [text for text, _ in joined]
    found = find_in_all(joined, plan.help)
    patient = _find_patient(case, plan)
    offset = _offset(patient.draw("days") if patient else _draw(case))
    is_english = not is_chinese("\n".join(texts))
    mark = mark_of(is_english=is_english, tagger=plan.help.tagger)
    matches = [[match for match in one if not match.is_flag] for one in found]
    everyone = (match.text for one in matches for match in one if match.category is Category.NAME)
    same = link_names(everyone) if is_english else {}
    replacer = Replacer(offset, plan.natural, _draw(case), texts, patient, is_english, same)
    clean = iter([replacer.replace(*pair) for pair in zip(texts, matches, strict=True)])
    sections = join_equal((next(clean), next(clean)) for _ in case.sections)
    cleaned = case.model_copy(
        update={
            "sections": sections,
            "title": next(clean),
            "department": tuple(next(clean) for _ in case.department),
            "diagnosis": tuple(clean),
        }
    )
    return Deidentified(
        Case(**cleaned.model_copy(update={"id_column": ""}).model_dump(), deidentified_by=mark),
        Counter(match.rule for one in matches for match in one),
        is_private_id(case),
        find_residue(joined, found),
        replacer.originals if plan.keeps_map else {},
        offset,
        patient is not None,
    )


def finds_english_names(tagger: str) -> bool:
    """Tell whether a tagger reads English; LAC reads Chinese alone."""
    return tagger not in {"", LAC}


def mark_of(is_english: bool, tagger: str) -> str:
    """Name what de-identified a case, and whether the names in an English one were looked for."""
    by = f"{VERSION} + {Path(tagger).name}" if tagger else VERSION
    return f"{by}; {NAMES_NOT_SOUGHT}" if is_english and not finds_english_names(tagger) else by


def _find_patient(case: RawCase, plan: Plan) -> Patient | None:
    """Find whose case it is; None where the case does not tell."""
    if not plan.patient_key:
        return None
    sections = {normalize(name).strip(): text for name, text in case.sections.items()}
    told = sections.get(normalize(plan.patient_key).strip(), "")
    if plan.patient_key == "id":
        told = case.id.removeprefix(f"{case.source}:")
    key = "".join(normalize(told).split()).lower()
    return Patient(plan.secret, key) if key else None


def join_equal(sections: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Collect sections; the texts of two that have come to the same name follow each other."""
    joined: dict[str, str] = {}
    for name, text in sections:
        joined[name] = f"{joined[name]}\n{text}" if name in joined else text
    return joined


_CHINESE_WORDS = re.compile(r"[一-鿿·]+")
_PLAIN_ID = re.compile(r"[A-Za-z]{0,6}[-_]?\d{1,6}|(?=\d*[a-f])[0-9a-f]{12}|id[0-9a-f]{16}")
"""Ids in which no rule finds anything: they need no search."""


def is_private_id(case: RawCase) -> bool:
    """Tell whether a case's id may name its patient: a record number, or a text in which something
    that identifies is found."""
    native = case.id.removeprefix(f"{case.source}:")
    return is_record_label(case.id_column) or _identifies(native)


def has_private_url(url: str) -> bool:
    """Tell whether the path of an address names a patient."""
    _, _, path = url.partition("://")[2].partition("/")
    return any(_identifies(piece) for piece in re.split(r"[/?&=#]+", unquote(path)) if piece)


def _identifies(text: str) -> bool:
    if _PLAIN_ID.fullmatch(text):
        return False
    if find_identifiers(text):
        return True
    words = _CHINESE_WORDS.findall(normalize(text))
    return any(names.is_whole_name(word) for word in words)


class Replacer:
    """Replaces the matches of one case: dates move, the others become marks such as [姓名1], in an
    English case [name 1], or something that looks real and belongs to nobody. Marks that came with
    `texts` keep their numbers."""

    def __init__(
        self,
        offset_days: int,
        natural: bool = False,
        seed: int = 0,
        texts: Iterable[str] = (),
        patient: Patient | None = None,
        is_english: bool = False,
        same: Mapping[str, str] | None = None,
    ) -> None:
        self._same = same or {}
        """Short names, and the full ones that they stand for."""
        self.originals: dict[str, str] = {}
        """What each surrogate stands for."""
        self._dates = DateShifter(offset_days, is_english)
        self._natural = natural
        self._random = random.Random(seed)
        self._patient = patient
        self._is_english = is_english
        self._given: dict[tuple[Category, str], str] = {}
        self._n: Counter[str] = Counter()
        for mark in (mark for text in texts for mark in MARK.finditer(text)):
            self._n[mark["category"]] = max(self._n[mark["category"]], int(mark["number"]))

    def replace(self, text: str, matches: Iterable[Match]) -> str:
        """Write a text with every match replaced; what stands between them stays as it was."""
        pieces: list[str] = []
        position = 0
        for match in matches:
            pieces += [text[position : match.start], self._surrogate(match)]
            position = match.end
        return "".join([*pieces, text[position:]])

    def _surrogate(self, match: Match) -> str:
        if match.category is Category.AGE:
            return "90+" if match.text.isascii() and "岁" not in match.text else "90岁以上"
        moved = (
            self._dates.shift(match.text, match.rule in MONTH_FIRST)
            if match.category is Category.DATE
            else None
        )
        return moved or self.of(match.category, match.text)

    def of(self, category: Category, text: str) -> str:
        """Choose the surrogate of a text: the same one whenever the text comes again; for a patient
        with a key, in every note and every run."""
        if category is Category.NAME and (full := self._same.get(text)):
            drawn_name = self.of(category, full)
            is_short = self._natural and " " not in text
            given = full.partition(",")[2].strip() or full  # LAST, FIRST
            return (
                drawn_name.split()[0 if given.title().startswith(text.title()) else -1]
                if is_short
                else drawn_name
            )
        squeezed = re.sub(r"[\s-]", "", text)
        key = (category, squeezed)
        if key not in self._given:
            drawn = 0
            if self._patient:
                drawn = self._patient.draw(f"{category}\0{squeezed}")
                self._random.seed(drawn)
            is_drawn = self._natural and category is not Category.DATE
            self._given[key] = (
                self._draw(category, text) if is_drawn else self._mark(category, drawn)
            )
            self.originals[self._given[key]] = text
        return self._given[key]

    def _mark(self, category: Category, drawn: int) -> str:
        word = f"{category.english} " if self._is_english else category
        if not self._patient:
            self._n[word] += 1
            return f"[{word}{self._n[word]}]"
        taken = set(self._given.values())
        numbers = (1 + (drawn + step) % _MAX_NUMBER for step in itertools.count())
        return next(mark for number in numbers if (mark := f"[{word}{number}]") not in taken)

    def _draw(self, category: Category, text: str) -> str:
        """Draw until it is neither the text itself nor what stands for another one."""
        taken = {text, *self._given.values()}
        drawn = ""
        for _ in range(_TRIES):
            drawn = self._imitate(category, text)
            if drawn not in taken:
                break
        return drawn

    def _imitate(self, category: Category, text: str) -> str:
        is_latin = text.isascii()
        match category:
            case Category.NAME if is_latin:
                first = [self._pick(_TABLE["first_names"])] if " " in text else []
                return " ".join([*first, self._pick(_TABLE["last_names"])])
            case Category.NAME:
                length = max(1, min(2, len(text) - 1)) if len(text) > 1 else 0
                return self._pick(_TABLE["surnames"]) + self._pick(_TABLE["given_names"])[:length]
            case Category.HOSPITAL:
                return self._pick(_TABLE["hospitals_english"] if is_latin else _TABLE["hospitals"])
            case Category.ADDRESS:
                place = self._pick(_TABLE["addresses_english"] if is_latin else _TABLE["addresses"])
                return place.replace("#", str(self._random.randint(2, 199)))
            case Category.EMAIL:
                return f"case{self._random.randint(100, 999)}@example.org"
            case Category.WEB:
                return f"https://example.org/{self._random.randint(100, 999)}"
            case Category.ID_CARD if len(text) == 18:
                return "99" + self._reshape(text[2:])  # no region has this number
            case Category.PLATE:
                return text[:2] + self._reshape(text[2:])
            case _:
                return self._reshape(text)

    def _pick(self, words: list[str]) -> str:
        return str(self._random.choice(words))

    def _reshape(self, text: str) -> str:
        """Draw other digits and letters in the same places; a first digit stays above zero where it
        was."""
        return "".join(self._other(character) for character in text)

    def _other(self, character: str) -> str:
        if character.isascii() and character.isdigit():
            return str(self._random.randint(0 if character == "0" else 1, 9))
        if character.isascii() and character.isalpha():
            letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
            return self._random.choice(letters if character.isupper() else letters.lower())
        if character in _NUMERALS:
            return self._random.choice(_NUMERALS)
        return character


def _offset(drawn: int) -> int:
    return -1 - drawn % _MAX_OFFSET_DAYS


def _draw(case: RawCase) -> int:
    """Draw a number from a hash of the whole raw content: the same run gives the same dates again,
    and who does not hold the original cannot compute it."""
    content = case.model_dump_json(include={"id", "title", "sections"})
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8])
