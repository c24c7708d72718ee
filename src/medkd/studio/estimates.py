"""What an order will take, told beside the button that starts it: rows, memory, time, money.

In: an order, what was measured here before. Out: a few facts; what is not known is left out. Not
done here: measuring; the sums themselves (`train.memory`, the providers' prices).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medkd.completers.costs import ASSUMED_TOKENS
from medkd.completers.providers import estimate_tokens
from medkd.core.errors import MedkdError
from medkd.core.i18n import Texts
from medkd.core.records import Usage
from medkd.core.stage_output import Manifest, read_manifest
from medkd.distill.stage import (
    Config,
    choose_target,
    find_questions,
    first_requests,
    make_asking,
)
from medkd.models.inspect import ModelShape, read_headers, read_json
from medkd.models.load import TINY, tiny_dir
from medkd.studio.orders import Order
from medkd.studio.workspace import Workspace
from medkd.train.memory import GIB, Workload, estimate_memory

N_PRICED = 100
"""Requests that are written to estimate the tokens of all."""


def estimate(order: Order, workspace: Workspace, t: Texts) -> list[tuple[str, str]]:
    """List what is known of an order before it is started: name and value."""
    if order.is_recipe:
        return []
    values = order.values[""]
    source = _read_input(values.get("input"), workspace)
    found: list[tuple[str, str]] = []
    if source:
        found.append((t("Records"), f"{source.counts.kept:,}"))
    try:
        if order.kind == "train":
            if memory := estimate_training_memory(values):
                found.append((t("Memory"), t("about {n} GiB", n=f"{memory / GIB:.1f}")))
            if source and (seconds := estimate_time(source.counts.kept, values, workspace)):
                found.append((t("Time"), t("about {time}", time=t.seconds(seconds))))
        elif order.kind == "distill" and (price := estimate_price(values)):
            found.append((t("Cost"), t("about {money}", money=price)))
    except (MedkdError, ValidationError, OSError, ValueError):
        pass
    return found


def _read_input(value: Any, workspace: Workspace) -> Manifest | None:
    name = str(value[0] if isinstance(value, list) and value else value or "")
    try:
        path = workspace.resolve(Path(name).absolute()) if name else None
        folder = path if path is None or path.is_dir() else path.parent
        return read_manifest(folder) if folder else None
    except (MedkdError, OSError):
        return None


def estimate_time(n_rows: int, values: Mapping[str, Any], workspace: Workspace) -> float | None:
    """Estimate the seconds of a training by an earlier one of the same model on this machine; None
    where there was none."""
    for step in reversed(workspace.list_steps(stage="train")):
        config, counts = step.manifest.config, step.manifest.counts
        same = all(str(config.get(n)) == str(values.get(n)) for n in ("model", "method", "target"))
        if step.manifest.state == "finished" and same and counts.kept and config.get("epochs"):
            of_row = step.manifest.seconds / (counts.kept * float(config["epochs"]))
            return of_row * n_rows * float(values.get("epochs") or 1)
    return None


def estimate_training_memory(values: Mapping[str, Any]) -> float | None:
    """Estimate the bytes that a training needs on one device; None for a model that is not on this
    machine, and where the method is none of those that the formula knows."""
    method = str(values.get("method"))
    shape = read_shape(str(values.get("model") or ""))
    if shape is None or method not in ("lora", "qlora", "full"):
        return None
    n_tokens = int(values.get("batch_size") or 1) * int(values.get("max_length") or 1)
    load = Workload(int(values.get("lora_rank") or 16), n_tokens, 2, False, on_gpu=False)
    return estimate_memory(shape, method, load)


def read_shape(model: str) -> ModelShape | None:
    """Read the shape of a model folder from the headers of its weights; None where there are
    none."""
    folder = tiny_dir() if model == TINY else Path(model)
    config = read_json(folder / "config.json") if model and folder.is_dir() else None
    if not config:
        return None
    shapes = {
        name: list[int](tensor["shape"])
        for name, tensor in read_headers(folder).items()
        if "shape" in tensor
    }
    inner = {n: s for n, s in shapes.items() if "embed" not in n and not n.startswith("lm_head")}
    return ModelShape(
        n_parameters=sum(prod(shape) for shape in shapes.values()),
        linears=[(shape[1], shape[0]) for shape in inner.values() if len(shape) == 2],
        n_layers=int(config.get("num_hidden_layers") or 1),
        hidden_size=int(config.get("hidden_size") or 1),
        vocabulary=int(config.get("vocab_size") or 1),
        input_name="",
        output_name="",
    )


def estimate_price(values: Mapping[str, Any]) -> str:
    """Estimate what the teacher will be paid, by the length of the first requests; empty where no
    price is known."""
    given = {name: value for name, value in values.items() if value not in (None, "", [])}
    config = Config.model_validate({**given, "out": "out"})
    target = choose_target(config, is_key_needed=False)
    price = target.price_at(datetime.now(UTC))
    questions = find_questions(config)
    requests = first_requests(questions, make_asking(config, target.model))
    written = [request for _, request in islice(requests, N_PRICED)]
    if price is None or not written:
        return ""
    texts = [message.content for request in written for message in request.messages]
    n_all = sum(1 for _ in questions) * config.samples
    thinks = bool(written[0].sampling.thinking)
    usage = Usage(
        prompt=round(estimate_tokens(texts) * n_all / len(written)),
        completion=min(ASSUMED_TOKENS[thinks], config.max_tokens) * n_all,
    )
    return f"{price.amount(usage):.2f} {target.provider.currency}"
