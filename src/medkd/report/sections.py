"""What stands in a report: each function writes one section, or none where nothing was measured.

In: `Material` and a language. Out: sections, the headline. Not done here: measuring, forms of files
(`document`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from medkd.core.html import bar_figure, line_figure
from medkd.core.i18n import Texts
from medkd.core.records import Prediction
from medkd.core.stage_output import Manifest
from medkd.core.statistics import MIN_QUESTIONS
from medkd.evaluate.report import (
    ALWAYS_MISSING,
    DESCRIPTIONS,
    Catalogue,
    Evaluation,
    make_lead,
    make_table,
    write_number,
)
from medkd.evaluate.scoring import find_range, find_verdict, list_accuracies
from medkd.report.document import Cell, Document, Plot, Sample, Section, Table
from medkd.report.material import REHEARSAL, Material, read_metrics, read_series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_CONFUSIONS = 15
N_SAMPLES = 3
"""Questions shown that a model gained, and that it lost."""
N_GROUPS = 12
"""Largest groups drawn in one figure."""
LONGEST = 1200
"""Characters of a sample's text."""
TRAINING = ("train", "reinforce")
CURVES = {
    "train": {"loss": {"loss": "training", "eval_loss": "validation"}},
    "reinforce": {"reward": {"reward": "reward"}},
}
"""What is drawn of each stage: a figure, its measures and their names."""
SETTINGS = {
    "base model": "model",
    "method": "method",
    "epochs": "epochs",
    "learning rate": "learning_rate",
    "batch size": "batch_size",
    "LoRA rank": "lora_rank",
    "longest row in tokens": "max_length",
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
ABSENT = {
    "grounded_rate": "Grounding: no reasoning cites what could be looked up in its record.",
    "judge_score": "A judge's opinion of the answers: --judge asks another model.",
    "general_accuracy": "What was forgotten outside the task: --general builtin asks it.",
}
"""What to say of a score that no model has."""
METHODS = {
    "collect": "{kept} cases were collected from {place}.",
    "deidentify": "Identifiers were replaced by {rules} in {kept} cases.",
    "prepare": "They became {kept} questions of the task {task}, without their own answers.",
    "distill": "The teacher {teacher} wrote {kept} rationales ({mode}).",
    "verify": "{kept} of {read} passed all checks.",
    "merge": "Near duplicates were removed and the rows split by question: {splits}.",
    "train": (
        "{model} was fine-tuned ({method}) on {kept} rows for {epochs} epochs in batches of "
        "{batch_size} rows with a cosine schedule, on {device}."
    ),
    "reinforce": "{model} was reinforced on {kept} questions with rewards, on {device}.",
}
"""What the methods paragraph says of a stage; places are its counts, facts and settings."""
Say = Callable[..., str]


def make_document(material: Material, texts: Texts) -> Document:
    """Make the report of a run or a step."""

    def say(text: str, **values: Any) -> str:
        return texts.of("report", text, **values)

    told = Catalogue("zh" if texts.language == "zh" else "en")
    name = material.folder.resolve().name
    sections = [
        write_results(material, say, told),
        write_groups(material, say, told),
        write_confusions(material, say),
        write_funnel(material, texts, say),
        write_training(material, say),
        write_curves(material, say),
        write_samples(material, say),
        write_missing(material, say, told),
        write_methods(material, say),
        write_cost(material, texts, say),
    ]
    shown = [section for section in sections if section]
    return Document(say("MedKD: {name}", name=name), [*write_headline(material, say)], shown)


def _write_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _find_measure(evaluation: Evaluation) -> str:
    """Name the accuracy that is told first; empty where nothing has a known answer."""
    return next(iter(list_accuracies(evaluation.scores)), "")


def write_headline(material: Material, say: Say) -> Iterator[str]:
    """Say the main result in words, with n and intervals."""
    if not material.evaluations:
        for name, step in material.of(*TRAINING).items():
            hours = f"{step.seconds / 3600:.2f}"
            yield say("{name}: {n} rows, {h} hours.", name=name, n=step.counts.kept, h=hours)
        return
    for evaluation in material.evaluations:
        measure = _find_measure(evaluation)
        if not measure:
            yield say("{model}: no question has a known answer.", model=evaluation.name)
            continue
        found = find_range(evaluation.scores, measure)
        low, high = map(_write_percent, found.interval)
        said = say(
            "{model} answers {right} of {n} unseen questions right (95 % interval {low} – {high}).",
            model=evaluation.name,
            right=_write_percent(found.low),
            n=sum(measure in row.scores for row in evaluation.rows),
            low=low,
            high=high,
        )
        if found.high != found.low:
            share, most = _write_percent(1 - found.decided), _write_percent(found.high)
            told = (
                "{share} of the answers are undecided; were all of them right, it would be {most}."
            )
            said += " " + say(told, share=share, most=most)
        tests = (t for t in material.tests if t["model"] == evaluation.name)
        test = next((t for t in tests if t["score"] == measure), None)
        if test is not None:
            said += " " + say(
                "Difference to {first}: {difference} (p {p}; {finding}).",
                first=material.evaluations[0].name,
                difference=test["difference"],
                p=test["p"],
                finding=_write_finding(test, say),
            )
        yield said
    if material.is_rehearsal:
        yield say("The cases are invented: this shows that the road runs, nothing about medicine.")


def _write_finding(test: Mapping[str, Any], say: Say) -> str:
    if test["n"] < MIN_QUESTIONS:
        return say("fewer than {n} questions", n=MIN_QUESTIONS)
    return say("significant") if test["is_significant"] else say("not significant")


def write_results(material: Material, say: Say, told: Catalogue) -> Section | None:
    """Write the main table, the base first, and the tests against it."""
    evaluations = material.evaluations
    if not evaluations:
        return None
    keys = ("model", "score", "right", "interval", "decided", "n")
    lead = [[str(line[key]) for key in keys] for line in make_lead(evaluations, material.tests)]
    head = ["model", "score", "share right", "95 % interval", "decided", "questions"]
    tables = [Table("accuracy", say("What is right"), [*map(say, head)], lead)]
    tables.append(_list_scores(evaluations, say, told))
    if material.tests:
        head = ["score", "model", "questions", "difference", "95 % interval", "p", "finding"]
        keys = ("score", "model", "n", "difference", "interval", "p")
        lines = [
            [*(str(test[key]) for key in keys), _write_finding(test, say)]
            for test in material.tests
        ]
        note = say(
            "Paired; McNemar's exact test where an answer is right or wrong, else sign flips; "
            "Holm's correction over all lines."
        )
        title = say("Against {first}", first=evaluations[0].name)
        tables.append(Table("tests", title, [*map(say, head)], lines, note))
    return Section(say("Results"), tables=tables, plots=_draw_accuracy(material, say))


def _draw_accuracy(material: Material, say: Say) -> list[Plot]:
    measure = _find_measure(material.evaluations[-1])
    shown = [e for e in material.evaluations if measure and measure in e.scores]
    if not shown:
        return []
    found = [find_range(e.scores, measure) for e in shown]
    title = say("Share right, with 95 % intervals")
    heights = {measure: [f.low for f in found]}
    doubt = {measure: [f.interval for f in found]}
    names = [e.name for e in shown]
    return _plot("accuracy", title, lambda: bar_figure(names, heights, title, intervals=doubt))


def _plot(name: str, title: str, draw: Callable[[], "Figure"]) -> list[Plot]:
    """Draw a figure; none where matplotlib is not installed, as on the data side alone."""
    return [Plot(name, title, draw())] if find_spec("matplotlib") else []


AXES = {
    "department": "By department",
    "length": "By length of the question, in characters",
    "diagnoses": "By number of known answers",
}


def write_groups(material: Material, say: Say, told: Catalogue) -> Section | None:
    """Write the accuracy by department, length and number of known answers."""
    evaluations = material.evaluations
    tables: list[Table] = []
    plots: list[Plot] = []
    for axis, title in AXES.items():
        last = evaluations[-1].breakdown.get(axis, {}) if evaluations else {}
        if len(last) < 2:
            continue
        groups = [e.breakdown.get(axis, {}) for e in evaluations]
        names = {name: _say_group(name, told) for name in last}
        rows: list[list[Cell]] = [
            [names[name], str(found["n"]), *(_show_group(g.get(name)) for g in groups)]
            for name, found in last.items()
        ]
        head = [say("group"), say("questions"), *(e.name for e in evaluations)]
        tables.append(Table(axis, say(title), head, rows))
        sizes = {name: int(found["n"]) for name, found in last.items()}
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:N_GROUPS]
        heights = {
            e.name: [g.get(name, {}).get("diagnosis_accuracy", 0.0) for name in largest]
            for e, g in zip(evaluations, groups, strict=True)
        }
        labels = [names[name] for name in largest]
        plots += _plot(axis, say(title), partial(bar_figure, labels, heights, say(title)))
    return Section(say("Where it is right"), tables=tables, plots=plots) if tables else None


