"""Sections about how models came about: the data, the trainings, the methods in words, the cost,
and the settings of each evaluation.

In: `Material` and wording. Out: sections, or none where a step is not there. Not done here: what
evaluations found (`results`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medkd.core.errors import InputError
from medkd.core.html import Series, bar_figure, histogram_figure, line_figure
from medkd.core.stage_output import Manifest
from medkd.report.document import Cell, Plot, Sample, Section, Table, Wording
from medkd.report.material import REHEARSAL, Material, plot, read_lines

TRAINING = ("train", "reinforce")
ROUNDS = "rounds.json"
CURVES = {
    "loss": {"loss": "training", "eval_loss": "validation"},
    "rewards against the start": {
        "rewards/chosen": "chosen",
        "rewards/rejected": "rejected",
        "rewards/margins": "margin",
    },
    "log-likelihood": {"logps/chosen": "chosen", "logps/rejected": "rejected"},
    "pairs the right way round": {"rewards/accuracies": "share"},
    "spread of rewards": {
        "frac_reward_zero_std": "share of groups without",
        "reward_std": "of the sum",
    },
    "lengths in tokens": {
        "completions/min_length": "shortest",
        "completions/mean_length": "mean",
        "completions/max_length": "longest",
    },
    "entropy in nats a token": {"entropy": "entropy"},
    "divergence from the start in nats a token": {"kl": "KL"},
}
"""What is drawn of the lines of `metrics.jsonl`: a figure, its keys and their names."""
REWARD = re.compile(r"rewards/(\w+)/mean")
"""Key of the mean of one reward of a reinforcement."""
SETTINGS = {
    "base model": "model",
    "method": "method",
    "learns": "target",
    "epochs": "epochs",
    "learning rate": "learning_rate",
    "batch size": "batch_size",
    "LoRA rank": "lora_rank",
    "longest row in tokens": "max_length",
    "rewards": "rewards",
    "answers to a question": "group_size",
    "seed": "seed",
}
FACTS = {
    "steps": "steps",
    "last training loss": "loss",
    "best validation loss": "best_eval_loss",
    "device": "device",
    "number type": "dtype",
    "peak memory in GiB": "peak_memory_gib",
}
"""What is told of a training, and the setting or fact that it is."""
SHOWN_FACTS = ("generator", "device", "dtype", "n_seen_in_training", "n_holding_their_answer")
GENERATION = frozenset(
    {"samples", "max_tokens", "temperature", "top_p", "hub", "batch_size", "device", "split"}
)
"""Settings that say nothing of answers that were given."""
PLAY_MONEY = "Play money: the rehearsal teacher charges nothing."
METHODS = {
    "collect": "{kept} cases were collected from {place}.",
    "deidentify": "Identifiers were replaced by {rules} in {kept} cases.",
    "prepare": "They became {kept} questions of the task {task}, without their own answers.",
    "distill": "The teacher {teacher} wrote {kept} rationales ({mode}).",
    "verify": "{kept} of {read} passed all checks.",
    "merge": "Near duplicates were removed and the rows split by question: {splits}.",
    "train": (
        "{model} was fine-tuned ({method}, {target}) on {kept} rows for {epochs} epochs in batches "
        "of {batch_size} rows with a cosine schedule, on {device}."
    ),
    "reinforce": "{model} was reinforced on {kept} questions with rewards, on {device}.",
}
"""What the methods paragraph says of a stage; places are its counts, facts and settings."""


def write_headline(material: Material, say: Wording) -> Iterator[str]:
    """Say what was trained, where nothing was evaluated."""
    for name, step in material.of(*TRAINING).items():
        if step.seconds:
            hours = f"{step.seconds / 3600:.2f}"
            yield say("{name}: {n} rows, {h} hours.", name=name, n=step.counts.kept, h=hours)
        else:
            yield say("{name}: {n} rows.", name=name, n=step.counts.kept)
        for rate, (before, after) in step.facts.get("fell", {}).items():
            told = "Held-out {rate}, which no reward pays for, fell from {before} to {after}."
            yield say(told, rate=rate, before=f"{before:.3f}", after=f"{after:.3f}")


def write_funnel(material: Material, say: Wording) -> Section | None:
    """Write what became of the cases on their way to rows, with the reasons."""
    steps = material.of("collect", "deidentify", "prepare", "distill", "verify", "merge")
    if not steps:
        return None
    rows: list[list[Cell]] = []
    for name, step in steps.items():
        counts = step.counts
        rows.append([name, str(counts.read), str(counts.kept), _write_dropped(step, say) or "–"])
    head = [say("step"), say("in"), say("kept"), say("dropped, with reasons")]
    title = say("Records kept after each step")
    kept = {say("kept"): [float(step.counts.kept) for step in steps.values()]}
    plots = plot("funnel", title, lambda: bar_figure([*steps], kept, title))
    said = [
        f"{name}: {_write_counts(step.facts['splits'])}"
        for name, step in steps.items()
        if step.stage == "merge" and "splits" in step.facts
    ]
    table = Table("funnel", say("From cases to rows"), head, rows)
    return Section(say("The data"), said, [table], plots)


def _write_dropped(step: Manifest, say: Wording) -> str:
    reasons = step.counts.dropped.items()
    return _write_counts({say.texts.word("reason", reason): n for reason, n in reasons})


def _write_counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def write_training(material: Material, say: Wording) -> Section | None:
    """Write what was trained on what: base, rows, tokens, settings, teacher, price, hours."""
    trained: dict[str, dict[str, Any]] = {}
    items: list[str] = []
    for name, step in material.of(*TRAINING).items():
        known = {told: step.config.get(key) for told, key in SETTINGS.items()}
        known |= {
            "rows": step.counts.kept,
            "left out": _write_dropped(step, say),
            "tokens a pass": step.facts.get("lengths", {}).get("tokens"),
            "tokens learnt a pass": step.facts.get("lengths", {}).get("tokens_learnt"),
            "other settings": _write_counts(step.config.get("trainer") or {}),
            "hours": f"{step.seconds / 3600:.2f}" if step.seconds else None,
        }
        trained[name] = known | {told: step.facts.get(key) for told, key in FACTS.items()}
        items += (line for line in step.facts.get("findings", ()) if line not in items)
    taught: dict[str, dict[str, Any]] = {}
    for name, step in material.of("distill").items():
        taught[name] = {
            "teacher": step.facts.get("teacher", step.config.get("teacher")),
            "model": step.facts.get("model"),
            "mode": step.facts.get("mode"),
            "answers": step.counts.kept,
            "price": f"{step.cost.amount:.4f} {step.cost.currency}",
        }
    note = say(PLAY_MONEY) if any(map(is_play_money, material.of("distill").values())) else ""
    tables = [_list_settings("training", say("Training"), trained, say)] if trained else []
    tables += [_list_settings("teacher", say("Teacher"), taught, say, note)] if taught else []
    said = [say("Found before the first step:")] if items else []
    title = say("What was trained on what")
    return Section(title, said, tables, items=items) if tables else None


def _list_settings(
    name: str, title: str, known: Mapping[str, Mapping[str, Any]], say: Wording, note: str = ""
) -> Table:
    """Make a table of what is known of trainings or teachers, a column each."""
    keys = dict.fromkeys(key for one in known.values() for key in one)
    rows = [[key, *(_write_value(one.get(key)) for one in known.values())] for key in keys]
    told = [[say(row[0]), *row[1:]] for row in rows if {*row[1:]} != {"–"}]
    return Table(name, title, [say("setting"), *known], told, note)


def _write_value(value: object) -> str:
    if value in (None, "", {}):
        return "–"
    if isinstance(value, dict):
        return _write_counts(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_curves(material: Material, say: Wording) -> Section | None:
    """Draw what trainings measured while they ran, and the lengths of their rows."""
    plots: list[Plot] = []
    for name in material.of(*TRAINING):
        metrics = read_lines(material.find_folder(name) / "metrics.jsonl")
        keys = dict.fromkeys(key for line in metrics for key in line)
        own = {found[0]: found[1] for found in map(REWARD.fullmatch, keys) if found}
        for kind, lines in {**CURVES, "rewards": own}.items():
            series: Series = {say(told): _take(metrics, key) for key, told in lines.items()}
            series = {told: points for told, points in series.items() if points[0]}
            if series:
                title = f"{name}: {say(kind)}"
                draw = partial(line_figure, series, title, say("step"), say(kind))
                plots += plot(f"{name}-{kind.replace(' ', '-')}", title, draw)
        if material.lengths:
            values = {say(key): [float(n) for n in each] for key, each in material.lengths.items()}
            title = f"{name}: {say('length of rows')}"
            draw = partial(histogram_figure, values, title, say("tokens"), say("rows"))
            plots += plot(f"{name}-lengths", title, draw)
    return Section(say("How the training went"), plots=plots) if plots else None


def _take(
    metrics: Sequence[Mapping[str, Any]], name: str
) -> tuple[Sequence[float], Sequence[float]]:
    """Take one measure out of a training's lines: steps and values."""
    points = [point for point in metrics if name in point and "step" in point]
    return [point["step"] for point in points], [float(point[name]) for point in points]


