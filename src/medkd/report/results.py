"""Sections about what evaluations found: what is right and where, the answers, what is not known.

In: `Material` and wording. Out: the headline; sections, or none where nothing was measured. Not
done here: how the models came about (`lineage`), forms of files (`document`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, get_args

from medkd.core.html import bar_figure, histogram_figure
from medkd.core.records import FinishReason, Prediction
from medkd.core.statistics import MIN_QUESTIONS
from medkd.grading.diagnosis import NEAR, GradeVerdict
from medkd.grading.scores import (
    ACCURACY,
    MEASURES,
    OVERLAP,
    Row,
    find_range,
    find_verdict,
    list_accuracies,
)
from medkd.report.document import (
    Cell,
    Sample,
    Section,
    Table,
    Wording,
    write_ends,
    write_number,
    write_percent,
    write_range,
)
from medkd.report.material import Evaluation, Material, plot

N_ANSWERS = 200
"""Answers in a report; all of them are in `predictions.jsonl`."""
N_CHANGED = 3
"""Answers that a model gained, and that it lost, which come first."""
N_CONFUSIONS = 15
N_GROUPS = 12
"""Largest groups drawn in one figure."""
RATES = ("think_format_rate", "think_unprompted_rate", "stop_rate", "loop_rate")
AXES = {
    "department": "By department",
    "length": "By length of the question, in characters",
    "diagnoses": "By number of known answers",
    "base": "By what the first model answered",
}
FILTERS = ("gained", "lost", "wrong", "near", "undecided", "looped", "unthinking", "cut")


def _find_measure(evaluation: Evaluation) -> str:
    """Name the accuracy that is told first; empty where nothing has a known answer."""
    return next(iter(list_accuracies(evaluation.scores)), "")


def write_headline(material: Material, say: Wording) -> Iterator[str]:
    """Say the main result in words, with n and intervals."""
    for evaluation in material.evaluations:
        measure = _find_measure(evaluation)
        if not measure:
            yield say("{model}: no question has a known answer.", model=evaluation.name)
            continue
        found = find_range(evaluation.scores, measure)
        low, high = map(write_percent, found.interval)
        said = [
            say(
                "{model} answers {right} of {n} questions right (95 % interval {low} – {high}).",
                model=evaluation.name,
                right=write_percent(found.low),
                n=sum(measure in row.scores for row in (*evaluation.rows, *evaluation.general)),
                low=low,
                high=high,
            )
        ]
        if found.high != found.low:
            line = (
                "{share} of the answers are undecided; were all of them right, it would be {most}."
            )
            share, most = write_percent(1 - found.decided), write_percent(found.high)
            said.append(say(line, share=share, most=most))
        if test := _find_test(material.tests, evaluation.name, measure):
            line = "Difference to {first}: {difference} (p {p}; {finding})."
            first, finding = material.evaluations[0].name, say(test["finding"])
            difference, p = test["difference"], test["p"]
            said.append(say(line, first=first, difference=difference, p=p, finding=finding))
        yield say.join(said)


# What is right


def list_lead(
    evaluations: Sequence[Evaluation], tests: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """List how much is right, between what bounds, and what was decided: a line a score and
    model."""
    lines: list[dict[str, Any]] = []
    names = dict.fromkeys(name for e in evaluations for name in list_accuracies(e.scores))
    for name, e in ((name, e) for name in names for e in evaluations if name in e.scores):
        found = find_range(e.scores, name)
        lines.append(
            {
                "score": name,
                "model": e.name,
                "right": write_range(found.low, found.high),
                "interval": write_ends(found.interval),
                "decided": write_number(found.decided),
                "n": sum(name in row.scores for row in (*e.rows, *e.general)),
                "test": _find_test(tests, e.name, name),
            }
        )
    return lines


def _find_test(
    tests: Sequence[Mapping[str, Any]], model: str, score: str
) -> Mapping[str, Any] | None:
    return next((t for t in tests if (t["model"], t["score"]) == (model, score)), None)


def list_scores(every: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """List each score that any model has, for each model its value and its small print: interval,
    and number of questions where not all have it."""
    sampled = dict.fromkeys(name for scores in every for name in scores if "@" in name)
    names = [*MEASURES, *(name for name in sampled if not name.startswith("n_"))]
    return {
        name: [_write_score(scores, name) for scores in every]
        for name in names
        if any(name in scores for scores in every)
    }


def _write_score(scores: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Write a score and its interval; an accuracy with undecided answers spans both bounds."""
    if name not in scores:
        return "–", ""
    ends: Sequence[float] = scores["intervals"].get(name, ())
    value = f"{scores[name]:.0f}" if name.startswith("tokens_p") else write_number(scores[name])
    if name.endswith(ACCURACY):
        found = find_range(scores, name)
        ends, value = found.interval, write_range(found.low, found.high)
    small = [write_ends(ends)] if ends else []
    small += [f"n {n}"] if (n := scores.get(f"n_{name}")) else []
    return value, ", ".join(small)


