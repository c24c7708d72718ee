r"""Which tokens open a turn, start the thinking and end the answer: the same ones in training,
merging and serving.

In: a tokenizer with its chat template. Out: rendered prompts, token ids, templates with and without
the thinking prefix.
Not done here: loading a tokenizer (`models.load`), the form of the thinking itself
(`core.thinking`).

A *plain* template opens the model's turn and leaves the rest to the model. A *thinking* template is
the same one whose generation prompt also ends with `<think>\n`, the tokens that a distilled student
would write first by itself.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.completer import Message
from medkd.core.errors import InputError
from medkd.core.thinking import PREFIX

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
"""For a model that comes without a template but knows the tokens of ChatML."""

_THINKING_SUFFIX = "{%- if add_generation_prompt %}{{- '<think>\\n' }}{%- endif %}"

_PROBE = "\u2402"
"""A character that no template contains, to see what a template puts around a text."""


class EncodedRow(NamedTuple):
    """One conversation as token ids: what is given, and what is to be learnt, the end of the turn
    included."""

    prompt: list[int]
    completion: list[int]


def make_messages(question: str, instruction: str = "", system: str = "") -> list[Message]:
    """Make the turns of one question; the user's turn is the instruction, if any, and the question
    on the next line.

    >>> make_messages("【主诉】发热")
    [Message(role='user', content='【主诉】发热')]
    """
    user = Message(role="user", content="\n".join(part for part in (instruction, question) if part))
    return [Message(role="system", content=system), user] if system else [user]


def add_thinking_prefix(template: str) -> str:
    """Make a template end its generation prompt with the thinking prefix; one that has it stays as
    it is."""
    return template if template.endswith(_THINKING_SUFFIX) else template.rstrip() + _THINKING_SUFFIX


def remove_thinking_prefix(template: str) -> str:
    """Undo `add_thinking_prefix`."""
    return template.removesuffix(_THINKING_SUFFIX)


def find_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Give the tokenizer's own chat template, or plain ChatML where it has none but knows the
    tokens.

    Raises InputError where neither is there.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = cast(dict[str, str], template).get("default")
    if template:
        return str(template)
    if has_token(tokenizer, TURN_START) and has_token(tokenizer, TURN_END):
        return PLAIN_CHATML
    raise InputError(
        f"{tokenizer.name_or_path}: no chat template and no {TURN_START} token; choose an instruct model or one of the ChatML family"
    )


def find_plain_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Give the template under which the model itself has to begin to think; None where none is
    known.

    A model whose maker already put the thinking prefix into its template is asked under plain
    ChatML, if it knows the tokens.
    """
    plain = remove_thinking_prefix(find_template(tokenizer))
    if not _ends_with_prefix(tokenizer, plain):
        return plain
    return PLAIN_CHATML if has_token(tokenizer, TURN_START) else None


def has_thinking_prefix(tokenizer: "PreTrainedTokenizerBase") -> bool:
    r"""Tell whether the tokenizer's own template ends its generation prompt with `<think>\n`."""
    return _ends_with_prefix(tokenizer, find_template(tokenizer))


def _ends_with_prefix(tokenizer: "PreTrainedTokenizerBase", template: str) -> bool:
    return render(tokenizer, make_messages(_PROBE), template).endswith(PREFIX)


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], template: str | None = None
) -> str:
    """Write turns as the text a model is given, up to where its own turn begins."""
    turns = [message.model_dump() for message in messages]
    text = tokenizer.apply_chat_template(
        turns,
        chat_template=template or find_template(tokenizer),
        tokenize=False,
        add_generation_prompt=True,
    )
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
    """Find the token that ends a model's turn: the first one its template puts behind an answer.

    Raises InputError where the template puts no token of its own there: such a model could never
    learn to stop.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
    text = cast(
        str,
        tokenizer.apply_chat_template(
            turns, chat_template=find_template(tokenizer), tokenize=False
        ),
    )
    behind = text.rpartition(_PROBE)[2].lstrip()
    ids = encode(tokenizer, behind)
    if ids and ids[0] in _added_ids(tokenizer):
        return ids[0]
    raise InputError(
        f"{tokenizer.name_or_path}: its chat template ends a turn with {behind[:20]!r}, no token of its own; give it a ChatML template"
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
    """Give the tokenizer a pad token that ends nothing; says what was changed, or nothing."""
    end = tokenizer.convert_ids_to_tokens(find_end_of_turn(tokenizer))
    if tokenizer.pad_token is not None and tokenizer.pad_token != end:
        return ""
    before = tokenizer.pad_token
    candidates = [TEXT_END, "<|pad|>", "<pad>", "<|fim_pad|>", str(tokenizer.unk_token or "")]
    unused = [token for token in candidates if token and has_token(tokenizer, token)]
    spare = [token for token in unused if token != end]
    if not spare:
        raise InputError(
            f"{tokenizer.name_or_path}: no token is left for padding; add one named <|pad|> to the tokenizer"
        )
    tokenizer.pad_token = spare[0]
    return f"pad token {before or 'missing'} changed to {spare[0]}"


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
    return f"served prompt ends with {tokenizer.decode(served[-4:])!r} as tokens {served[-4:]}, trained with {trained[-4:]}"


def _added_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    return set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
