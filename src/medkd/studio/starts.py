"""The form that starts a stage or a recipe, as the pages show it: made from the stages' configs,
its command in plain sight.

In: which stages a page offers. Out: a detached run. Not done here: the words of its command
(`studio.orders`), starting (`studio.jobs`).
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from medkd.completers.providers import read_providers
from medkd.core.errors import InputError, MedkdError
from medkd.models.load import TINY
from medkd.stages import STAGES
from medkd.studio import jobs
from medkd.studio.conversation import HELD
from medkd.studio.forms import Field, is_changed, write_words
from medkd.studio.orders import (
    RECIPE,
    Part,
    check_value,
    hand_over,
    list_parts,
    list_recipes,
    suggest_run,
    write_command,
)
from medkd.studio.places import Places
from medkd.studio.present import AT_ONCE, render, show_error, show_notice
from medkd.studio.texts import Texts

NEED_ROOM = ("train", "reinforce", "evaluate", "export")
"""Stages that load a model of their own: those that people talk to make room for it."""
WRONG, SOUND = "wrong (", "nothing is wrong"
"""How `medkd doctor` begins a line about a finding, and the one that says that there is none."""


def build_start(
    page: gr.Blocks, places: Places, t: Texts, kinds: Sequence[str], title: str
) -> None:
    """Lay the form out; an address that ends in `?start=` opens it with that stage or recipe
    chosen."""
    with gr.Accordion(title, open=False) as whole:
        with gr.Row():
            kind = gr.Dropdown(
                label=t("start.kind"),
                info=t("start.kind_hint"),
                choices=[(t.word("stage", k), k) for k in kinds],
                value=kinds[0],
                visible=len(kinds) > 1,
            )
            name = gr.Textbox("", label=t("start.run"), info=t("start.run_hint"), max_length=80)
            key = gr.Textbox(
                "", label=t("start.key"), info=t("start.key_hint"), type="password", max_length=300
            )
        form = gr.Column()
        news = gr.HTML()

    suggested = gr.State("")
    """The name that stands there unless a person writes another."""

    def arrive(request: gr.Request) -> tuple[Any, ...]:
        choices = [(t.word("stage", k), k) for k in kinds]
        if len(kinds) > 1:
            choices += [
                (f"{t('start.recipe')}: {t.word('recipe', Path(path).name)}", RECIPE + path)
                for path in list_recipes(places)
            ]
        wanted = dict(request.query_params).get("start", "")
        chosen = next(
            (value for _, value in choices if wanted and wanted in (value, Path(value).name)), ""
        )
        run = suggest_run(chosen or kinds[0], places)
        if not chosen:  # what a person has opened or chosen meanwhile stays so
            return gr.update(choices=choices), run, run, gr.skip()
        return gr.update(choices=choices, value=chosen), run, run, gr.update(open=True)

    def rename(chosen: str, run: str, before: str) -> tuple[str, str]:
        """Suggest another name, unless a person wrote one."""
        new = suggest_run(chosen, places)
        return new if run == before else run, new

    page.load(arrive, None, [kind, name, suggested, whole])
    kind.input(rename, [kind, name, suggested], [name, suggested])
    with form:

        @gr.render(inputs=[kind, name, suggested], triggers=[page.load, kind.change])
        def draw(chosen: str, run: str, before: str) -> None:  # pyright: ignore[reportUnusedFunction] - the decorator uses it
            _draw_form(chosen, rename(chosen, run, before)[0], places, t, name, key, news)


def _draw_form(
    chosen: str,
    run: str,
    places: Places,
    t: Texts,
    name: gr.Textbox,
    key: gr.Textbox,
    news: gr.HTML,
) -> None:
    try:
        parts = list_parts(chosen, places, t)
    except MedkdError as error:
        gr.HTML(show_error(error, t))
        return
    boxes: list[Any] = []
    for part in parts:
        if part.step:
            with gr.Accordion(t.word("stage", part.step), open=False):
                boxes += _draw_fields(part, places, run, t)
        else:
            boxes += _draw_fields(part, places, run, t)

    def preview(where: str, *values: Any) -> str:
        try:
            return f"medkd {shlex.join(write_command(chosen, where, parts, values, places))}"
        except MedkdError as error:
            return f"# {t.say(str(error))}"

    def begin(where: str, secret: str, *values: Any) -> tuple[str, str]:
        """Start it; the key is handed to the process and forgotten."""
        try:
            words = write_command(chosen, where, parts, values, places)
            if is_alive(places, (where or "").strip().strip("/")):
                raise InputError(t("start.alive"))
            if any(part.stage in NEED_ROOM for part in parts):
                HELD.release()
            said = jobs.start(words, hand_over(words, secret))
        except MedkdError as error:
            return show_error(error, t), ""
        return render(
            "started",
            t,
            said=t.say(said),
            address=f"/{t.language}/?{urlencode({'run': where.strip().strip('/')})}",
        ), ""

    command = gr.Textbox(
        preview(run, *(box.value for box in boxes)),
        label=t("start.command"),
        interactive=False,
        buttons=["copy"],
        lines=2,
    )
    with gr.Row(elem_classes="buttons"):
        go = gr.Button(t("start.go"), variant="primary")
        look = gr.Button(t("start.look"), visible=chosen == "train")
    changes = [*(box.change for box in boxes), name.change]
    gr.on(
        changes,
        preview,
        [name, *boxes],
        command,
        show_progress="hidden",
        trigger_mode="always_last",
        **AT_ONCE,
    )
    go.click(begin, [name, key, *boxes], [news, key], **AT_ONCE)
    if chosen == "train":
        look.click(lambda *values: show_look(parts[0], values, places, t), boxes, news, **AT_ONCE)


def is_alive(places: Places, run: str) -> bool:
    """Tell whether something works on a run."""
    try:
        return jobs.find_job(places, run).alive is not None
    except InputError:
        return False


def show_look(part: Part, values: Sequence[Any], places: Places, t: Texts) -> str:
    """Show what `medkd doctor` finds in what this training would start from, each with its
    repair."""
    from medkd.train.doctor import Config

    chosen = [
        (field, value)
        for field, value in zip(part.fields, values, strict=True)
        if field.name in Config.model_fields
    ]
    try:
        for field, value in chosen:
            check_value(field, value, None, places)
        words = write_words([field for field, _ in chosen], [value for _, value in chosen], {})
        return show_findings(jobs.look(words), t)
    except MedkdError as error:
        return show_error(error, t)


def show_findings(lines: Sequence[str], t: Texts) -> str:
    """Show what the pre-flight said: each finding by itself, with its repair, then all the rest."""
    found = [line.partition("): ") for line in lines if line.startswith(WRONG)]
    news = [show_notice(t("start.repaired", what=t.say(what)) if "right" in how else t("start.refused", what=t.say(what)),
                        "info" if "right" in how else "bad") for how, _, what in found]  # fmt: skip
    rest = [t.say(line) for line in lines if not line.startswith(WRONG)]
    sound = not found and any(line.startswith(SOUND) for line in lines)
    return "".join(news or [show_notice(t("start.sound"), "good") if sound else ""]) + render(
        "log", t, title=t("start.looked"), lines=rest
    )


def _draw_fields(part: Part, places: Places, run: str, t: Texts) -> list[Any]:
    boxes: list[Any] = []
    with gr.Row():
        for field in part.fields:
            value = part.given.get(field.name, field.default)
            if (
                value is None
                and not part.step
                and (field.is_required or field.name in STAGES[part.stage].feeds)
            ):
                value = next(iter(suggest(places, part.stage, field, run)), None)
            box = draw_field(
                field,
                t.label(part.stage, field.name, field.help),
                value,
                suggest(places, part.stage, field, run),
            )
            box.change(make_marker(field), box, box, show_progress="hidden", **AT_ONCE)
            boxes.append(box)
    return boxes


def make_marker(field: Field) -> Any:
    """Make what marks a field's box as soon as it differs from the default."""

    def mark_box(given: Any) -> Any:
        return gr.update(elem_classes=mark(field, given))

    return mark_box