def write_results(material: Material, say: Wording) -> Section | None:
    """Write the main table, the base first, and the tests against it."""
    evaluations = material.evaluations
    if not evaluations:
        return None
    keys = ("model", "score", "right", "interval", "decided", "n")
    lead = [[str(line[key]) for key in keys] for line in list_lead(evaluations, material.tests)]
    head = [
        say("model"),
        say("score"),
        say("share right"),
        say("95 % interval"),
        say("decided"),
        say("questions"),
    ]
    told = (
        "Two numbers: right if every undecided answer is wrong, and if every one is right. The "
        "interval spans both."
    )
    note = say(told) if any("–" in line[2] for line in lead) else ""
    tables = [Table("accuracy", say("What is right"), head, lead, note)] if lead else []
    tables.append(_list_scores(evaluations, say))
    if material.tests:
        tables.append(_write_tests(material, say))
    if any("bleu-4" in e.scores for e in evaluations) and len(evaluations) > 1:
        names = (*OVERLAP, "samples_per_second")
        rows = [
            [e.name, *(f"{e.scores[name]:.2f}" if name in e.scores else "–" for name in names)]
            for e in evaluations
        ]
        head = [say("model"), "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", say("samples/s")]
        title = say("Before and after, in the terms of the worked example")
        tables.append(Table("before-after", title, head, rows))
    return Section(say("Results"), tables=tables, plots=_draw(evaluations, say))


def _list_scores(evaluations: Sequence[Evaluation], say: Wording) -> Table:
    """List all scores; one that equals an earlier one in every model is only named."""
    rows: list[list[Cell]] = []
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    notes = [say("Small print: 95 % intervals over the questions (Wilson's, else BCa bootstrap).")]
    for name, cells in list_scores([e.scores for e in evaluations]).items():
        alike = seen.setdefault(tuple(cells), [])
        alike.append(name)
        if len(alike) == 1:
            rows.append([(name, say.describe(name)), *cells])
    for first, *others in seen.values():
        if others:
            notes.append(say("The same as {first}: {names}.", first=first, names=", ".join(others)))
    head = [say("score"), *(e.name for e in evaluations)]
    return Table("results", say("Scores"), head, rows, say.join(notes))


def _write_tests(material: Material, say: Wording) -> Table:
    head = [
        say("score"),
        say("model"),
        say("questions"),
        say("difference"),
        say("95 % interval"),
        "p",
        say("test"),
        say("finding"),
    ]
    keys = ("score", "model", "n", "difference", "interval", "p")
    lines = [
        [*(str(test[key]) for key in keys), say(test["test"]), say(test["finding"])]
        for test in material.tests
    ]
    note = say(
        "Paired; Holm's correction over all lines. With undecided answers the worse case counts; "
        "on fewer than {n} questions nothing is called significant.",
        n=MIN_QUESTIONS,
    )
    title = say("Against {first}", first=material.evaluations[0].name)
    return Table("tests", title, head, lines, note)


