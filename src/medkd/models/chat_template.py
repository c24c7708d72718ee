r"""Which tokens open a turn, start the thinking and end the answer, in training and serving alike.

In: a tokenizer with its chat template. Out: prompts, token ids, and two templates: *plain*, which
opens the model's turn and nothing else, and *thinking*, the same ended with `<think>\n`.
Not done here: loading a tokenizer (`models.load`), the thinking format (`core.thinking`).
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.errors import InputError, Said
from medkd.core.records import Message
from medkd.core.thinking import CLOSE, OPEN, PREFIX
from medkd.models.inspect import explain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
TEXT_END = "<|endoftext|>"

PLAIN_CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""For a model without a template whose tokenizer knows the tokens of ChatML."""

MAX_TEMPLATE_LENGTH = 256 * 1024
"""Characters of the longest template that is compiled; the longest published ones have 30,000."""
PROBE_TIMEOUT_S = 120
"""Wall-clock limit of the process that tries a template; its own limit is CPU time."""

_THINKING_SUFFIX = "{%- if add_generation_prompt %}{{- '<think>\\n' }}{%- endif %}"
_SYSTEM, _USER, _ANSWER = "\u2400", "\u2401", "\u2402"
"""Characters that no template contains, to see what a template puts around a text."""
_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which published templates switch the thinking on or off."""
_THOUGHT_AT_END = re.compile(rf"(?:{OPEN}\s*)?(?:{CLOSE}\s*)?\Z")
"""What a generation prompt may end with: an opened thought, an empty one, or a closing tag."""
_OPENED_AT_END = re.compile(rf"{OPEN}\s*\Z")
_FOREIGN_OPENINGS = (
    "\u25c1think\u25b7",
    "[THINK]",
    "<thinking>",
    "<reasoning>",
    "<|begin_of_thought|>",
)


class EncodedRow(NamedTuple):
    """One conversation as token ids: the prompt, and what is learnt, the end of turn included."""

    prompt: list[int]
    completion: list[int]


class TemplatePair(NamedTuple):
    """The two templates of one tokenizer; for any conversation the second writes what the first
    writes and `<think>\n`."""

    plain: str
    thinking: str


def make_messages(question: str, instruction: str = "", system: str = "") -> list[Message]:
    """Make the turns of one question; the user's turn is the instruction, if any, and the question
    on the next line.

    >>> make_messages("【主诉】发热")
    [Message(role='user', content='【主诉】发热')]
    """
    user = Message(role="user", content="\n".join(part for part in (instruction, question) if part))
    return [Message(role="system", content=system), user] if system else [user]


def add_thinking_prefix(template: str) -> str:
    """Make a plain template end its generation prompt with `<think>\n`; applied once."""
    return template if template.endswith(_THINKING_SUFFIX) else template.rstrip() + _THINKING_SUFFIX


def remove_thinking_prefix(template: str) -> str:
    """Undo `add_thinking_prefix`."""
    return template.removesuffix(_THINKING_SUFFIX)


def find_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the tokenizer's own chat template, or plain ChatML where it has none but its tokens.

    Raises InputError where there is neither, or where the template cannot be rendered within
    bounded time and memory.
    """
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = cast(dict[str, Any], template).get("default")
    if isinstance(template, str) and template:
        if problem := _find_problem(template):
            raise InputError("{}: {}", tokenizer.name_or_path, problem)
        return template
    if has_token(tokenizer, TURN_START) and has_token(tokenizer, TURN_END):
        return PLAIN_CHATML
    raise InputError(
        "{}: no chat template and no {} token; choose an instruct model or one "
        "of the ChatML family",
        tokenizer.name_or_path,
        TURN_START,
    )


@lru_cache(maxsize=64)
def _find_problem(template: str) -> str:
    """Try a template in a process of its own with bounded time and memory; return what is wrong
    with it, or nothing."""
    if template.strip() in {PLAIN_CHATML, add_thinking_prefix(PLAIN_CHATML)}:
        return ""
    fix = "choose another model, or mend its chat_template.jinja"
    if len(template) > MAX_TEMPLATE_LENGTH:
        n, most = len(template), MAX_TEMPLATE_LENGTH
        return f"its chat template has {n:,} characters, over {most:,}; {fix}"
    try:
        text = template.encode()
    except UnicodeEncodeError:
        return f"its chat template is no valid Unicode; {fix}"
    script = Path(__file__).with_name("template_probe.py")
    try:
        done = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-I", str(script)],
            input=text,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"its chat template does not come to an end; {fix}"
    if done.returncode < 0:
        return f"its chat template does not come to an end, or takes too much memory; {fix}"
    said = done.stdout.decode("utf-8", "replace").strip()
    return "" if said == "ok" else f"its chat template cannot be used ({explain(said)}); {fix}"