def _say_group(name: str, told: Catalogue) -> str:
    word, bracket, rest = name.partition(" (")
    return told(word) + bracket + rest


def _show_group(found: Mapping[str, Any] | None) -> Cell:
    if not found:
        return "–"
    low, high = found["diagnosis_accuracy"], found.get("high", found["diagnosis_accuracy"])
    value = write_number(low) if low == high else f"{write_number(low)} – {write_number(high)}"
    return value, " – ".join(map(write_number, found["interval"]))


def write_confusions(material: Material, say: Say) -> Section | None:
    """Write which answers stand most often where another one was known."""
    tables: list[Table] = []
    for e in material.evaluations:
        wrong = {row.id for row in e.rows if find_verdict(row.scores, ["judged"]) == "wrong"}
        pairs = Counter(
            (p.reference[:60], " ".join(p.answer.split())[:60] or say("(no answer)"))
            for p in e.predictions
            if p.id in wrong
        )
        if not pairs:
            continue
        rows = [[known, said, str(n)] for (known, said), n in pairs.most_common(N_CONFUSIONS)]
        told = "{model}: {n} wrong answers, the most frequent pairs"
        title = say(told, model=e.name, n=len(wrong))
        head = [say("known answer"), say("answered"), say("times")]
        tables.append(Table(f"confusions-{len(tables) + 1}", title, head, rows))
    return Section(say("What is confused"), tables=tables) if tables else None


