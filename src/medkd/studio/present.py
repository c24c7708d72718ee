"""HTML of what pages show. Everything from a model, a web page or a file is escaped here and
nowhere made live.

In: plain values. Out: HTML for a page's part. Not done here: what is worth showing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from medkd.studio.citations import Piece, mark_reasoning, mark_record
from medkd.studio.rows import Shown
from medkd.studio.texts import Texts

MAX_SHOWN = 20_000
"""Characters of one text that are put on a page; the file holds the rest."""
SNIPPET = 90
HANZI = re.compile("[\u4e00-\u9fff]")

PICK = """
const act = (event) => {
  const picked = event.target.closest('[data-pick]');
  if (picked) trigger('select', {value: picked.dataset.pick});
};
element.addEventListener('click', act);
"""
"""Run when a part is put on its page: a button with `data-pick` in it raises the part's select
event with that value."""
AT_ONCE: dict[str, Any] = {"queue": False}
"""How every event of a page is answered: in its own response. The framework's shared stream of
answers loses one: it ends when nothing is pending, and a browser that asks for something in that
moment takes the ending stream for the one that will bring its answer."""
SCROLL = "() => document.querySelector('article.case')?.scrollIntoView({behavior: 'smooth', block: 'start'})"
"""Brings a case that was picked into sight."""


NUMBER = re.compile(r"[+-]?[\d,]+(\.\d+)?")


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader

    return Environment(
        loader=PackageLoader("medkd.studio", "parts"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(part: str, texts: Texts, **values: Any) -> str:
    """Fill a part in; every value is escaped."""
    return str(_environment().get_template(f"{part}.html.jinja").render(t=texts, **values))


def shorten(text: str, limit: int = MAX_SHOWN) -> tuple[str, int]:
    """Cut a text that is too long for a page; gives what is shown and how many characters are
    not."""
    return text[:limit], max(0, len(text) - limit)


def show_notice(text: str, kind: str = "info") -> str:
    """Show a line of news: `info`, `good` or `bad`."""
    from markupsafe import escape

    role = "alert" if kind == "bad" else "status"
    return f'<p class="notice {kind}" role="{role}">{escape(text)}</p>' if text else ""


def show_error(error: Exception, texts: Texts) -> str:
    """Show why something was not done, in the reader's language as far as it is known there."""
    said = texts.say(str(error))
    is_known = said != str(error) or HANZI.search(said)
    return show_notice(said if is_known else texts("page.said", said=said), "bad")


def show_case(shown: Shown, texts: Texts, teacher: str = "") -> str:
    """Show one row whole: the record with what is cited marked, the reasoning, the answer, the
    verdicts."""
    question, n_more_question = shorten(shown.question)
    reasoning, n_more_reasoning = shorten(shown.reasoning)
    answer, n_more_answer = shorten(shown.answer)
    has_both = bool(question and reasoning)
    return render(
        "case",
        texts,
        shown=shown,
        question=mark_record(question, reasoning) if has_both else [Piece(question)],
        reasoning=mark_reasoning(reasoning, question) if has_both else [Piece(reasoning)],
        answer=answer,
        more={"question": n_more_question, "reasoning": n_more_reasoning, "answer": n_more_answer},
        teacher=shorten(teacher)[0],
    )


def show_rows(rows: Sequence[tuple[int, Shown, str]], texts: Texts, group: str = "reason") -> str:
    """List rows, each a button that picks it; `group` names the words of the tags."""
    listed = [
        {
            "number": number,
            "id": shorten(shown.id, 60)[0],
            "text": shorten(shown.question, SNIPPET)[0],
            "tag": tag,
        }
        for number, shown, tag in rows
    ]
    return render("rows", texts, rows=listed, group=group)


def show_bars(
    counts: Mapping[str, int],
    chosen: str,
    texts: Texts,
    group: str = "reason",
    title: str = "",
    is_choice: bool = True,
) -> str:
    """Draw counts as bars, each a button that filters unless there is nothing to choose; the chosen
    one is pressed."""
    longest = max(counts.values(), default=1)
    bars = [{"name": name, "n": n, "share": 100 * n / longest} for name, n in counts.items()]
    return render(
        "bars", texts, bars=bars, chosen=chosen, group=group, title=title, is_choice=is_choice
    )


def show_table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], texts: Texts, caption: str = ""
) -> str:
    """Draw a table; a column of numbers stands to the right."""
    written = [[write_cell(cell) for cell in row] for row in rows]
    columns = zip(*written, strict=True) if written else ((),) * len(head)
    numeric = [
        any(column) and all(not cell or NUMBER.fullmatch(cell) for cell in column)
        for column in columns
    ]
    return render(
        "table", texts, head=list(zip(head, numeric, strict=True)), rows=written, caption=caption
    )


def show_facts(facts: Mapping[str, Any], texts: Texts) -> str:
    """List names and values."""
    return render("facts", texts, facts={name: write_cell(value) for name, value in facts.items()})


def write_cell(value: Any) -> str:
    """Write a value for a table."""
    if isinstance(value, bool) or value is None:
        return {True: "✓", False: "–", None: ""}[value]
    if isinstance(value, float):
        return (
            "" if math.isnan(value) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        )
    if isinstance(value, int):
        return f"{value:,}"
    return shorten(str(value), 2000)[0]


def write_seconds(seconds: float, texts: Texts) -> str:
    """Write a span of time.

    >>> [write_seconds(seconds, Texts("en")) for seconds in (5.2, 75, 7384)]
    ['5 s', '1:15 min', '2:03 h']
    >>> [write_seconds(seconds, Texts("zh")) for seconds in (5.2, 75, 7384)]
    ['5 秒', '1 分 15 秒', '2 小时 03 分']
    """
    if seconds < 60:
        return texts("span.seconds", s=f"{seconds:.0f}")
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return texts("span.hours", h=hours, min=f"{minutes % 60:02}")
    return texts("span.minutes", min=minutes, s=f"{int(seconds % 60):02}")