def find_templates(tokenizer: "PreTrainedTokenizerBase") -> TemplatePair:
    """Derive the plain and the thinking template from the tokenizer's own, whatever that does.

    A switch is set to thinking, a thought that the template opens or leaves empty is taken off the
    plain form. Raises InputError where the two cannot be had.
    """
    own = remove_thinking_prefix(find_template(tokenizer))
    key = (own, str(tokenizer.special_tokens_map))
    if key not in _PAIRS:
        _PAIRS[key] = _derive_templates(tokenizer, own)
    return _PAIRS[key]


_PAIRS: dict[tuple[str, str], TemplatePair] = {}


def _derive_templates(tokenizer: "PreTrainedTokenizerBase", own: str) -> TemplatePair:
    body = (
        "".join(
            f"{{%- set {name} = true %}}"
            for name in _SWITCHES
            if re.search(rf"\b{name}\b", own)
            and len({_render_tail(tokenizer, own, {name: value}) for value in (True, False)}) > 1
        )
        + own
    )
    pieces = {_find_thought(tail) for tail in _render_tails(tokenizer, body)}
    match sorted(pieces):
        case [""]:
            pair = TemplatePair(body, add_thinking_prefix(body))
        case [piece] if piece == PREFIX:
            pair = TemplatePair(_strip_endings(body, pieces), body)
        case [piece] if piece == OPEN:
            ended = body.rstrip() + "{%- if add_generation_prompt %}{{- '\\n' }}{%- endif %}"
            pair = TemplatePair(_strip_endings(body, pieces), ended)
        case _:
            plain = _strip_endings(body, pieces)
            pair = TemplatePair(plain, add_thinking_prefix(plain))
    if not _is_sound(tokenizer, pair):
        raise InputError(
            "{}: its chat template writes a thought that cannot be taken off the "
            "prompt; choose another model, or mend its chat_template.jinja",
            tokenizer.name_or_path,
        )
    return pair


def _strip_endings(template: str, endings: set[str]) -> str:
    """Wrap a template so that none of the endings stands at the end of its generation prompt."""
    tests = "".join(
        f"{{%- {'elif' if number else 'if'} add_generation_prompt "
        f"and medkd_prompt.endswith({literal}) %}}"
        f"{{{{- medkd_prompt[:-{length}] }}}}"
        for number, (literal, length) in enumerate(
            (ascii(ending), len(ending)) for ending in sorted(endings - {""}, key=len, reverse=True)
        )
    )
    body = template.removesuffix("\n")
    # The empty text keeps blanks at the body's end from being stripped; llama.cpp reads no "{%+".
    return (
        f"{{%- set medkd_prompt %}}{body}{{{{ '' }}}}{{% endset %}}{tests}"
        "{%- else %}{{- medkd_prompt }}{%- endif %}"
    )


def _is_sound(tokenizer: "PreTrainedTokenizerBase", pair: TemplatePair) -> bool:
    """Tell whether both templates hold what `TemplatePair` says, however the switches stand."""
    for switches in [{}, *({name: value} for name in _SWITCHES for value in (True, False))]:
        plain = _render_tails(tokenizer, pair.plain, switches)
        thinking = _render_tails(tokenizer, pair.thinking, switches)
        if thinking != [tail + PREFIX for tail in plain]:
            return False
        if any(
            OPEN in tail or CLOSE in tail or tail.rstrip().endswith(_FOREIGN_OPENINGS)
            for tail in plain
        ):
            return False
    return True


def _find_thought(tail: str) -> str:
    found = _THOUGHT_AT_END.search(tail)
    return found.group() if found and found.group().strip() else ""


