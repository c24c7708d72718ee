"""The page Chat: one model, or before and after side by side, in words as they come; the thinking folded.

In: a model here or an endpoint, a question. Out: a conversation on the screen, saved as a file on demand. Not done here: measuring.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr

from medkd.core.completer import Sampling
from medkd.core.errors import InputError, MedkdError
from medkd.core.prompts import load_prompts
from medkd.models.load import TINY
from medkd.studio.conversation import HELD, Spoken, speak, write_turns
from medkd.studio.places import Places
from medkd.studio.present import render, shorten, show_notice
from medkd.studio.shelf import open_shelf
from medkd.studio.texts import Texts

N_EXAMPLES = 12
SIDES = ("before", "after")
DOWNLOAD = """(text) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'conversation.json';
  link.click();
  URL.revokeObjectURL(link.href);
}"""
Turn = dict[str, Any]


def build(page: gr.Blocks, places: Places, t: Texts) -> None:
    """Lay the page out."""
    models: list[Any] = []
    adapters: list[Any] = []
    with gr.Row():
        for side in SIDES:
            with gr.Column(min_width=280):
                look: dict[str, Any] = {"label": t(f"chat.{side}"), "info": t("chat.model_hint"), "allow_custom_value": True}
                models.append(gr.Dropdown([TINY], value=TINY if side == "after" else "", **look))
                adapters.append(gr.Dropdown(label=t("chat.adapter"), choices=[""], value="", allow_custom_value=True))
    with gr.Accordion(t("chat.settings"), open=False):
        with gr.Row():
            temperature = gr.Slider(0, 2, 0, step=0.05, label="temperature")
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label="top_p")
            max_tokens = gr.Number(512, precision=0, minimum=1, maximum=32768, label="max_tokens")
            seed = gr.Number(0, precision=0, label="seed")
            task = gr.Checkbox(label=t("chat.task"), info=t("chat.task_hint"))
        with gr.Row():
            key = gr.Textbox("", label=t("start.key"), info=t("start.key_hint"), type="password", max_length=300)
    with gr.Row():
        memory = gr.HTML()
        release = gr.Button(t("chat.release"), scale=0, min_width=160)
    with gr.Row():
        panes = [gr.HTML(autoscroll=True, max_height=640) for _ in SIDES]
    news = gr.HTML()
    example = gr.Dropdown(label=t("chat.example"), choices=[])
    question = gr.Textbox("", label=t("chat.question"), lines=3, max_lines=12)
    with gr.Row():
        send = gr.Button(t("chat.send"), variant="primary")
        halt = gr.Button(t("chat.stop"), variant="stop")
        clear = gr.Button(t("chat.clear"))
        save = gr.Button(t("chat.save"))
    transcript = gr.Textbox("", label=t("chat.transcript"), interactive=False, lines=4, max_lines=8, buttons=["copy"], visible=False)
    turns = gr.State([[], []])
    stops: dict[str, Event] = {}

    def arrive() -> tuple[Any, ...]:
        exports = [str(step.path) for step in reversed(places.list_steps(stage="export"))]
        trained = [str(step.path) for step in reversed(places.list_steps(stage="train"))]
        choices = gr.update(choices=[*(["", TINY]), *exports])
        folders = gr.update(choices=["", *trained, *list_checkpoints(places)])
        return choices, choices, folders, folders, gr.update(choices=list_examples(places)), show_memory(t)

    def talk(
        request: gr.Request, text: str, said: list[list[Turn]], one: str, two: str, first: str, second: str, secret: str,
        heat: float, share: float, longest: float, chance: float, is_task: bool,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        """Let every chosen model answer, their words side by side as they come."""
        drawn: dict[str, Any] = {"temperature": heat or None, "top_p": share if share < 1 else None, "seed": int(chance or 0)}
        sampling = Sampling(max_tokens=int(longest or 512), **drawn)
        halted = stops[str(request.session_hash)] = Event()
        try:
            if not text.strip():
                raise InputError(t("chat.empty"))
            speakers: list[Iterator[Spoken] | None] = []
            for side, (name, adapter) in enumerate(((one, first), (two, second))):
                asked = [*said[side], {"role": "user", "answer": write_question(text, is_task)}]
                speaker = (name or "") and HELD.get(*check_names(places, name, adapter or ""), secret.strip())
                messages = write_turns(asked, load_prompts("zh").system if is_task else "")
                speakers.append(speak(speaker, messages, sampling, halted) if speaker else None)
            if not any(speakers):
                raise InputError(t("chat.no_model"))
            said = [[*one_side, {"role": "user", "answer": text}] if speakers[side] else one_side for side, one_side in enumerate(said)]
            for spoken in zip_longest(*(speaker or iter(()) for speaker in speakers)):
                said = [update(one_side, now) for one_side, now in zip(said, spoken, strict=True)]
                yield *(show_turns(one_side, t) for one_side in said), said, "", show_memory(t), gr.skip()
        except MedkdError as error:
            yield gr.skip(), gr.skip(), said, show_notice(str(error), "bad"), show_memory(t), gr.skip()
            return
        yield *(show_turns(one_side, t) for one_side in said), said, "", show_memory(t), ""

    def halt_session(request: gr.Request) -> None:
        """Stop what speaks to this browser's page."""
        if halted := stops.pop(str(request.session_hash), None):
            halted.set()

    def begin_anew() -> tuple[list[list[Turn]], str, str, str]:
        return [[], []], "", "", ""

    def keep(said: list[list[Turn]]) -> Any:
        whole = json.dumps(dict(zip(SIDES, said, strict=True)), ensure_ascii=False, indent=2)
        return gr.update(value=whole, visible=True)

    def let_go() -> str:
        HELD.release()
        return show_memory(t)

    page.load(arrive, None, [*models, *adapters, example, memory])
    asked: list[Any] = [question, turns, *models, *adapters, key, temperature, top_p, max_tokens, seed, task]
    outputs = [*panes, turns, news, memory, question]
    talking = send.click(talk, asked, outputs, concurrency_limit=1, concurrency_id="model", show_progress="hidden")
    halt.click(halt_session, None, None, queue=False)
    clear.click(halt_session, None, None, queue=False, cancels=[talking]).then(begin_anew, None, [turns, *panes, news])
    save.click(keep, turns, transcript).then(None, transcript, None, js=DOWNLOAD)
    release.click(let_go, None, memory)
    example.input(str, example, question)