def write_said(material: Material, say: Wording) -> Section | None:
    """Show what the student said at each save, and how held-out answers changed."""
    samples: list[Sample] = []
    tables: list[Table] = []
    for name, step in material.of(*TRAINING).items():
        folder = material.find_folder(name)
        by_id: dict[str, list[dict[str, Any]]] = {}
        for line in read_lines(folder / "samples.jsonl"):
            by_id.setdefault(str(line["id"]), []).append(line)
        for key, lines in by_id.items():
            texts = [(say("Question"), str(lines[0].get("question", "")))]
            texts += [(_say_end(line, say), str(line["text"])) for line in lines]
            samples.append(Sample(f"{name}: {lines[0]['reference']}", texts, key))
        looks = read_lines(folder / "held_out.jsonl")
        if looks:
            tables.append(_list_looks(name, step, looks, say))
    title = say("What the student said on the way")
    return Section(title, tables=tables, samples=samples) if samples or tables else None


def _say_end(line: Mapping[str, Any], say: Wording) -> str:
    """Name a sample by its step, and say whether it thinks and stops."""
    step = say("Step {n}", n=line["step"])
    thinks = say("thinks") if line["thinks"] else say("does not think")
    return f"{step}: {thinks}, {say('stops') if line['stops'] else say('does not stop')}"