def _render_tails(
    tokenizer: "PreTrainedTokenizerBase", template: str, switches: dict[str, bool] | None = None
) -> list[str]:
    """Render what stands behind the last question, in conversations of several shapes."""
    first, answer = Message(role="user", content="?"), Message(role="assistant", content=_ANSWER)
    system = Message(role="system", content=_SYSTEM)
    tails = [_render_tail(tokenizer, template, switches)]
    for before in ([system], [first, answer], [system, first, answer]):
        try:
            tails.append(_render_tail(tokenizer, template, switches, before))
        except InputError:
            continue  # a template may take no system turn, or one question only
    return tails


def _render_tail(
    tokenizer: "PreTrainedTokenizerBase",
    template: str,
    switches: dict[str, bool] | None = None,
    before: Sequence[Message] = (),
) -> str:
    turns = [*before, Message(role="user", content=_USER)]
    text = _apply(tokenizer, turns, template, True, switches)
    if _USER not in text:
        raise InputError(
            "{}: its chat template leaves out the user's text; choose another model",
            tokenizer.name_or_path,
        )
    return text.rpartition(_USER)[2]


def find_plain_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the template under which the model itself has to begin to think."""
    return find_templates(tokenizer).plain


def has_thinking_prefix(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Tell whether the tokenizer's own template opens a thought in its generation prompt."""
    return opens_thinking(render(tokenizer, make_messages(_USER), find_template(tokenizer)))


def opens_thinking(prompt: str) -> bool:
    r"""Tell whether a prompt ends with an opened thought, with a line break behind it or without.

    >>> opens_thinking("<|im_start|>assistant\n<think>"), opens_thinking("<think>\n\n</think>\n\n")
    (True, False)
    """
    return bool(_OPENED_AT_END.search(prompt))


def takes_system(tokenizer: "PreTrainedTokenizerBase", template: str | None = None) -> bool:
    """Tell whether a template writes a system turn; some refuse it, some leave it out."""
    used = template or find_template(tokenizer)
    key = (used, str(tokenizer.special_tokens_map))
    if key not in _TAKES_SYSTEM:
        turns = [Message(role="system", content=_SYSTEM), Message(role="user", content=_USER)]
        try:
            _TAKES_SYSTEM[key] = _SYSTEM in _apply(tokenizer, turns, used)
        except InputError:
            _TAKES_SYSTEM[key] = False
    return _TAKES_SYSTEM[key]


_TAKES_SYSTEM: dict[tuple[str, str], bool] = {}


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], template: str | None = None
) -> str:
    """Write turns as the text a model is given, up to where its own turn begins.

    A system text that the template does not take stands at the head of the first user's turn.
    Raises InputError where the template refuses the turns.
    """
    used = template or find_template(tokenizer)
    return _apply(tokenizer, fold_system(tokenizer, messages, used), used)