def write_funnel(material: Material, texts: Texts, say: Say) -> Section | None:
    """Write what became of the cases on their way to rows, with the reasons."""
    steps = material.of("collect", "deidentify", "prepare", "distill", "verify", "merge")
    if not steps:
        return None
    rows: list[list[Cell]] = []
    for name, step in steps.items():
        counts = step.counts
        dropped = [f"{n} {texts.word('reason', reason)}" for reason, n in counts.dropped.items()]
        rows.append([name, str(counts.read), str(counts.kept), ", ".join(dropped) or "–"])
    head = [say(word) for word in ("step", "in", "kept", "dropped, with reasons")]
    title = say("Records kept after each step")
    kept = {say("kept"): [float(step.counts.kept) for step in steps.values()]}
    plots = _plot("funnel", title, lambda: bar_figure([*steps], kept, title))
    said = [
        say("{name}: {splits}", name=name, splits=_write_counts(step.facts["splits"]))
        for name, step in steps.items()
        if step.stage == "merge" and "splits" in step.facts
    ]
    table = Table("funnel", say("From cases to rows"), head, rows)
    return Section(say("The data"), said, [table], plots)


def _write_counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def write_training(material: Material, say: Say) -> Section | None:
    """Write what was trained on what: base, rows, tokens, settings, teacher, price, hours."""
    tables: list[Table] = []
    for name, step in material.of(*TRAINING).items():
        known = {told: step.config.get(key) for told, key in SETTINGS.items()}
        known |= {
            "rows": step.counts.kept,
            "tokens a pass": step.facts.get("lengths", {}).get("tokens"),
            "tokens learnt a pass": step.facts.get("lengths", {}).get("tokens_learnt"),
            "other settings": _write_counts(step.config.get("trainer") or {}),
            "hours": f"{step.seconds / 3600:.2f}",
        }
        known |= {told: step.facts.get(key) for told, key in FACTS.items()}
        tables.append(_list_settings(name, say("Training {name}", name=name), known, say))
    for name, step in material.of("distill").items():
        known = {
            "teacher": step.facts.get("teacher", step.config.get("teacher")),
            "model": step.facts.get("model"),
            "mode": step.facts.get("mode"),
            "answers": step.counts.kept,
            "price": f"{step.cost.amount:.4f} {step.cost.currency}",
        }
        tables.append(_list_settings(name, say("Teacher"), known, say))
    return Section(say("What was trained on what"), tables=tables) if tables else None


