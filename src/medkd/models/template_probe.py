"""Render an unknown chat template in a process of its own, with bounded time and memory.

In: a template on standard input. Out: "ok", or what is wrong with it in one line. Run as a script;
it imports jinja2 alone. Not done here: what the rendered text means (`models.chat_template`).
"""

import contextlib
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

CPU_S = 2
MEMORY = 1 << 30
MAX_OUTPUT = 1 << 16
"""Characters that a few one-letter turns may become."""
QUESTION = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
CONVERSATIONS = ([QUESTION], [QUESTION, ANSWER], [QUESTION, ANSWER, QUESTION], [SYSTEM, QUESTION])
SWITCHES: tuple[dict[str, bool], ...] = (
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
    {"thinking": False},
)


def limit_resources() -> None:
    """Limit CPU time and memory, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def compile_template(text: str) -> Callable[..., str]:
    """Compile a template in an environment like the one of transformers."""
    from jinja2 import Environment, TemplateError, ext, nodes
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """Reads the tag `generation`, with which templates mark what a model said."""

        tags = {"generation"}  # noqa: RUF012 - as jinja declares it

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    environment: Environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    names: dict[str, Any] = environment.globals
    names |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(text).render


def try_template(text: str) -> str:
    """Render every conversation; return "ok", or why not even a single question can be put."""
    problem = "ok"
    try:
        render = compile_template(text)
    except Exception as error:  # noqa: BLE001 - a template can raise whatever Python can
        return _tell(error)
    for turns in CONVERSATIONS:
        for switches in SWITCHES:
            values: dict[str, Any] = {"add_generation_prompt": turns[-1] is QUESTION, **switches}
            try:
                n_characters = len(render(messages=turns, bos_token="", eos_token="", **values))
            except Exception as error:  # noqa: BLE001
                if turns == [QUESTION] and not switches:
                    return _tell(error)
                if isinstance(error, MemoryError | RecursionError):
                    return _tell(error)
                continue
            if n_characters > MAX_OUTPUT:
                problem = f"it makes {n_characters:,} characters of one-letter turns"
    return problem


def _tell(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


if __name__ == "__main__":
    limit_resources()
    print(try_template(sys.stdin.buffer.read().decode()))
