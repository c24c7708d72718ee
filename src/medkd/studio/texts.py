"""What the pages say, in Chinese or English: one file a language, the same keys in both.

In: the languages a browser asks for. Out: texts by key, labels and hints of fields, sentences of
the program. English hints are written once, in the stages' configs; those of another language stand
in `LANGUAGE_fields.yaml`, by stage and field. English sentences are written once, where the program
says them; those of another language stand in `LANGUAGE_sentences.yaml`, by the English one.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Any, cast

from medkd.core.yaml_io import read_shipped_yaml

LANGUAGES = ("zh", "en")
NUMBER, WORDS = r"[-+\d.,%e]+", r"(?>\([^()]*\)|.)+?"
"""What stands in a place of a sentence; words in brackets are not taken apart, they may be what
another program said."""
NARROW = {"n": NUMBER, "m": NUMBER, "k": NUMBER, "field": r"[\w.]+"}
"""Places that take something narrower than words."""
DATA = ("[", "{", '"')
"""How a place begins that holds no words of the program."""
COUNTED = re.compile(r"[a-z_]+ \d+(, [a-z_]+ \d+)*")
"""Reasons as the program counts them in a sentence."""


def choose_language(accepted: str) -> str:
    """Choose the language that a browser likes best, of those there are.

    >>> choose_language("fr, zh-CN;q=0.9, en;q=0.8"), choose_language("de")
    ('zh', 'en')
    """
    wishes: list[tuple[float, str]] = []
    for part in accepted.split(","):
        name, _, weight = part.strip().partition(";q=")
        try:
            wishes.append((-float(weight or 1), name.split("-")[0].lower()))
        except ValueError:
            continue
    return next(
        (name for _, name in sorted(wishes, key=lambda wish: wish[0]) if name in LANGUAGES), "en"
    )


LONGEST_SENTENCE = 600
"""Characters; what is longer is data, which takes too long to hold against every sentence."""


class Texts:
    """The texts of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._texts = read_texts(language)

    def __call__(self, key: str, **values: Any) -> str:
        """Give a text, its places filled in; a key that is nowhere is an error of the program."""
        text = self._texts[key]
        return text.format(**values) if values else text

    def word(self, group: str, name: str) -> str:
        """Give the word for a name that comes from a file (a stage, a state, a reason), or the name
        itself."""
        return self._texts.get(f"{group}.{name}", name)

    def group(self, group: str) -> dict[str, str]:
        """Give all words of a group."""
        return {
            key.removeprefix(f"{group}."): text
            for key, text in self._texts.items()
            if key.startswith(f"{group}.")
        }

    def label(self, stage: str, field: str, doc: str) -> tuple[str, str]:
        """Give the label and the hint of a field whose English doc this is; its name stays in
        sight, as it is the flag's."""
        label, hint = read_fields(self.language).get(stage, {}).get(field, (field, doc))
        return (label if label == field else f"{label} ({field})"), hint

    def say(self, sentence: str) -> str:
        """Translate a sentence of the program (an error, a finding), clause by clause; a clause that
        has no translation stays as it is, and so does a text longer than a sentence can be."""
        if len(sentence) > LONGEST_SENTENCE:
            return sentence
        for pattern, translated in (
            () if sentence.startswith(DATA) else read_sentences(self.language)
        ):
            if found := pattern.fullmatch(sentence):
                return translated.format(
                    **{name: self.say(value) for name, value in found.groupdict().items()}
                )
        if COUNTED.fullmatch(sentence):
            return re.sub("[a-z_]+", lambda reason: self.word("reason", reason[0]), sentence)
        return sentence


@cache
def read_fields(language: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Read the labels and hints of a language, by stage and field; English has none of its own."""
    name = f"{language}_fields.yaml"
    if not files("medkd.studio").joinpath(name).is_file():
        return {}
    content = cast(dict[str, dict[str, str]], read_shipped_yaml("medkd.studio", name))
    return {
        stage: {
            field: (label, hint)
            for field, text in fields.items()
            for label, _, hint in (text.partition("｜"),)
        }
        for stage, fields in content.items()
    }


@cache
def read_texts(language: str) -> dict[str, str]:
    """Read the texts of a language, keys joined by dots."""
    content = read_shipped_yaml("medkd.studio", f"{language}.yaml")
    return {
        f"{section}.{key}": str(text)
        for section, texts in cast(dict[str, dict[str, str]], content).items()
        for key, text in texts.items()
    }


@cache
def read_sentences(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Read what the program's sentences are in a language, those that say most of it by themselves
    first; English has none of its own."""
    name = f"{language}_sentences.yaml"
    if not files("medkd.studio").joinpath(name).is_file():
        return []
    sections = cast(dict[str, dict[str, str]], read_shipped_yaml("medkd.studio", name))
    told = [
        (re.split(r"{(\w+)}", sentence), translated)
        for section in sections.values()
        for sentence, translated in section.items()
    ]
    told.sort(key=lambda one: -sum(map(len, one[0][::2])))
    return [(re.compile("".join(_match(part) if at % 2 else re.escape(part) for at, part in enumerate(parts))), translated)
            for parts, translated in told]  # fmt: skip


def _match(place: str) -> str:
    return f"(?P<{place}>{NARROW.get(place, WORDS)})"
