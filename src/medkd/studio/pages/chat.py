"""The page Chat: one model, or before and after side by side, in words as they come; the thinking
folded.

In: a model here or an endpoint, a question. Out: a conversation on the screen, saved as a file on
demand. Not done here: measuring.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from medkd.core.completer import Sampling
from medkd.core.errors import InputError, MedkdError
from medkd.core.task import load_task
from medkd.models.load import TINY
from medkd.studio.conversation import HELD, Conversation, Turn
from medkd.studio.next_steps import show_next
from medkd.studio.places import Places
from medkd.studio.present import render, shorten, show_error, show_notice
from medkd.studio.shelf import open_shelf
from medkd.studio.texts import Texts

N_EXAMPLES = 12
SIDES = ("before", "after")
ADAPTERS = ("reinforce", "train")
"""Stages that leave an adapter to talk to."""
MEMORY_S = 5.0
LOOK_S = 0.4
"""Seconds between two looks at what is said: a look that is lost on the way costs nothing but the
wait for the next one."""
DOWNLOAD = """(text) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'conversation.json';
  link.click();
  URL.revokeObjectURL(link.href);
}"""


def build(page: gr.Blocks, places: Places, t: Texts) -> None:
    """Lay the page out."""

    def name(field: str) -> str:
        """Name a field as the form of `evaluate` does."""
        return t.label("evaluate", field, "")[0]

    models: list[Any] = []
    adapters: list[Any] = []
    with gr.Row():
        for side in SIDES:
            with gr.Column(min_width=280):
                box: dict[str, Any] = {
                    "label": t(f"chat.{side}"),
                    "info": t("chat.model_hint"),
                    "allow_custom_value": True,
                }
                models.append(gr.Dropdown([TINY], value=TINY if side == "after" else "", **box))
                adapters.append(
                    gr.Dropdown(
                        label=t("chat.adapter"), choices=[""], value="", allow_custom_value=True
                    )
                )
    with gr.Accordion(t("chat.settings"), open=False):
        with gr.Row():
            temperature = gr.Slider(0, 2, 0, step=0.05, label=name("temperature"))
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label=name("top_p"))
            max_tokens = gr.Number(
                512, precision=0, minimum=1, maximum=32768, label=name("max_tokens")
            )
            seed = gr.Number(0, precision=0, label=name("seed"))
            task = gr.Checkbox(label=t("chat.task"), info=t("chat.task_hint"))
        with gr.Row():
            key = gr.Textbox(
                "", label=t("start.key"), info=t("start.key_hint"), type="password", max_length=300
            )
    with gr.Row(visible=False, elem_classes="memory") as held:
        memory = gr.HTML(min_width=240)
        release = gr.Button(t("chat.release"), scale=0, min_width=180)
    with gr.Row(visible=False) as talk:
        panes = [gr.HTML(autoscroll=True, max_height=640) for _ in SIDES]
    news = gr.HTML()
    nothing = gr.HTML()
    example = gr.Dropdown(label=t("chat.example"), choices=[], visible=False)
    question = gr.Textbox("", label=t("chat.question"), lines=3, max_lines=12)
    with gr.Row(elem_classes="buttons"):
        send = gr.Button(t("chat.send"), variant="primary", min_width=80)
        halt = gr.Button(t("chat.stop"), variant="stop", visible=False, min_width=80)
        clear = gr.Button(t("chat.clear"), visible=False, min_width=150)
        save = gr.Button(t("chat.save"), visible=False, min_width=80)
    transcript = gr.Textbox(
        "",
        label=t("chat.transcript"),
        interactive=False,
        lines=4,
        max_lines=8,
        buttons=["copy"],
        visible=False,
    )
    clock = gr.Timer(LOOK_S, active=False)
    conversations: dict[str, Conversation] = {}

    def arrive() -> tuple[Any, ...]:
        exports = [str(step.path) for step in reversed(places.list_steps(stage="export"))]
        trained = [
            str(step.path)
            for stage in ADAPTERS
            for step in reversed(places.list_steps(stage=stage))
        ]
        folders, models = ["", *trained, *list_checkpoints(places)], ["", TINY, *exports]
        chosen = choose_pair(exports, trained)
        offers = list(zip((models, models, folders, folders), chosen, strict=True))
        if any(chosen):
            boxes = [gr.update(choices=choices, value=value) for choices, value in offers]
        else:  # what a person has typed meanwhile stays
            boxes = [gr.update(choices=choices) for choices, _ in offers]
        examples = list_examples(places)
        offered = (
            gr.update(choices=examples, visible=bool(examples)),
            "" if examples else show_next("chat", "train", places, t),
        )
        return *boxes, *offered, *show_held()

    def show_held() -> tuple[str, Any]:
        """Say which models are in memory, where there are any."""
        said = show_memory()
        return said, gr.update(visible=bool(said))

    def find(request: gr.Request) -> Conversation:
        """Find the conversation of this browser's page."""
        return conversations.setdefault(str(request.session_hash), Conversation(len(SIDES)))

    def ask(
        request: gr.Request, text: str, one: str, two: str, first: str, second: str, secret: str,
        heat: float, share: float, longest: float, chance: float, is_task: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Put the question to every chosen model; what they say is looked for from then on."""
        drawn: dict[str, Any] = {
            "temperature": heat or None,
            "top_p": share if share < 1 else None,
            "seed": int(chance or 0),
        }
        sampling = Sampling(max_tokens=int(longest or 512), **drawn)
        found = find(request)
        try:
            if found.is_speaking:
                raise InputError(t("chat.wait"))
            if not text.strip():
                raise InputError(t("chat.empty"))
            chosen = [
                (side, name, adapter or "")
                for side, (name, adapter) in enumerate(((one, first), (two, second)))
                if name
            ]
            named = [(side, check_names(places, name, adapter)) for side, name, adapter in chosen]
            if not named:
                raise InputError(t("chat.no_model"))
        except MedkdError as error:
            return gr.skip(), show_error(error, t), gr.skip()
        for side, names in named:
            system, asked = (
                (load_task("diagnosis").student.system["zh"], write_question(text))
                if is_task
                else ("", "")
            )
            found.ask(
                side,
                text.strip(),
                partial(HELD.get, *names, secret.strip()),
                sampling,
                system,
                asked,
            )
        return gr.update(active=True), "", ""

    def look(request: gr.Request) -> tuple[Any, ...]:
        """Show what is said so far; the clock stops when nobody speaks any more."""
        found = find(request)
        sides = found.read()
        is_begun = any(sides)
        able = (gr.update(visible=can) for can in (is_begun, found.is_speaking, is_begun, is_begun))
        ticking = gr.skip() if found.is_speaking else gr.update(active=False)
        return *(show_turns(turns, t) for turns in sides), *show_held(), *able, ticking

    def halt_all(request: gr.Request) -> None:
        """Stop what speaks to this browser's page."""
        find(request).stop()

    def begin_anew(request: gr.Request) -> tuple[str, str]:
        leave(request)
        return "", ""

    def leave(request: gr.Request) -> None:
        if gone := conversations.pop(str(request.session_hash), None):
            gone.stop()

    def keep(request: gr.Request) -> Any:
        whole = json.dumps(
            dict(zip(SIDES, find(request).read(), strict=True)), ensure_ascii=False, indent=2
        )
        return gr.update(value=whole, visible=True)

    def let_go() -> tuple[str, Any]:
        HELD.release()
        return show_held()

    page.load(arrive, None, [*models, *adapters, example, nothing, memory, held])
    page.unload(leave)
    asked: list[Any] = [
        question,
        *models,
        *adapters,
        key,
        temperature,
        top_p,
        max_tokens,
        seed,
        task,
    ]
    shown: list[Any] = [*panes, memory, held, talk, halt, clear, save, clock]
    send.click(ask, asked, [clock, news, question], show_progress="hidden").then(
        look, None, shown, show_progress="hidden"
    )
    clock.tick(look, None, shown, show_progress="hidden")
    halt.click(halt_all, None, None).then(look, None, shown, show_progress="hidden")
    clear.click(begin_anew, None, [news, question]).then(look, None, shown, show_progress="hidden")
    save.click(keep, None, transcript).then(None, transcript, None, js=DOWNLOAD)
    release.click(let_go, None, [memory, held])
    gr.Timer(MEMORY_S).tick(show_held, None, [memory, held], show_progress="hidden")
    example.input(str, example, question)


def choose_pair(exports: Sequence[str], trained: Sequence[str]) -> tuple[str, str, str, str]:
    """Choose what is talked to first, as models and adapters before and after: the shipped base and
    the newest result, where there is one.

    >>> choose_pair(["runs/a/export"], ["runs/a/train"])
    ('medkd:tiny', 'runs/a/export', '', '')
    """
    if exports:
        return TINY, exports[0], "", ""
    return (TINY, TINY, "", trained[0]) if trained else ("", "", "", "")


def check_names(places: Places, name: str, adapter: str) -> tuple[str, str]:
    """Refuse folders that lie outside every place."""
    for path in (name, adapter):
        if path.startswith(("/", ".", "~")) or (path and path != TINY and Path(path).exists()):
            places.resolve(path)
    return name, adapter


def write_question(text: str) -> str:
    """Put the task's instruction before a question, as in training."""
    return f"{load_task('diagnosis').student.instructions['zh'][0]}\n{text.strip()}"


def show_turns(turns: Sequence[Turn], t: Texts) -> str:
    """Show a conversation."""
    shown: list[Turn] = []
    for turn in turns:
        reasoning = str(turn.get("reasoning", ""))
        shown.append(
            turn
            | {
                "answer": shorten(str(turn["answer"])),
                "reasoning": shorten(reasoning),
                "n": len(reasoning),
            }
        )
    return render("turns", t, turns=shown)


def show_memory() -> str:
    """Say which models are in memory, and what they take; nothing where there are none."""
    return show_notice(
        "; ".join(f"{name}: {size / 2**20:,.0f} MiB" for name, size in HELD.list_sizes().items())
    )


def list_checkpoints(places: Places) -> list[str]:
    """Name the checkpoints of all trainings, the newest training's first."""
    steps = [step for stage in ADAPTERS for step in reversed(places.list_steps(stage=stage))]
    return [
        str(path)
        for step in steps
        for path in sorted(step.path.glob("checkpoints/*"))
        if (path / "adapter_config.json").exists()
    ]


def list_examples(places: Places) -> list[str]:
    """Give questions of the newest test split."""
    for step in reversed(places.list_steps(stage="merge")):
        path = step.path / "test.jsonl"
        if path.exists() and path.stat().st_size:
            shelf = open_shelf(path)
            return [
                str(shelf.row(number).get("input", ""))
                for number in range(min(N_EXAMPLES, len(shelf)))
            ]
    return []
