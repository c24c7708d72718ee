"""What the pages say, in Chinese or English: one file a language, the same keys in both.

In: the languages a browser asks for. Out: texts by key, labels and hints of fields. English hints are written once, in the stages' configs;
those of another language stand in `LANGUAGE_fields.yaml`, by stage and field.
"""

from functools import cache
from importlib.resources import files
from typing import Any, cast

LANGUAGES = ("zh", "en")


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
    return next((name for _, name in sorted(wishes, key=lambda wish: wish[0]) if name in LANGUAGES), "en")


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
        """Give the word for a name that comes from a file (a stage, a state, a reason), or the name itself."""
        return self._texts.get(f"{group}.{name}", name)

    def label(self, stage: str, field: str, doc: str) -> tuple[str, str]:
        """Give the label and the hint of a field whose English doc this is; its name stays in sight, as it is the flag's."""
        label, hint = read_fields(self.language).get(stage, {}).get(field, (field, doc))
        return (label if label == field else f"{label} ({field})"), hint


@cache
def read_fields(language: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Read the labels and hints of a language, by stage and field; English has none of its own."""
    import yaml

    path = files("medkd.studio").joinpath(f"{language}_fields.yaml")
    if not path.is_file():
        return {}
    content = cast(dict[str, dict[str, str]], yaml.safe_load(path.read_text(encoding="utf-8")))
    return {
        stage: {field: (label, hint) for field, text in fields.items() for label, _, hint in (text.partition("｜"),)}
        for stage, fields in content.items()
    }


@cache
def read_texts(language: str) -> dict[str, str]:
    """Read the texts of a language, keys joined by dots."""
    import yaml

    content = yaml.safe_load(files("medkd.studio").joinpath(f"{language}.yaml").read_text(encoding="utf-8"))
    return {
        f"{section}.{key}": str(text) for section, texts in cast(dict[str, dict[str, str]], content).items() for key, text in texts.items()
    }