def check_names(places: Places, name: str, adapter: str) -> tuple[str, str]:
    """Refuse folders that lie outside every place."""
    for path in (name, adapter):
        if path.startswith(("/", ".", "~")) or (path and path != TINY and Path(path).exists()):
            places.resolve(path)
    return name, adapter


def write_question(text: str, is_task: bool) -> str:
    """Put the task's instruction before a question, as in training."""
    return f"{load_prompts('zh').instruction}\n{text.strip()}" if is_task else text.strip()


def update(turns: list[Turn], spoken: Spoken | None) -> list[Turn]:
    """Put what is said so far at the end of a conversation."""
    if spoken is None:
        return turns
    before = turns if turns[-1]["role"] == "user" else turns[:-1]
    return [*before, {"role": "assistant", **spoken._asdict()}]


def show_turns(turns: Sequence[Turn], t: Texts) -> str:
    """Show a conversation."""
    shown: list[Turn] = []
    for turn in turns:
        reasoning = str(turn.get("reasoning", ""))
        shown.append(turn | {"answer": shorten(str(turn["answer"])), "reasoning": shorten(reasoning), "n": len(reasoning)})
    return render("turns", t, turns=shown)


def show_memory(t: Texts) -> str:
    """Say which models are in memory, and what they take."""
    sizes = HELD.list_sizes()
    return show_notice("; ".join(f"{name}: {size / 2**20:,.0f} MiB" for name, size in sizes.items()) or t("chat.no_memory"))


def list_checkpoints(places: Places) -> list[str]:
    """Name the checkpoints of all trainings, the newest training's first."""
    steps = reversed(places.list_steps(stage="train"))
    return [str(path) for step in steps for path in sorted(step.path.glob("checkpoints/*")) if (path / "adapter_config.json").exists()]


def list_examples(places: Places) -> list[str]:
    """Give questions of the newest test split."""
    for step in reversed(places.list_steps(stage="merge")):
        path = step.path / "test.jsonl"
        if path.exists() and path.stat().st_size:
            shelf = open_shelf(path)
            return [str(shelf.row(number).get("input", "")) for number in range(min(N_EXAMPLES, len(shelf)))]
    return []
