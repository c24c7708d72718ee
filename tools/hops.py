"""Counts the files and functions of the package that one record passes in a stage.

In: names of stages. Out: a line for each. Everything runs offline on records made here, with the
mock teacher and the shipped student. Not done here: time.

    PYTHONPATH=src python tools/hops.py [STAGE …]
"""

import argparse
import inspect
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

import medkd
from medkd.core.config import make_config
from medkd.core.jsonl import write_records
from medkd.core.records import Example, Lineage
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import serve_teacher
from medkd.stages import STAGES

PACKAGE = str(Path(medkd.__file__).parent)
_PAGE = ("document", "lineage", "material", "results", "run")
NOT_COUNTED = (
    *(f"{PACKAGE}/{name}" for name in ("demo/", "stages.py", "__init__.py")),
    *(f"{PACKAGE}/{name}.py" for name in ("core/html", "core/i18n", "core/errors")),
    *(f"{PACKAGE}/report/{name}.py" for name in _PAGE),
)
"""The mock teacher runs in this process; the table of stages and the version are every stage's; the
page is drawn once, of what all records came to; what is printed for a person is no record."""
MEASURED = ("deidentify", "distill", "merge", "train", "evaluate")


def is_source(file: str) -> bool:
    """Tell whether a file is one of the package's that are counted; compiled templates are not."""
    return file.startswith(PACKAGE) and file.endswith(".py") and not file.startswith(NOT_COUNTED)


class Hops:
    """The package's files and functions that were entered."""

    def __init__(self) -> None:
        self.functions: set[tuple[str, str]] = set()

    @property
    def files(self) -> list[str]:
        return sorted({Path(file).relative_to(PACKAGE).as_posix() for file, _ in self.functions})

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        """Note the call of a function; the bodies of modules and classes are no functions."""
        code = frame.f_code
        if event != "call" or not is_source(code.co_filename):
            return
        if code.co_flags & inspect.CO_OPTIMIZED:
            self.functions.add((code.co_filename, code.co_qualname))


@contextmanager
def count_hops() -> Generator[Hops]:
    """Count in all threads that are started meanwhile."""
    hops = Hops()
    threading.setprofile(hops.note)
    sys.setprofile(hops.note)
    try:
        yield hops
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # pyright: ignore[reportArgumentType] - None ends it


def run_stage(stage: str, **fields: Any) -> Path:
    """Run a stage without its words; returns its directory."""
    module = STAGES[stage].load()
    config = make_config(module.Config, fields, stage)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        module.run(config)
    return config.out


def write_case(folder: Path) -> Path:
    """Write one raw case."""
    [case] = generate_cases(1, seed=5)
    write_records(folder / "raw_cases.jsonl", [case.to_raw_case()])
    return folder


def write_example(folder: Path) -> Path:
    """Write one example to train on and one to be asked."""
    for split in ("train", "test"):
        example = Example(
            id=f"clinic:{split}",
            source="clinic",
            style="bare",
            input=f"发热3天，咳嗽，咳痰（{split}）。",
            reasoning="发热伴咳嗽咳痰，考虑感染。",
            answer="诊断结果：\n1. 肺炎",
            reference="肺炎",
            lineage=Lineage(origin="clinic", deidentified_by="rules"),
        )
        write_records(folder / f"{split}.jsonl", [example])
    return folder


def measure(stage: str, folder: Path) -> Hops:
    """Pass one record through a stage; `folder` is an empty one."""
    make, fields = _PREPARED[stage]
    with ExitStack() as servers:
        if stage == "distill":
            address = servers.enter_context(serve_teacher()).base_url
            fields = {"teacher": "rehearsal", "base_url": address}
        given = make(folder)
        STAGES[stage].load()  # what modules do when they are imported happens to no record
        with count_hops() as hops:
            run_stage(stage, input=given, out=folder / stage, **fields)
    return hops


def _make_question(folder: Path) -> Path:
    cases = run_stage("deidentify", input=write_case(folder / "given"), out=folder / "cases")
    shares = {"val_share": 0.0, "test_share": 0.0}
    return run_stage("prepare", input=cases, out=folder / "questions", **shares)


def _make_rationale(folder: Path) -> Path:
    questions = _make_question(folder)
    with serve_teacher() as teacher:
        fields = {"teacher": "rehearsal", "base_url": teacher.base_url}
        return run_stage("distill", input=questions, out=folder / "rationales", **fields)


_PREPARED: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "deidentify": (lambda folder: write_case(folder / "given"), {}),
    "distill": (_make_question, {}),
    "merge": (_make_rationale, {"val_share": 0.0, "test_share": 0.0}),
    "train": (
        lambda folder: write_example(folder / "given"),
        {"model": "medkd:tiny", "epochs": 1.0, "max_length": 128},
    ),
    "evaluate": (
        lambda folder: write_example(folder / "given"),
        {"model": "medkd:tiny", "max_tokens": 8},
    ),
}


def main(arguments: Sequence[str]) -> None:
    """Measure the stages that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(MEASURED))
    parser.add_argument("--files", action="store_true", help="list the files")
    given = parser.parse_args(arguments)
    if unknown := set(given.stages) - set(MEASURED):
        parser.error(f"unknown stage {', '.join(unknown)}; known: {', '.join(MEASURED)}")
    for stage in given.stages or MEASURED:
        with tempfile.TemporaryDirectory() as folder:
            hops = measure(stage, Path(folder))
        print(f"{stage:<12}{len(hops.files):>4} files {len(hops.functions):>5} functions")
        if given.files:
            print("".join(f"  {file}\n" for file in hops.files), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