def _write_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_curves(material: Material, say: Say) -> Section | None:
    """Draw the losses of trainings with their validation, and the rewards of a reinforcement."""
    plots: list[Plot] = []
    for name, step in material.of(*TRAINING).items():
        is_own = len(material.steps) == 1
        folder = material.folder if is_own else material.folder / name
        metrics = read_metrics(folder / "metrics.jsonl")
        for kind, lines in CURVES[step.stage].items():
            series = {say(told): read_series(metrics, key) for key, told in lines.items()}
            series = {told: points for told, points in series.items() if points[0]}
            if series:
                title = f"{name}: {say(kind)}"
                draw = partial(line_figure, series, title, say("step"), say(kind))
                plots += _plot(f"{name}-{kind}", title, draw)
    return Section(say("How the training went"), plots=plots) if plots else None


def write_samples(material: Material, say: Say) -> Section | None:
    """Show questions that the last model gained and lost against the first, else right and wrong
    ones, else the first that were undecided."""
    if not material.evaluations:
        return None
    first, last = material.evaluations[0], material.evaluations[-1]
    before, after = (
        {row.id: find_verdict(row.scores, ["judged"]) for row in e.rows} for e in (first, last)
    )
    is_alone = first is last
    kinds: dict[str, list[Prediction]] = {}
    for p in last.predictions:
        now = after.get(p.id)
        is_changed = before.get(p.id) != now and "undecided" not in (now, before.get(p.id))
        if now in ("right", "wrong") and (is_alone or is_changed):
            kind = now if is_alone else {"right": "gained", "wrong": "lost"}[now]
            kinds.setdefault(kind, []).append(p)
        elif now == "undecided":
            kinds.setdefault(now, []).append(p)
    others = {} if is_alone else {p.id: p.raw for p in first.predictions}
    samples = [
        _show(p, f"{say(kind)}: {p.reference[:80]} ({p.id})", first.name, last.name, others, say)
        for kind in ("gained", "lost", "right", "wrong", "undecided")
        for p in kinds.get(kind, [])[:N_SAMPLES]
    ]
    return Section(say("Samples"), samples=samples) if samples else None


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def write_missing(material: Material, say: Say, told: Catalogue) -> Section:
    """Say what was not measured."""
    items: list[str] = []
    if not find_spec("matplotlib"):
        items.append(say("Figures: matplotlib is not installed; pip install 'medkd[train]'."))
    if material.apart:
        items.append(say("The models against each other: {why}.", why=material.apart))
    if material.is_rehearsal:
        items.append(say("Real patients: the cases of the rehearsal world are invented."))
    if material.of("verify"):
        rejected = "Test questions whose rationale was rejected: they left the test split with it."
        items.append(say(rejected))
    known = {name for e in material.evaluations for name in e.scores}
    if material.evaluations:
        items += [say(text) for name, text in ABSENT.items() if name not in known]
    return Section(say("What was not measured"), items=[*items, *map(told, ALWAYS_MISSING)])