def fold_system(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], template: str
) -> list[Message]:
    """Put a system text that the template does not take at the head of the first user's turn."""
    turns = list(messages)
    if not turns or turns[0].role != "system" or takes_system(tokenizer, template):
        return turns
    system, *rest = turns
    if rest and rest[0].role == "user":
        return [Message(role="user", content=f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
    return [Message(role="user", content=system.content), *rest]


def _apply(
    tokenizer: "PreTrainedTokenizerBase",
    turns: Sequence[Message],
    template: str,
    add_generation_prompt: bool = True,
    switches: dict[str, bool] | None = None,
) -> str:
    options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, **(switches or {})}
    try:
        text = tokenizer.apply_chat_template(
            [turn.model_dump() for turn in turns],
            chat_template=template,
            tokenize=False,
            **options,
        )
    except Exception as error:
        raise InputError(
            "{}: its chat template refuses these turns ({}); choose another model, "
            "or mend its chat_template.jinja",
            tokenizer.name_or_path,
            explain(error),
        ) from error
    return cast(str, text)


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode text as it stands: no token is added at either end."""
    return cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[tuple[Sequence[Message], str]],
    plain_template: str,
    end_id: int,
) -> list[EncodedRow]:
    """Encode conversations and their outputs for training: the prompt under the plain template, the
    whole output, the end of the turn.

    The thinking prefix is encoded by itself, so that its tokens are the ones that a thinking
    template ends with.
    """
    if not rows:
        return []
    prefix = encode(tokenizer, PREFIX)
    texts = [render(tokenizer, messages, plain_template) for messages, _ in rows] + [
        output.removeprefix(PREFIX) for _, output in rows
    ]
    ids = cast(
        list[list[int]], tokenizer(texts, add_special_tokens=False)["input_ids"]
    )  # together: on every core
    prompts, outputs = ids[: len(rows)], ids[len(rows) :]
    starts = [prefix if output.startswith(PREFIX) else [] for _, output in rows]
    return [
        EncodedRow(prompt, [*start, *rest, end_id])
        for prompt, start, rest in zip(prompts, starts, outputs, strict=True)
    ]


def has_token(tokenizer: "PreTrainedTokenizerBase", token: str) -> bool:
    """Tell whether a text is one token of its own."""
    return token in tokenizer.get_vocab()


def find_end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Find the token that ends a model's turn: the first one its template puts behind an answer,
    which may be the one that opens the next turn.

    Raises InputError where the template puts no token of its own there: such a model could never
    learn to stop.
    """
    template = find_template(tokenizer)
    question, answer = Message(role="user", content="?"), Message(role="assistant", content=_ANSWER)
    behind = ""
    for turns, goes_on in (([question, answer], False), ([question, answer, question], True)):
        text = _apply(tokenizer, turns, template, add_generation_prompt=goes_on)
        behind = text.rpartition(_ANSWER)[2].lstrip()
        ids = encode(tokenizer, behind)
        if ids and ids[0] in _added_ids(tokenizer):
            return ids[0]
        if behind:
            break
    raise InputError(
        "{}: its chat template ends a turn with {!r}, no token of its own; give "
        "it a ChatML template",
        tokenizer.name_or_path,
        behind[:20],
    )


def find_stop_ids(tokenizer: "PreTrainedTokenizerBase", generation_config: Any = None) -> list[int]:
    """List all tokens that must stop a generation: the end of the turn first, then the end of the
    text."""
    ids = [find_end_of_turn(tokenizer), *list_ids(getattr(generation_config, "eos_token_id", None))]
    if has_token(tokenizer, TEXT_END):
        ids.append(cast(int, tokenizer.convert_tokens_to_ids(TEXT_END)))
    if isinstance(tokenizer.eos_token_id, int):
        ids.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(ids))


def list_ids(configured: int | Sequence[int] | None) -> list[int]:
    """Read the stop tokens of a generation config, which may be none, one or several."""
    return [configured] if isinstance(configured, int) else list(configured or [])


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """List the control tokens that no text of a row may contain: inside one, they would end or
    forge a turn."""
    special = {
        str(token) for token in tokenizer.added_tokens_decoder.values() if token.special
    } | set(tokenizer.all_special_tokens)
    return tuple(sorted(special))


def repair_pad_token(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Set a pad token that ends nothing; return what was changed, or nothing."""
    end = tokenizer.convert_ids_to_tokens(find_end_of_turn(tokenizer))
    if tokenizer.pad_token is not None and tokenizer.pad_token != end:
        return ""
    before = tokenizer.pad_token
    candidates = [TEXT_END, "<|pad|>", "<pad>", "<|fim_pad|>", str(tokenizer.unk_token or "")]
    unused = [token for token in candidates if token and has_token(tokenizer, token)]
    spare = [token for token in unused if token != end]
    if not spare:
        raise InputError(
            "{}: no token is left for padding; add one named <|pad|> to the tokenizer",
            tokenizer.name_or_path,
        )
    tokenizer.pad_token = spare[0]
    return Said("pad token {} changed to {}", before or Said("missing"), spare[0])


def find_prefix_mismatch(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], plain_template: str
) -> str:
    """Compare the tokens of training with those of serving; says where they part, or nothing.

    Served, prompt and thinking prefix are encoded as one text; trained, each by itself.
    """
    served = encode(tokenizer, render(tokenizer, messages, add_thinking_prefix(plain_template)))
    trained = [
        *encode(tokenizer, render(tokenizer, messages, plain_template)),
        *encode(tokenizer, PREFIX),
    ]
    if served == trained:
        return ""
    return (
        f"served prompt ends with {tokenizer.decode(served[-4:])!r} as tokens {served[-4:]}, "
        f"trained with {trained[-4:]}"
    )


def _added_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    return set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
