"""The papers of an exported model: its card with lineage and proof, and an Ollama `Modelfile`.

In: the lineage that `train` kept, the proof, the tokenizer. Out: texts. Not done here: exporting,
proving.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medkd.core.records import Message
from medkd.models.chat_template import make_messages, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNPROVEN = "UNPROVEN"
_SYSTEM, _USER, _ANSWER = "\u2400", "\u2401", "\u2402"
"""Characters that no template contains, to see what a template puts around each turn."""


def write_card(name: str, lineage: Mapping[str, Any], proof: Mapping[str, Any]) -> str:
    """Write the model card; one whose proof failed says so in its title."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("medkd.export", "."),
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return (
        environment.get_template("card.md.jinja").render(
            name=name, lineage=lineage, proof=proof, example=_quote(proof)
        )
        + "\n"
    )


def _quote(proof: Mapping[str, Any]) -> str:
    """Quote one answer as an indented block, which nothing inside it can close."""
    if not proof["answers"]:
        return ""
    return "\n".join(f"    {line}" for line in str(proof["answers"][0]["text"]).splitlines())


def write_modelfile(
    tokenizer: "PreTrainedTokenizerBase", stops: list[str], gguf: str | None = None
) -> str:
    """Write a Modelfile whose prompt is the chat template's own, the thinking prefix and a default
    system text included.

    Covers conversations in which user and assistant take turns. An answer that is to be gone on
    with gets nothing behind it.
    """
    bare, end = _split(render(tokenizer, make_messages(_USER)), _USER)
    # The part before the first question depends on the system text, the parts between turns do not.
    system = Message(role="system", content=_SYSTEM)
    opening, _ = _split(render(tokenizer, [system, *make_messages(_USER)]), _USER)
    before_system, behind_system = _split(opening, _SYSTEM)
    answered = [
        *make_messages(_USER),
        Message(role="assistant", content=_ANSWER),
        *make_messages(_USER),
    ]
    between = render(tokenizer, answered).removeprefix(bare + _USER).removesuffix(_USER + end)
    before_answer, behind_answer = _split(between, _ANSWER)
    template = (
        f"{{{{ if .System }}}}{before_system}{{{{ .System }}}}{behind_system}"
        f"{{{{ else }}}}{bare}{{{{ end }}}}"
        "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        f'{{{{ if eq .Role "user" }}}}{{{{ .Content }}}}{{{{ if $last }}}}{end}{{{{ end }}}}'
        f'{{{{ else if eq .Role "assistant" }}}}{before_answer}{{{{ .Content }}}}'
        f"{{{{ if not $last }}}}{behind_answer}{{{{ end }}}}"
        "{{ end }}{{ end }}"
    )
    lines = [
        f"FROM ./model-{gguf}.gguf" if gguf else "FROM .",
        f'TEMPLATE """{template}"""',
        *(f'PARAMETER stop "{stop}"' for stop in stops),
    ]
    return "\n".join(lines) + "\n"


def _split(text: str, mark: str) -> tuple[str, str]:
    before, _, behind = text.partition(mark)
    return before, behind
