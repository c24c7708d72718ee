"""The words of a report, in English and Chinese.

In: an English text with `{placeholders}`. Out: the same, or its entry of `report_texts.yaml`.
Not done here: which texts a page shows (`evaluate.report`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from medkd.core.records import Language
from medkd.core.yaml_io import read_shipped_yaml


class Note(NamedTuple):
    """A line of a report, and the values of its placeholders."""

    text: str
    values: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return self.text.format(**self.values)


class Catalogue:
    """Says texts in one language; one that the catalogue does not hold stays English.

    >>> Catalogue("zh")("Answers"), Catalogue("en")(Note("{n} questions", {"n": 3}))
    ('回答', '3 questions')
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        shipped: dict[str, dict[str, str]] = read_shipped_yaml(
            "medkd.evaluate", "report_texts.yaml"
        )
        self._texts = shipped.get(language, {})

    def __call__(self, text: str | Note, **values: Any) -> str:
        note = text if isinstance(text, Note) else Note(text, values)
        said = self._texts.get(note.text, note.text)
        told = {k: self(v) if isinstance(v, Note) else v for k, v in note.values.items()}
        return said.format(**told) if told else said