def mark(field: Field, value: Any) -> list[str]:
    """Give the class of a field that differs from its default."""
    return (
        ["changed"]
        if not field.is_required and is_changed(field, value, field.default)
        else ["unchanged"]
    )


def draw_field(field: Field, texts: tuple[str, str], value: Any, suggestions: Sequence[str]) -> Any:
    """Draw one field with its label and hint."""
    label, hint = texts
    look: dict[str, Any] = {
        "label": label,
        "info": hint,
        "elem_classes": mark(field, value),
        "min_width": 240,
        "interactive": True,
    }
    match field.kind:
        case "switch":
            return gr.Checkbox(value=bool(value), **look)
        case "choice":
            choices = [
                *([("–", "")] if field.is_optional else []),
                *((choice, choice) for choice in field.choices),
            ]
            return gr.Dropdown(
                choices,
                value=""
                if value is None
                else str(value).lower()
                if isinstance(value, bool)
                else value,
                **look,
            )
        case "whole" | "number" if field.is_optional:  # a box for numbers cannot be empty
            return gr.Textbox("" if value is None else str(value), max_length=20, **look)
        case "whole" | "number":
            return gr.Number(value, precision=0 if field.kind == "whole" else None, **look)
        case "paths" | "texts":
            given = value if isinstance(value, list) else [value] if value else []
            choices = list(dict.fromkeys([*given, *suggestions]))
            # In a column of its own: the framework would put the next form's list of single values
            # into this one's box, and show it empty.
            with gr.Column(min_width=240):
                return gr.Dropdown(
                    choices, value=given, multiselect=True, allow_custom_value=True, **look
                )
        case "mapping":
            return gr.Textbox(value or "", lines=2, placeholder="key: value", **look)
        case "path" | "text":
            if not suggestions:
                return gr.Textbox(value or "", max_length=2000, **look)
            choices = list(dict.fromkeys(str(one) for one in (value, *suggestions) if one))
            return gr.Dropdown(choices, value=value or None, allow_custom_value=True, **look)


def suggest(places: Places, stage: str, field: Field, run: str) -> list[str]:
    """Suggest values for a field: what the feeding stage made, first of this run; models; teachers;
    files of cases."""
    feeder = STAGES[stage].feeds.get(field.name) or ("train" if field.name == "adapter" else "")
    if feeder:
        steps = sorted(
            places.list_steps(stage=feeder),
            key=lambda step: (step.run == run, step.manifest.started_at),
            reverse=True,
        )
        return [str(step.path) for step in steps]
    if field.name == "model" and stage != "distill":
        return [TINY, *(str(step.path) for step in places.list_steps(stage="export"))]
    if field.name == "teacher":
        return list(read_providers())
    return places.list_given() if field.kind in ("path", "paths") else []