def _list_looks(
    name: str, step: Manifest, looks: Sequence[Mapping[str, Any]], say: Wording
) -> Table:
    """List the shares of held-out answers that pass each check, at each look."""
    unpaid = step.facts.get("unpaid", ())
    rows = [
        [rate, say("no") if rate in unpaid else say("yes")]
        + [f"{look['rates'][rate]:.3f}" for look in looks]
        for rate in looks[0]["rates"]
    ]
    head = [say("share of sampled answers"), say("paid for")]
    head += [say("Step {n}", n=look["step"]) for look in looks]
    return Table(f"{name}-held-out", say("Held-out questions"), head, rows)


def write_methods(material: Material, say: Wording) -> Section:
    """Write the paragraph for the methods of a paper."""
    said: list[str] = []
    for step in material.steps.values():
        if (told := METHODS.get(step.stage)) is None:
            continue
        known = {**step.config, **step.facts, "kept": step.counts.kept, "read": step.counts.read}
        is_files = step.config.get("source") == "files"
        known["place"] = say("files") if is_files else step.config.get("base_url")
        known["splits"] = _write_counts(step.facts.get("splits", {}))
        places = {key: _write_value(known.get(key, "–")) for key in re.findall(r"{(\w+)}", told)}
        said.append(say(told, **places))
    if material.evaluations:
        last = material.evaluations[-1]
        told = (
            "Given answers to {n} questions were scored; how they were made, and whether the "
            "questions were unseen, is not known here; shares carry Wilson's 95 % intervals."
            if last.manifest.config.get("predictions")
            else "Each model answered {n} unseen questions at temperature {t}; shares carry "
            "Wilson's 95 % intervals."
        )
        said.append(say(told, n=last.scores["n"], t=last.manifest.config.get("temperature")))
    if material.tests:
        told = "Models were compared in pairs with McNemar's exact test and Holm's correction."
        said.append(say(told))
    used = [step.versions.items() for step in material.steps.values()]
    versions = sorted({f"{name} {number}" for pairs in used for name, number in pairs})
    said.append(say("Versions: {versions}.", versions=", ".join(versions)))
    return Section(say("Methods"), [say.join(said)])


