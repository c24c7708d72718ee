"""The papers of an exported model: its card with lineage and proof, and an Ollama `Modelfile`.

In: the lineage that `train` kept, the proof, the tokenizer. Out: texts. Not done here: exporting, proving.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medkd.core.completer import Message
from medkd.models.tokens import make_messages, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNPROVEN = "UNPROVEN"


def write_card(name: str, lineage: Mapping[str, Any], proof: Mapping[str, Any]) -> str:
    """Write the model card; one whose proof failed says so in its title."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("medkd.export", "."), autoescape=False, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - Markdown
    return environment.get_template("card.md.jinja").render(name=name, lineage=lineage, proof=proof, example=_quote(proof)) + "\n"


def _quote(proof: Mapping[str, Any]) -> str:
    """Quote one answer as an indented block, which nothing inside it can close."""
    if not proof["answers"]:
        return ""
    return "\n".join(f"    {line}" for line in str(proof["answers"][0]["text"]).splitlines())


def write_modelfile(tokenizer: "PreTrainedTokenizerBase", stops: list[str]) -> str:
    """Write a Modelfile whose prompt is the chat template's own, the thinking prefix and a default system text included.

    Covers one turn: a conversation needs the chat template itself.
    """
    question, system = "{{ .Prompt }}", "{{ .System }}"
    bare = render(tokenizer, make_messages(question))
    with_system = render(tokenizer, [Message(role="system", content=system), *make_messages(question)])
    template = f"{{{{ if .System }}}}{with_system}{{{{ else }}}}{bare}{{{{ end }}}}{{{{ .Response }}}}"
    lines = ["FROM .", f'TEMPLATE """{template}"""', *(f'PARAMETER stop "{stop}"' for stop in stops)]
    return "\n".join(lines) + "\n"
