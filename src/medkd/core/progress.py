"""Shows progress: a bar with rate, ETA and cost on a terminal, plain lines in a pipe.

Not done here: logging of metrics (each stage writes its own records).
"""

import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from medkd.core.errors import Said
from medkd.core.i18n import get_spoken, tell

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

PLAIN_INTERVAL_S = 5.0
"""Seconds between two plain lines."""


def make_printable(text: str) -> str:
    r"""Leave out control characters but line breaks and tabs: what a model, a file or a server says
    must not steer the terminal.

    >>> make_printable("flu\x1b[2J\x07\n")
    'flu[2J\n'
    """
    return "".join(
        c
        for c in text
        if c in "\n\t" or (unicodedata.category(c) not in {"Cc", "Cs"} and c not in _BIDI)
    )


_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the direction of what follows them."""


class Bar:
    """A named piece of long work; use as a context manager and `advance` it.

    Prints to stderr, so that a command's own output can be piped.
    """

    def __init__(self, name: str, total: int | None = None, unit: str = "rows") -> None:
        self.name, self.total, self.unit = name, total, unit
        self.n_done = 0
        self.n_before = 0
        """What an earlier run had done; it does not count for the rate."""
        self.note = ""
        self._started = time.monotonic()
        self._last_line = self._started
        self._rich: Progress | None = None

    def __enter__(self) -> "Bar":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            self._rich = Progress(
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._rich.start()
            self._rich.add_task(self.name, total=self.total, rate="", left="", note="")
        return self

    def advance(self, n: int = 1, note: str | None = None) -> None:
        """Count `n` more done; `note` stands at the end of the line (cost so far, current loss)."""
        self.reach(self.n_done + n, self.n_before, note)

    def reach(self, n_done: int, n_before: int, note: str | None = None) -> None:
        """Set how much is done in all, and how much of it an earlier run had done."""
        self.n_done, self.n_before = n_done, n_before
        if note is not None:
            self.note = note
        now = time.monotonic()
        rate = (n_done - n_before) / max(now - self._started, 1e-6)
        left = ""
        if self.total and rate > 0:
            left = get_spoken().say(Said("about {:.0f} s left", (self.total - n_done) / rate))
        if self._rich is not None:
            speed = f"{rate:.1f} {self.unit}/s"
            for task in self._rich.task_ids:
                self._rich.update(
                    task, total=self.total, completed=n_done, rate=speed, left=left, note=self.note
                )
        elif now - self._last_line >= PLAIN_INTERVAL_S:
            self._last_line = now
            of_total = f"/{self.total}" if self.total else ""
            said = Said("{}: {}{} {}", self.name, n_done, of_total, Said(self.unit))
            parts = [get_spoken().say(said), f"{rate:.1f}/s", left, self.note]
            print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
            return
        seconds = time.monotonic() - self._started
        note = f", {self.note}" if self.note else ""
        before = Said(", {} before", self.n_before) if self.n_before else ""
        n_new = self.n_done - self.n_before
        said = "{}: {} {} in {:.1f} s{}{}"
        tell(said, self.name, n_new, Said(self.unit), seconds, before, note, to=sys.stderr)


def track(
    items: Iterable[T], name: str, total: int | None = None, unit: str = "rows"
) -> Iterator[T]:
    """Iterate with a bar."""
    with Bar(name, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()


LARGE_SHARE = 0.2
"""Share of rows dropped for one reason from which it is said aloud."""


def warn_large_drops(
    place: str,
    n_read: int,
    dropped: Mapping[Any, int],
    next_steps: Mapping[Any, str],
    first: Mapping[Any, str] | None = None,
) -> None:
    """Warn of each reason that took a large share of the rows, with its first row where known and
    the next step; reasons without a next step are passed over."""
    for reason, n_dropped in sorted(dropped.items(), key=lambda pair: -pair[1]):
        if reason in next_steps and n_dropped >= LARGE_SHARE * n_read:
            example = Said("; the first is {}", first[reason]) if first and reason in first else ""
            tell(
                "warning: {}: {} of {} rows dropped as {}{}; {}",
                place,
                n_dropped,
                n_read,
                get_spoken().word("reason", reason),
                example,
                Said(next_steps[reason]),
                to=sys.stderr,
            )