def _draw(evaluations: Sequence[Evaluation], say: Wording) -> list[Any]:
    """Draw what is right, rates and lengths."""
    shares = {
        "accuracy": (say("Share right, with 95 % intervals"), [_find_measure(evaluations[-1])])
    }
    shares["rates"] = (say("Rates"), list(RATES))
    plots: list[Any] = []
    for kind, (title, names) in shares.items():
        shown = [n for n in names if all(n in e.scores for e in evaluations)]
        if not shown:
            continue
        labels = [name.removesuffix("_rate").replace("_", "\n") for name in shown]
        bars = {e.name: [e.scores[name] for name in shown] for e in evaluations}
        doubt = {e.name: [_find_ends(e.scores, name) for name in shown] for e in evaluations}
        draw = partial(bar_figure, labels, bars, title, intervals=doubt)
        plots += plot(kind, title, draw)
    has_tokens = any(p.n_tokens for e in evaluations for p in e.predictions)
    lengths = {
        e.name: [float(p.n_tokens if has_tokens else len(p.raw)) for p in e.predictions]
        for e in evaluations
    }
    title, unit = say("Length of answers"), say("tokens") if has_tokens else say("characters")
    draw = partial(histogram_figure, lengths, title, unit, say("answers"))
    return [*plots, *plot("lengths", title, draw)]


def _find_ends(scores: Mapping[str, Any], name: str) -> tuple[float, float]:
    if name.endswith(ACCURACY):
        return find_range(scores, name).interval
    low, high = scores["intervals"].get(name, (scores[name], scores[name]))
    return low, high


# Where it is right, and what else was asked


def write_groups(material: Material, say: Wording) -> Section | None:
    """Write the accuracy by department, length, number of known answers, and by the first model's
    verdict."""
    evaluations = material.evaluations
    tables: list[Table] = []
    plots: list[Any] = []
    for axis, title in AXES.items():
        last = evaluations[-1].breakdown.get(axis, {}) if evaluations else {}
        if len(last) < 2:
            continue
        groups = [e.breakdown.get(axis, {}) for e in evaluations]
        parts = {name: name.partition(" (") for name in last}
        names = {name: f"{say(word)}{mark}{rest}" for name, (word, mark, rest) in parts.items()}
        rows: list[list[Cell]] = [
            [names[name], str(found["n"]), *(_show_group(g.get(name)) for g in groups)]
            for name, found in last.items()
        ]
        head = [say("group"), say("questions"), *(e.name for e in evaluations)]
        tables.append(Table(axis, say(title), head, rows))
        sizes = {name: int(found["n"]) for name, found in last.items()}
        kept = sorted(sizes, key=sizes.__getitem__, reverse=True)[:N_GROUPS]
        largest = [name for name in sizes if name in kept]
        heights = {
            e.name: [g.get(name, {}).get("diagnosis_accuracy", 0.0) for name in largest]
            for e, g in zip(evaluations, groups, strict=True)
        }
        labels = [names[name] for name in largest]
        plots += plot(axis, say(title), partial(bar_figure, labels, heights, say(title)))
    said = [say("In the figures an undecided answer counts as wrong.")] if plots else []
    return Section(say("Where it is right"), said, tables, plots) if tables else None


def _show_group(found: Mapping[str, Any] | None) -> Cell:
    if not found:
        return "–"
    low, high = found["diagnosis_accuracy"], found.get("high", found["diagnosis_accuracy"])
    return write_range(low, high), write_ends(found["interval"])


def write_further(material: Material, say: Wording) -> Section | None:
    """Write what was forgotten, what the order of options does, what people say, what looped."""
    tables: list[Table] = []
    said: list[str] = []
    for at, e in enumerate(material.evaluations, start=1):
        if found := e.breakdown.get("forgetting"):
            low, high = found["interval"]
            change = (f"{found['difference']:+.3f}", f"{low:+.3f} – {high:+.3f}")
            ends = [write_number(found[name]) for name in ("base", "student")]
            head = [say("questions"), say("base"), say("student"), say("difference"), "p"]
            row = [str(found["n"]), *ends, change, f"{found['p']:.4f}"]
            title = f"{say('Outside the task, before and after')}: {e.name}"
            tables.append(Table(f"forgetting-{at}", title, head, [row]))
        if found := e.breakdown.get("positions"):
            rows = [
                [letter, f"{row['chosen']:.3f}", f"{row['right']:.3f}"]
                for letter, row in found.items()
            ]
            head = [say("option"), say("share chosen"), say("share right")]
            title = f"{say('Order of the options')}: {e.name}"
            tables.append(Table(f"positions-{at}", title, head, rows))
        if e.people:
            tables.append(_show_people(f"people-{at}", e.name, e.people, say))
        if found := e.breakdown.get("loops"):
            told = "{model}: {n} of {total} answers repeated themselves; see docs, stopping."
            n = len(found["answers"])
            said.append(say(told, model=e.name, n=n, total=e.scores["n"]))
    return Section(say("Asked besides"), said, tables) if tables or said else None


