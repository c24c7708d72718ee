"""Predictions that another tool wrote, read as ours; and our scores under that tool's names.

In: `generated_predictions.jsonl` of LLaMA-Factory (`prompt`, `predict`, `label`), or a file of our
own `Prediction` records.
Out: predictions. Not done here: scores.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from medkd.core import thinking
from medkd.core.errors import InputError, from_os_error
from medkd.core.jsonl import RecordReader, write_json
from medkd.core.records import Prediction
from medkd.grading.answers import split_list, strip_markup

Task = Literal["auto", "diagnosis", "open"]
RESULTS = "predict_results.json"
MAX_DIAGNOSIS = 200
"""Characters of the longest label that may be a list of diagnoses."""
MAX_NAME = 30
_ASKS = re.compile(r"诊断|病历|病例|主诉|现病史|diagnos|patient record", re.IGNORECASE)
_SENTENCE = re.compile(r"[。！？!?]|因为|所以|应该|可以|需要|建议|您|你|我")
_ROLES = re.compile(
    r"(?:<\|im_start\|>user\n|<\|start_header_id\|>user<\|end_header_id\|>\s*|Human:\s*|\[INST\]\s*)(.*?)(?:<\|im_end\|>|<\|eot_id\|>|\n?Assistant:|\[/INST\]|$)",
    re.DOTALL,
)


class Foreign:
    """A file of predictions, read: what could be used, and what could not, by reason."""

    def __init__(
        self, predictions: list[Prediction], n_read: int, dropped: dict[str, int], n_unlabelled: int
    ) -> None:
        self.predictions, self.n_read, self.dropped, self.n_unlabelled = (
            predictions,
            n_read,
            dropped,
            n_unlabelled,
        )


def read_predictions(path: Path, task: Task = "auto", limit: int | None = None) -> Foreign:
    """Read a file of predictions; a line that is none is named and counted. Raises InputError where
    no line is one."""
    try:
        with path.open("rb") as file:
            first = next((line for line in file if line.strip()), b"")
    except OSError as error:
        raise from_os_error(error, path) from error
    if b'"raw"' in first and b'"finish_reason"' in first:
        reader = RecordReader(path, Prediction, made_by="evaluate")
        predictions = list(reader)[:limit]
        return Foreign(
            predictions,
            reader.n_read,
            reader.dropped(),
            sum(p.teacher is None for p in predictions),
        )
    return _read_generated(path, task, limit)


def _read_generated(path: Path, task: Task, limit: int | None) -> Foreign:
    predictions: list[Prediction] = []
    n_read = n_broken = n_unlabelled = 0
    problem = ""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if limit is not None and n_read >= limit:
                break
            n_read += 1
            try:
                row = json.loads(line)
                made = _make_prediction(row, f"row:{number}", task)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                n_broken += 1
                problem = (
                    problem or f"{path}:{number}: no {error}"
                    if isinstance(error, KeyError)
                    else problem or f"{path}:{number}: broken line"
                )
                continue
            n_unlabelled += made.teacher is None
            predictions.append(made)
    if not predictions:
        place = problem or f"{path}: the file is empty"
        raise InputError(
            f"{place}; give JSON Lines with predict and label, as LLaMA-Factory's generated_predictions.jsonl has"
        )
    return Foreign(predictions, n_read, {"broken_line": n_broken} if n_broken else {}, n_unlabelled)


def _make_prediction(row: Mapping[str, Any], name: str, task: Task) -> Prediction:
    raw = row["predict"]
    label = row.get("label")
    prompt = str(row.get("prompt") or "")
    if not isinstance(raw, str) or not isinstance(label, str | None):
        raise TypeError
    turns = _ROLES.findall(prompt)
    question = turns[-1].strip() if turns else ""
    known = strip_markup(thinking.read(label).answer).strip() if label else ""
    is_diagnosis = bool(known) and (
        task == "diagnosis" or (task == "auto" and is_diagnosis_task(prompt, known))
    )
    thought = thinking.read(raw)
    return Prediction(
        id=name,
        prompt=prompt,
        question=question,
        reasoning=thought.reasoning or "",
        answer=thought.answer,
        raw=raw,
        reference="；".join(stated.text for stated in split_list(known)) if is_diagnosis else "",
        teacher=label,
        finish_reason="",
        n_tokens=0,
    )


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


def write_results(
    path: Path, scores: Mapping[str, Any], seconds: float, n_samples: int, n_steps: int
) -> None:
    """Write LLaMA-Factory's `predict_results.json`: its names, its rounding."""
    names = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
    results: dict[str, Any] = {f"predict_{name}": scores[name] for name in names if name in scores}
    results |= {
        "predict_runtime": round(seconds, 4),
        "predict_samples_per_second": round(n_samples / seconds, 3) if seconds else 0.0,
        "predict_steps_per_second": round(n_steps / seconds, 3) if seconds else 0.0,
    }
    write_json(path, results)


def read_runtime(predictions_path: Path) -> tuple[float, float] | None:
    """Read seconds and steps a second from the results that lie beside a file of predictions, if
    any."""
    path = predictions_path.with_name(RESULTS)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return float(found["predict_runtime"]), float(found["predict_steps_per_second"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
