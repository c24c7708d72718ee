"""Predictions from a file: LLaMA-Factory's, read as ours, and our own.

In: `generated_predictions.jsonl` (`prompt`, `predict`, `label`) in any encoding that `text.tables`
reads, or `Prediction` records. Out: predictions. Not done here: scores.
"""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader
from medkd.core.records import Prediction
from medkd.core.task import Task, load_task
from medkd.evaluate.questions import keep_first
from medkd.grading.extract import split_list, strip_markup
from medkd.grading.scores import NO_ANSWER
from medkd.report.document import Note
from medkd.text.normalize import is_chinese
from medkd.text.tables import read_rows

RESULTS = "predict_results.json"
MAX_DIAGNOSIS = 200
"""Characters of the longest label that may be a list of diagnoses."""
MAX_NAME = 30
_ASKS = re.compile(r"诊断|病历|病例|主诉|现病史|diagnos|patient record", re.IGNORECASE)
_SENTENCE = re.compile(r"[。！？!?]|因为|所以|应该|可以|需要|建议|您|你|我")
_ROLES = re.compile(
    r"(?:<\|im_start\|>user\n|<\|start_header_id\|>user<\|end_header_id\|>\s*|Human:\s*|\[INST\]\s*)"
    r"(.*?)(?:<\|im_end\|>|<\|eot_id\|>|\n?Assistant:|\[/INST\]|$)",
    re.DOTALL,
)


class PredictionSet(NamedTuple):
    """What was read of a file of predictions, and what could not be, by reason."""

    predictions: list[Prediction]
    n_read: int
    dropped: dict[str, int]


def read_predictions(path: Path, task: str = "", limit: int | None = None) -> PredictionSet:
    """Read a file of predictions; a row that is none is counted. Raise InputError where no row is
    one. `task` is that of all labels; without one, diagnoses are told from open answers."""
    named = load_task(task) if task else None
    first = next((row.content for row in read_rows(path) if not row.problem), None)
    if isinstance(first, dict) and {"raw", "finish_reason"} <= cast(dict[str, Any], first).keys():
        reader = RecordReader(path, Prediction, made_by="evaluate")
        kept, dropped = keep_first(list(reader), limit, reader.dropped())
        return PredictionSet(kept, reader.n_read, dropped)
    predictions: list[Prediction] = []
    n_read, problem = 0, ""
    for n_read, row in enumerate(islice(read_rows(path), limit), start=1):
        try:
            predictions.append(_make_prediction(row.content, f"row:{n_read}", named))
        except KeyError as error:
            problem = problem or f"{row.place}: no {error}"
        except TypeError:
            problem = problem or f"{row.place}: {row.problem or 'predict and label are no texts'}"
    if not predictions:
        raise InputError(
            "{}: {}; expected JSON Lines with predict and label, as LLaMA-Factory's "
            "generated_predictions.jsonl has",
            path,
            problem or "the file is empty",
        )
    n_broken = n_read - len(predictions)
    return PredictionSet(predictions, n_read, {"broken_line": n_broken})


def _make_prediction(row: Any, name: str, task: Task | None) -> Prediction:
    """Read one row; raise KeyError or TypeError where it is no prediction. `predict: null` is an
    empty answer, with that as the reason."""
    if not isinstance(row, dict):
        raise TypeError
    cells = cast(dict[str, Any], row)
    predicted, label = _read_text(cells["predict"]), _read_text(cells.get("label"))
    raw = predicted or ""
    prompt = str(cells.get("prompt") or "")
    turns = _ROLES.findall(prompt)
    known = strip_markup(thinking.read(label).answer).strip() if label else ""
    if task is None:
        is_diagnosis = bool(known) and is_diagnosis_task(prompt, known)
    else:
        is_diagnosis = task.answer.kind == "diagnosis"
    reference = known if task else ""
    if is_diagnosis:
        reference = "；".join(stated.text for stated in split_list(known))
    thought = thinking.read(raw)
    return Prediction(
        id=name,
        prompt=prompt,
        question=turns[-1].strip() if turns else "",
        reasoning=thought.reasoning or "",
        answer=thought.answer,
        raw=raw,
        reference=reference,
        task=task.name if task else "diagnosis" if is_diagnosis else "open-question",
        language="zh" if is_chinese(prompt or raw) else "en",
        teacher=label,
        finish_reason=NO_ANSWER if predicted is None else "",
        n_tokens=0,
    )


def _read_text(value: Any) -> str | None:
    """Take a text, or none: null, or the NaN that pandas writes for it."""
    if value is None or value != value:
        return None
    if not isinstance(value, str):
        raise TypeError
    return value


def is_diagnosis_task(prompt: str, known: str) -> bool:
    """Tell whether a label is a list of diagnoses and not an open answer: short names, no
    sentences, and a prompt that asks for one."""
    if (
        len(known) > MAX_DIAGNOSIS
        or _SENTENCE.search(known.rstrip("。."))
        or (prompt and not _ASKS.search(prompt))
    ):
        return False
    names = split_list(known)
    return bool(names) and all(
        len(stated.text) <= MAX_NAME or stated.text.isascii() for stated in names
    )


def describe_gaps(predictions: list[Prediction]) -> list[Note]:
    """Say what cannot be measured of predictions from a file, or counts as nothing."""
    n = len(predictions)
    n_silent = sum(p.finish_reason == NO_ANSWER for p in predictions)
    n_unlabelled = sum(p.teacher is None for p in predictions)
    n_empty = sum(p.teacher is not None and not p.teacher.strip() for p in predictions)
    lines = {
        "{k} of {n} predictions are null: they count as empty answers.": n_silent,
        "Overlap of {k} of {n} predictions: they have no label.": n_unlabelled,
        "{k} of {n} labels are empty: as in LLaMA-Factory, their overlap counts as 0.": n_empty,
    }
    return [Note(line, {"k": k, "n": n}) for line, k in lines.items() if k]


def read_runtime(predictions_path: Path) -> tuple[float, float] | None:
    """Read seconds and steps a second from the results that lie beside a file of predictions, if
    any."""
    path = predictions_path.with_name(RESULTS)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return float(found["predict_runtime"]), float(found["predict_steps_per_second"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