def _show_people(key: str, name: str, people: Mapping[str, Any], say: Wording) -> Table:
    """Make the table of what people said of a sample of the answers."""
    rows: list[list[Cell]] = []
    for rater in people["raters"]:
        kappa = "–" if rater["kappa"] is None else f"{rater['kappa']:.2f}"
        agreed = (write_number(rater["agreed"]), write_ends(rater["interval"]))
        said = agreed if rater["n"] else "–"
        rows.append([rater["name"], str(rater["n"]), said, kappa, say(rater["finding"])])
    corrected = (write_number(people["corrected"]), write_ends(people["corrected_interval"]))
    few = say("too few reviews") if people["n"] < MIN_QUESTIONS else ""
    rows.append([say("right, by people's word"), str(people["n"]), corrected, "", few])
    head = [say("rater"), say("answers"), say("agrees with people"), "kappa", say("finding")]
    return Table(key, f"{say('What people say')}: {name}", head, rows)


def _read_verdict(row: Row) -> str | None:
    """Read the verdict on an answer, the judge's before that of the rules."""
    return find_verdict(row.scores, "judged")


def write_confusions(material: Material, say: Wording) -> Section | None:
    """Write which answers stand most often where another one was known."""
    tables: list[Table] = []
    for e in material.evaluations:
        wrong = {row.id for row in e.rows if _read_verdict(row) == "wrong"}
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


# Answers


