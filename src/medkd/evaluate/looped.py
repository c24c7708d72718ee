"""From answers that repeat themselves to the training rows that may have taught it, and to what is
wrong with those rows.

In: predictions, the file of rows that a lineage leads to, the folder of the model. Out: for each
looped answer the rows most like it, and lines that sum up. Alike is the cosine of the counts of
letter n-grams: a row that says a thing as often as the answer does is nearer than one that says it
once. Not done here: finding the training file (`evaluate.seen`), curing (`verify`, `train`,
docs/stopping.md).
"""

import heapq
import math
import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from medkd.core import thinking
from medkd.core.jsonl import RecordReader
from medkd.core.progress import track
from medkd.core.records import Example, FinishReason, Prediction, Record
from medkd.grading.loops import count_n_grams, is_looping

N_TRACED = 50
"""Looped answers that are traced; each costs a look at every row."""
N_NEAREST = 3
N_SHOWN = 80
"""Characters shown of a sentence."""
_END = re.compile(r"[。！？；.!?;…]['\"”’）)\]】」』*]*$")
_SHORT_ANSWER = 40
"""Letters up to which an answer may end without a full stop: a diagnosis does."""


class Flaw(StrEnum):
    """What is wrong with a training row."""

    REPEATS = "repeats itself"
    """It repeats itself: who learns it learns to loop."""
    ENDS_EARLY = "ends in mid-sentence"
    """Its reasoning, or a long answer, has no end: it was cut off before it became a row."""


class Near(Record):
    """A training row that is like a looped answer."""

    id: str
    likeness: float
    """0 to 1."""
    flaws: tuple[Flaw, ...]
    says: str
    """Its sentence that the answer says most often."""


class Looped(Record):
    """A looped answer and the rows nearest to it, the most like one first."""

    id: str
    finish_reason: str
    says: str
    """What it says most often."""
    rows: tuple[Near, ...]


class Traced(Record):
    """What is known of where the loops come from."""

    answers: tuple[Looped, ...]
    lines: tuple[str, ...]
    """What it comes to, a line each."""


def has_looped(prediction: Prediction) -> bool:
    """Tell whether an answer repeats itself, or was stopped because it does."""
    return prediction.finish_reason == FinishReason.LOOP or is_looping(prediction.raw)


def trace(looped: Sequence[Prediction], training_path: Path) -> Traced:
    """Find the training rows nearest to each looped answer, and count what is wrong with them and
    with all rows."""
    traced = looped[:N_TRACED]
    wanted = [count_n_grams(p.raw) for p in traced]
    norms = [_norm(counts) for counts in wanted]
    nearest: list[list[tuple[float, int, Near]]] = [[] for _ in traced]
    flawed: Counter[Flaw] = Counter()
    reader = RecordReader(training_path, Example, made_by="merge")
    for number, example in enumerate(track(reader, "trace loops")):
        output = (
            thinking.write(example.reasoning, example.answer)
            if example.reasoning.strip()
            else example.answer
        )
        flaws = find_flaws(example)
        flawed.update(flaws)
        counts = count_n_grams(output)
        norm = _norm(counts)
        for place, (other, other_norm) in enumerate(zip(wanted, norms, strict=True)):
            likeness = _dot(other, counts) / (norm * other_norm) if norm and other_norm else 0.0
            if likeness and (len(nearest[place]) < N_NEAREST or likeness > nearest[place][0][0]):
                says = _find_most_said(output, other)
                near = Near(id=example.id, likeness=round(likeness, 3), flaws=flaws, says=says)
                (heapq.heappush if len(nearest[place]) < N_NEAREST else heapq.heapreplace)(
                    nearest[place], (likeness, -number, near)
                )
    answers = [
        Looped(
            id=p.id,
            finish_reason=p.finish_reason,
            says=_find_most_said(p.raw, counts),
            rows=tuple(near for *_, near in sorted(found, reverse=True)),
        )
        for p, counts, found in zip(traced, wanted, nearest, strict=True)
    ]
    return Traced(
        answers=tuple(answers), lines=tuple(_sum_up(len(looped), answers, flawed, reader.n_read))
    )


def find_flaws(example: Example) -> tuple[Flaw, ...]:
    """Find what in a row teaches not to stop.

    >>> from medkd.core.records import Lineage
    >>> row = Example(id="a:1", source="a", style="bare", input="?", reasoning="发热三天，考虑", answer="肺炎", lineage=Lineage(origin="a"))
    >>> find_flaws(row)
    (<Flaw.ENDS_EARLY: 'ends in mid-sentence'>,)
    """
    reasoning, answer = example.reasoning.strip(), example.answer.strip()
    is_cut = bool(reasoning) and not _END.search(reasoning)
    is_cut |= len(answer) > _SHORT_ANSWER and not _END.search(answer)
    repeats = is_looping(reasoning) or is_looping(answer)
    return tuple(
        flaw for flaw, holds in ((Flaw.REPEATS, repeats), (Flaw.ENDS_EARLY, is_cut)) if holds
    )


def tell_stops(folder: Path, base: Path) -> list[str]:
    """Say so where a model's own generation config does not stop on the end of its turn: served
    elsewhere, it would go on."""
    from medkd.models.chat_template import find_end_of_turn, list_ids
    from medkd.models.inspect import read_generation_config
    from medkd.models.load import load_tokenizer

    tokenizer = load_tokenizer(base, folder)
    end = find_end_of_turn(tokenizer)
    place = folder if (folder / "generation_config.json").exists() else base
    if end in list_ids(read_generation_config(place).eos_token_id):
        return []
    name = tokenizer.convert_ids_to_tokens(end)
    return [
        f"The generation config does not stop on {name}, the end of a turn: served elsewhere it would go on; medkd export mends it."
    ]


def _sum_up(
    n_looped: int, answers: Sequence[Looped], flawed: Counter[Flaw], n_rows: int
) -> list[str]:
    lines = (
        [f"{len(answers)} of {n_looped} looped answers are traced."]
        if len(answers) < n_looped
        else []
    )
    for flaw in Flaw:
        n = sum(any(flaw in row.flaws for row in answer.rows) for answer in answers)
        if n:
            lines.append(
                f"{n} of {len(answers)} looped answers are like a training row that {flaw}."
            )
    lines += [
        f"In all, {n} of {n_rows} training rows: {flaw}. Take them out and train again."
        for flaw, n in flawed.items()
    ]
    if not flawed:
        lines.append(
            f"None of {n_rows} training rows repeats itself or ends in mid-sentence: look at stop tokens and template (medkd doctor)."
        )
    return lines


def _find_most_said(text: str, counts: Counter[str]) -> str:
    """Find the sentence of a text whose letters come up most often in what was counted."""
    sentences = [
        sentence.strip() for sentence in re.split(r"(?<=[。！？!?\n])", text) if sentence.strip()
    ]
    return max(sentences, key=lambda sentence: _dot(count_n_grams(sentence), counts), default="")[
        :N_SHOWN
    ]


def _norm(counts: Counter[str]) -> float:
    return math.sqrt(sum(n * n for n in counts.values()))


def _dot(one: Counter[str], other: Counter[str]) -> int:
    return sum(n * other[gram] for gram, n in one.items() if gram in other)