def write_methods(material: Material, say: Say) -> Section:
    """Write the paragraph for the methods of a paper."""
    said: list[str] = []
    for step in material.steps.values():
        if (told := METHODS.get(step.stage)) is None or step.state != "finished":
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
            "Each model answered {n} unseen questions at temperature {t}; shares carry Wilson's "
            "95 % intervals."
        )
        said.append(say(told, n=last.scores["n"], t=last.manifest.config.get("temperature")))
    if material.tests:
        told = "Models were compared in pairs with McNemar's exact test and Holm's correction."
        said.append(say(told))
    used = [step.versions.items() for step in material.steps.values()]
    versions = sorted({f"{name} {number}" for pairs in used for name, number in pairs})
    said.append(say("Versions: {versions}.", versions=", ".join(versions)))
    return Section(say("Methods"), [" ".join(said)])


def write_cost(material: Material, texts: Texts, say: Say) -> Section:
    """Write what each step took and cost; play money of the rehearsal teacher is told as such."""
    paid = {
        name: f"{step.cost.amount:.4f} {step.cost.currency}" if step.cost.amount else "–"
        for name, step in material.steps.items()
    }
    rows = [
        [name, texts.seconds(step.seconds), paid[name]] for name, step in material.steps.items()
    ]
    is_play = any(is_play_money(step) for step in material.steps.values() if step.cost.amount)
    note = say("Play money: the rehearsal teacher charges nothing.") if is_play else ""
    head = [say("step"), say("time"), say("money")]
    table = Table("cost", say("Time and money"), head, rows, note)
    return Section(say("What it cost"), tables=[table])


def is_play_money(manifest: Manifest) -> bool:
    """Tell whether a step's bill is that of the rehearsal teacher, who charges nothing."""
    asked = {manifest.config.get(field) or "" for field in ("teacher", "endpoint", "judge")}
    return asked - {"", False} == {REHEARSAL}


def _list_scores(evaluations: Sequence[Evaluation], say: Say, told: Catalogue) -> Table:
    """List all scores; one that equals an earlier one in every model is only named."""
    rows: list[list[Cell]] = []
    seen: dict[tuple[Cell, ...], str] = {}
    notes = [say("Small print: 95 % intervals over the questions (Wilson's, else BCa bootstrap).")]
    for line in make_table([e.scores for e in evaluations]):
        name = line["name"]
        if name not in DESCRIPTIONS:
            continue
        cells: list[Cell] = [(cell["value"], cell["interval"]) for cell in line["cells"]]
        first = seen.setdefault(tuple(cells), name)
        if first == name:
            rows.append([(name, told(line["description"])), *cells])
        else:
            notes.append(say("{name} is the same as {first}.", name=name, first=first))
    head = [say("score"), *(e.name for e in evaluations)]
    return Table("results", say("Scores"), head, rows, " ".join(notes))


def _list_settings(name: str, title: str, known: Mapping[str, Any], say: Say) -> Table:
    """Make a table of what is known of a training or a teacher."""
    empty = (None, "")
    rows = [[say(key), _write_value(value)] for key, value in known.items() if value not in empty]
    return Table(name, title, [say("setting"), say("value")], rows)


def _show(
    p: Prediction, title: str, first: str, last: str, others: Mapping[str, str], say: Say
) -> Sample:
    """Show a question, its known answer, and what the models said."""
    texts = [
        (say("Question"), p.question or p.prompt),
        (say("Known answer"), p.reference),
        (say("{model}, reasoning", model=last), p.reasoning),
        (say("{model}, answer", model=last), p.answer or p.raw),
        (say("{model}, whole output", model=first), others.get(p.id, "")),
    ]
    return Sample(title, [(name, _cut(text)) for name, text in texts if text])