def write_cost(material: Material, say: Wording) -> Section | None:
    """Write what each step took and cost; play money of the rehearsal teacher is told as such."""
    steps = {name: step for name, step in material.steps.items() if step.seconds}
    if not steps:
        return None
    rows = [
        [
            name,
            say.texts.seconds(step.seconds),
            f"{step.cost.amount:.4f} {step.cost.currency}" if step.cost.amount else "–",
        ]
        for name, step in steps.items()
    ]
    is_play = any(is_play_money(step) for step in steps.values() if step.cost.amount)
    note = say(PLAY_MONEY) if is_play else ""
    head = [say("step"), say("time"), say("money")]
    table = Table("cost", say("Time and money"), head, rows, note)
    return Section(say("What it cost"), tables=[table, *_list_rounds(material.folder, say)])


def _list_rounds(folder: Path, say: Wording) -> list[Table]:
    """List what each round of a run bought, gained, and gained for one unit of money."""
    path = folder / ROUNDS
    try:
        found: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.is_file() else []
    except ValueError as error:
        raise InputError("{}: cannot be read as JSON; fetch or make it again", path) from error
    if not found:
        return []
    rows = [
        [
            str(one["number"]),
            f"{one['accuracy']:.3f} ({one['low']:.3f} – {one['high']:.3f})",
            "–" if one["gain"] is None else f"{one['gain']:+.3f} ± {one['noise'] or 0:.3f}",
            *(str(one["bought"]), str(one["rows"]), f"{one['amount']:.4f} {one['currency']}"),
            "–" if one["gain_per_money"] is None else f"{one['gain_per_money']:.2f}",
        ]
        for one in found
    ]
    head = [say("round"), say("accuracy"), say("gain and its noise"), say("bought"), say("rows")]
    head += [say("money"), say("gain for 1")]
    return [Table("rounds", say("Round by round"), head, rows, str(found[-1]["stopped"]))]


def is_play_money(manifest: Manifest) -> bool:
    """Tell whether a step's bill is that of the rehearsal teacher, who charges nothing."""
    asked = {str(manifest.config.get(field) or "") for field in ("teacher", "endpoint", "judge")}
    return asked - {""} == {REHEARSAL}


def write_settings(material: Material, say: Wording) -> Section | None:
    """Write how each evaluation was made: settings, inputs, versions, cost."""
    if not material.evaluations:
        return None
    every = [_read_settings(e.manifest) for e in material.evaluations]
    keys = dict.fromkeys(key for settings in every for key in settings)
    rows = [[key, *(settings.get(key, "–") for settings in every)] for key in keys]
    head = [say("setting"), *(e.name for e in material.evaluations)]
    return Section(say("Settings and lineage"), tables=[Table("settings", "", head, rows)])


def _read_settings(manifest: Manifest) -> dict[str, str]:
    empty: tuple[object, ...] = (None, "", [], {})
    is_given = bool(manifest.config.get("predictions"))
    settings = {
        key: str(value)
        for key, value in manifest.config.items()
        if value not in empty and value is not False and not (is_given and key in GENERATION)
    }
    settings |= {f"read: {path}": digest[:16] for path, digest in manifest.inputs.items()}
    settings |= {key: str(manifest.facts[key]) for key in SHOWN_FACTS if key in manifest.facts}
    settings["versions"] = ", ".join(f"{name} {v}" for name, v in manifest.versions.items())
    if manifest.cost.amount:
        settings["cost"] = f"{manifest.cost.amount:.4f} {manifest.cost.currency}"
    return settings
