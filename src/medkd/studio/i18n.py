"""What the pages say, in English or Chinese: gettext catalogues, read from `locale/LANGUAGE.po`.

In: the languages a browser asks for. Out: texts by their English wording, words by their code
(states, reasons, outcomes), labels and hints of fields by stage and name. English needs no
catalogue. Not done here: errors of the program, which stay as they were said.
"""

import ast
import gettext
import io
import struct
from functools import cache
from importlib.resources import files
from typing import Any

LANGUAGES = ("zh", "en")
_CONTEXT = "\x04"
"""Stands between context and text in a compiled catalogue."""
_SEPARATOR = "｜"
"""Stands between label and hint of a field."""
_HEADER = "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=1; plural=0;\n"


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
        self._catalogue = load_catalogue(language)

    def __call__(self, text: str, **values: Any) -> str:
        """Translate a text of a page and fill its places in."""
        return _fill(self._catalogue.gettext(text), values)

    def n(self, one: str, many: str, n: int, **values: Any) -> str:
        """Translate a text that counts something."""
        return _fill(self._catalogue.ngettext(one, many, n), {"n": f"{n:,}", **values})

    def word(self, group: str, name: str) -> str:
        """Return the word for a code that comes from a file: a stage, a state, a reason.

        >>> Texts("en").word("reason", "near_duplicate"), Texts("zh").word("state", "running")
        ('near duplicate', '运行中')
        """
        found = self._catalogue.pgettext(group, name)
        return found if found != name else name.replace("_", " ")

    def field(self, stage: str, name: str, doc: str) -> tuple[str, str]:
        """Return the label and the hint of a field, or of a measure, whose English doc this is.

        >>> Texts("en").field("train", "learning_rate", "Peak.")
        ('Learning rate', 'Peak.')
        """
        label, _, hint = self._catalogue.pgettext(f"field {stage}", name).partition(_SEPARATOR)
        return (label, hint) if hint else (name.replace("_", " ").capitalize(), doc)

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


def _fill(text: str, values: dict[str, Any]) -> str:
    return text.format(**values) if values else text


@cache
def load_catalogue(language: str) -> gettext.NullTranslations:
    """Load the catalogue of a language; one that has none says everything in English."""
    source = files("medkd.studio").joinpath(f"locale/{language}.po")
    if not source.is_file():
        return gettext.NullTranslations()
    entries = read_po(source.read_text(encoding="utf-8"))
    return gettext.GNUTranslations(io.BytesIO(_compile({**entries, "": _HEADER})))


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


def _compile(entries: dict[str, str]) -> bytes:
    """Write entries in the binary form that `gettext.GNUTranslations` reads."""
    pairs = sorted((key.encode(), value.encode()) for key, value in entries.items())
    at_keys = 28
    at_values = at_keys + 8 * len(pairs)
    offset = at_values + 8 * len(pairs)
    tables: list[bytes] = []
    content = b""
    for column in (0, 1):
        for pair in pairs:
            tables.append(struct.pack("<II", len(pair[column]), offset + len(content)))
            content += pair[column] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), at_keys, at_values, 0, 0)
    return head + b"".join(tables) + content