def write_answers(material: Material, say: Wording) -> Section | None:
    """Show answers of the last model, the others' beside them: some that it gained and lost, those
    with something wrong, as many right ones as there is room for."""
    if not material.evaluations:
        return None
    *others, last = material.evaluations
    rows = {row.id: row for row in last.rows}
    before = {row.id: _read_verdict(row) for row in others[0].rows} if others else {}
    said = [(e.name, {p.id: p.raw for p in e.predictions}) for e in others]
    shown: list[tuple[list[str], Prediction]] = [
        (_find_kinds(p, rows[p.id], before), p) for p in last.predictions if p.id in rows
    ]
    by_kind = {kind: [one for one in shown if kind in one[0]] for kind in ("gained", "lost")}
    chosen = [one for found in by_kind.values() for one in found[:N_CHANGED]]
    first = {p.id for _, p in chosen}
    troubled = [one for one in shown if {*one[0]} - {"gained"} and one[1].id not in first]
    fine = [one for one in shown if not {*one[0]} - {"gained"} and one[1].id not in first]
    n_fine = min(len(fine), max(N_ANSWERS // 3, N_ANSWERS - len(troubled) - len(chosen)))
    chosen += troubled[: max(N_ANSWERS - n_fine - len(chosen), 0)] + fine[:n_fine]
    told = "{n} of {total} answers of {model}; all of them are in predictions.jsonl."
    note = say(told, n=len(chosen), total=len(last.predictions), model=last.name)
    samples = [_show(kinds, p, rows[p.id], said, say) for kinds, p in chosen]
    present = {tag for sample in samples for tag in sample.tags}
    departments = sorted({p.department[-1] for _, p in chosen if p.department})
    choices = {
        say("Show"): [say(kind) for kind in FILTERS if say(kind) in present],
        say("Department"): departments[:40] if len(departments) > 1 else [],
    }
    filters = {name: tags for name, tags in choices.items() if tags}
    return Section(say("Answers"), [note], samples=samples, filters=filters)


def _find_kinds(p: Prediction, row: Row, before: Mapping[str, str | None]) -> list[str]:
    """Name what stands out in an answer, in the order of `FILTERS`."""
    verdict, scores = _read_verdict(row), row.scores
    was = before.get(p.id)
    flags = {
        "gained": verdict == "right" and was == "wrong",
        "lost": verdict == "wrong" and was == "right",
        "wrong": verdict == "wrong",
        "near": row.relation in NEAR,
        "undecided": verdict == "undecided",
        "looped": scores.get("loop_rate") == 1,
        "unthinking": scores.get("think_format_rate") == 0,
        "cut": p.finish_reason == FinishReason.LENGTH,
    }
    return [kind for kind, holds in flags.items() if holds]


def _show(
    kinds: Sequence[str],
    p: Prediction,
    row: Row,
    others: Sequence[tuple[str, Mapping[str, str]]],
    say: Wording,
) -> Sample:
    """Show a question, its known answer, and what the models said."""
    has_turned = kinds[:1] in (["gained"], ["lost"])
    verdict = kinds[0] if has_turned else _read_verdict(row) or "not graded"
    about = [p.id, p.finish_reason, say("{n} tokens", n=p.n_tokens) if p.n_tokens else ""]
    about.append(say(row.relation.replace("_", " ")) if row.relation else "")
    texts = {
        say("Question"): p.question or p.prompt,
        say("Known answer"): p.reference,
        say("The judge"): _say_judged(row.judged, say),
        say("Reasoning"): p.reasoning,
        say("Answer"): p.answer,
        say("What the model wrote"): "" if p.answer else p.raw or say("(no answer)"),
        say("What the teacher wrote"): p.teacher or "",
    }
    texts |= {f"{name}": found.get(p.id, "") for name, found in others}
    title = f"{say(verdict)}: {' '.join(p.answer.split())[:80] or say('(no answer)')}"
    tags = [*map(say, kinds), *p.department[-1:]]
    shown = [(name, text) for name, text in texts.items() if text]
    return Sample(title, shown, ", ".join(filter(None, about)), tags)


def _say_judged(judged: str, say: Wording) -> str:
    """Say what a judge said; its verdict, where it begins with one, in the page's language."""
    verdict, colon, why = judged.partition(": ")
    return f"{say(verdict)}{colon}{why}" if verdict in get_args(GradeVerdict) else judged


# What is not known


def write_missing(material: Material, say: Wording) -> Section:
    """Say what was not measured, and what would."""
    evaluations = material.evaluations
    items = [say(note) for note in material.notes]
    if not find_spec("matplotlib"):
        items.append(say("Figures: matplotlib is not installed; pip install 'medkd[train]'."))
    if material.are_cases_invented:
        items.append(say("Real patients: the cases of the rehearsal world are invented."))
    if material.of("verify"):
        items.append(
            say("Test questions whose rationale was rejected: they left the test split with it.")
        )
    if evaluations:
        scored = {name for e in evaluations for name in e.scores}
        verdicts = {find_verdict(row.scores) for e in evaluations for row in e.rows}
        is_judged = any(e.manifest.config.get("judge") for e in evaluations)
        is_measured = {
            "Right and wrong: no question has a known answer.": verdicts != {None},
            "Overlap: no question has a teacher's output to compare with.": "bleu-4" in scored,
            "Speed: all answers were there already.": "samples_per_second" in scored,
            "Grounding: no reasoning cites what could be looked up in its record.": "grounded_rate"
            in scored,
            "Consistency: --samples N with a temperature asks for several answers a question.": any(
                "@" in name for name in scored
            ),
            "Undecided answers: --judge asks another model; medkd review answers asks people.": (
                is_judged or "undecided" not in verdicts
            ),
            "Whether the reasoning leads to the answer: --faithfulness N asks again.": bool(
                {"removal_follows", "recovery_rate"} & scored
            ),
            "What was forgotten outside the task: --general builtin asks it.": "general_accuracy"
            in scored,
        }
        items += [say(line) for line, holds in is_measured.items() if not holds]
        items.append(
            say("Other trainings: the intervals cover the choice of questions, not another seed.")
        )
    if material.of("reinforce"):
        items += [
            say("Questions of another kind: the held-out ones come from the same source."),
            say("Whether a reasoning led to its answer: rewards see form, findings and answer."),
        ]
    items.append(say("Medical soundness: nobody with a licence read these answers."))
    return Section(say("What was not measured"), items=items)
