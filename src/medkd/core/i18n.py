"""What pages, help and reports say, in English or Chinese: catalogues in gettext's form.

In: `locale/LANGUAGE*.po`. Out: texts by their English wording, words by their code (states,
reasons, outcomes), labels and hints of fields by stage and name.
"""

import ast
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from typing import Any, TextIO

from medkd.core.errors import MedkdError, Said

LANGUAGES = ("zh", "en")
_CONTEXT = "\x04"
"""Stands between context and text in a compiled catalogue."""
_SEPARATOR = "｜"
"""Stands between label and hint of a field."""


def choose_language(accepted: str) -> str:
    """Choose the language that a browser likes best, of those there are.

    >>> choose_language("fr, zh-CN;q=0.9, en;q=0.8"), choose_language("de")
    ('zh', 'en')
    """
    wishes: list[tuple[float, str]] = []
    for part in accepted[:1000].split(","):
        name, _, weight = part.strip().partition(";q=")
        try:
            wishes.append((-float(weight or 1), name.split("-")[0].lower()))
        except ValueError:
            continue
    ordered = sorted(wishes, key=lambda wish: wish[0])
    return next((name for _, name in ordered if name in LANGUAGES), "en")


class Texts:
    """The texts of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._known = load_catalogue(language)

    def __call__(self, text: str, **values: Any) -> str:
        """Translate a text of a page and fill its places in."""
        return _fill(self._known.get(text, text), values)

    def n(self, one: str, many: str, n: int, **values: Any) -> str:
        """Translate a text that counts something."""
        text = self._known.get(f"{one}\0{many}") or (one if n == 1 else many)
        return _fill(text, {"n": f"{n:,}", **values})

    def word(self, group: str, name: str) -> str:
        """Return the word for a code that comes from a file: a stage, a state, a reason.

        >>> Texts("en").word("reason", "near_duplicate"), Texts("zh").word("state", "running")
        ('near duplicate', '运行中')
        """
        return self._known.get(f"{group}{_CONTEXT}{name}", name.replace("_", " "))

    def of(self, context: str, text: str, **values: Any) -> str:
        """Translate a text that stands under a context (`cli`, `report`) and fill its places in.

        >>> Texts("en").of("cli", "next: {step}", step="medkd merge")
        'next: medkd merge'
        """
        return _fill(self._known.get(f"{context}{_CONTEXT}{text}", text), values)

    def error(self, error: MedkdError) -> str:
        """Translate an error by its template, which stands under the context `error`."""
        return self.say(error.said)

    def say(self, said: Said) -> str:
        """Translate a text of the program, and those that stand in its places."""
        template = self._known.get(f"error{_CONTEXT}{said.template}", said.template)
        fields = [self.say(field) if isinstance(field, Said) else field for field in said.fields]
        try:
            return template.format(*fields) if fields else template
        except (ValueError, TypeError):  # a field that has become text, behind a format of its own
            return str(said)

    def field(self, stage: str, name: str, doc: str) -> tuple[str, str]:
        """Return the label and the hint of a field, or of a measure, whose English doc this is.

        >>> Texts("en").field("train", "learning_rate", "Peak.")
        ('Learning rate', 'Peak.')
        """
        known = self._known.get(f"field {stage}{_CONTEXT}{name}", "")
        label, _, hint = known.partition(_SEPARATOR)
        usual = self.word("field", name)
        return (label, hint) if hint else (usual[:1].upper() + usual[1:], doc)

    def seconds(self, seconds: float) -> str:
        """Write a span of time.

        >>> [Texts("en").seconds(span) for span in (5.2, 75, 7384)]
        ['5 s', '1 min 15 s', '2 h 03 min']
        """
        minutes, hours = int(seconds // 60), int(seconds // 3600)
        if hours:
            return self("{h} h {min} min", h=hours, min=f"{minutes % 60:02}")
        if minutes:
            return self("{min} min {s} s", min=minutes, s=f"{int(seconds % 60):02}")
        return self("{s} s", s=f"{seconds:.0f}")


_spoken = ContextVar("spoken", default="en")
"""The language that `tell` speaks."""


@contextmanager
def speak(language: str) -> Generator[Texts]:
    """Have `tell` speak a language meanwhile."""
    before = _spoken.set(language)
    try:
        yield Texts(language)
    finally:
        _spoken.reset(before)


def get_spoken() -> Texts:
    """Return the texts of the language that is spoken, English where no command line chose one."""
    return Texts(_spoken.get())


def tell(text: str, *fields: object, to: TextIO | None = None) -> None:
    """Print a text of the program in the language that is spoken; to stdout, or to another stream.

    >>> with speak("zh"):
    ...     tell("nothing is wrong")
    没有发现问题
    """
    print(
        get_spoken().say(Said.of(text, *fields)),
        file=to,
        flush=True,
    )


def _fill(text: str, values: dict[str, Any]) -> str:
    return text.format(**values) if values else text


@cache
def load_catalogue(language: str) -> dict[str, str]:
    """Load the catalogue of a language; one that has none says everything in English."""
    entries: dict[str, str] = {}
    for part in ("", ".cli", ".report"):
        source = files("medkd").joinpath(f"locale/{language}{part}.po")
        if source.is_file():
            entries |= read_po(source.read_text(encoding="utf-8"))
    return entries


def read_po(text: str) -> dict[str, str]:
    """Read a catalogue: what is translated (behind its context, where it has one) to its
    translation.

    >>> read_po('msgctxt "state"\\nmsgid "done"\\nmsgstr "已完成"')
    {'state\\x04done': '已完成'}
    """
    entries: dict[str, str] = {}
    parts: dict[str, str] = {}
    current = ""
    for line in [*text.splitlines(), ""]:
        keyword, _, rest = line.partition(" ")
        if line.startswith('"'):
            parts[current] += ast.literal_eval(line)
        elif keyword in ("msgctxt", "msgid", "msgid_plural", "msgstr", "msgstr[0]"):
            current = keyword
            parts[current] = ast.literal_eval(rest)
        elif not line:
            translated = parts.get("msgstr") or parts.get("msgstr[0]")
            if translated and parts.get("msgid"):
                context = f"{parts['msgctxt']}{_CONTEXT}" if "msgctxt" in parts else ""
                plural = f"\0{parts['msgid_plural']}" if "msgid_plural" in parts else ""
                entries[f"{context}{parts['msgid']}{plural}"] = translated
            parts = {}
    return entries
