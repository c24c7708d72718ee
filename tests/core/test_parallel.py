import itertools
import os
import pickle
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from medkd.core import parallel
from medkd.core.errors import StoppedError
from medkd.core.parallel import MANY, DoneWork, map_in_order
from medkd.core.stage_output import StageOutput
from stage_samples import run_stage, write_cases, write_rationales

N, SIZE = 60, 7


def test_many_items_come_back_in_order_whatever_their_number() -> None:
    for n in (0, 3, MANY - 1, MANY, MANY + 5000):
        assert list(map_in_order(abs, range(-n, 0))) == list(range(n, 0, -1))


def test_few_items_are_worked_on_one_by_one_as_they_come() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            taken.append(number)
            yield number

    results = map_in_order(abs, items())
    assert next(results) == 0
    assert len(taken) < parallel.MANY


def mark(number: int, folder: Path) -> int:
    """Leave a mark for every time that a number is worked on."""
    with (folder / str(number)).open("a") as file:
        file.write("x")
    return -number


def count_marks(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture(params=[1, 2])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: request.param)


@pytest.mark.usefixtures("processors")
def test_work_that_was_broken_off_goes_on_and_does_no_batch_again(tmp_path: Path) -> None:
    folder, path = tmp_path / "marks", tmp_path / "done"
    folder.mkdir()

    def start(key: str = "a") -> Iterator[int]:
        work = partial(mark, folder=folder)
        return map_in_order(work, range(N), 1, size=SIZE, done=DoneWork(path, key))

    wanted = [-number for number in range(N)]
    broken_off = start()
    assert list(itertools.islice(broken_off, 3 * SIZE)) == wanted[: 3 * SIZE]
    broken_off.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("ab") as file:
        file.write(b"torn by a kill")
    n_before = count_marks(folder)
    assert list(start()) == wanted
    assert count_marks(folder) - n_before == N - 3 * SIZE
    n_before = count_marks(folder)
    assert list(start()) == wanted
    assert count_marks(folder) == n_before
    assert list(start("b")) == wanted
    assert count_marks(folder) == n_before + N


def test_a_damaged_batch_and_all_behind_it_are_worked_on_again(tmp_path: Path) -> None:
    path = tmp_path / "done"
    assert list(map_in_order(abs, range(N), 1, size=SIZE, done=DoneWork(path, "a")))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert len(list(DoneWork(path, "a").read())) < N // SIZE
    assert list(map_in_order(abs, range(N), 1, size=SIZE, done=DoneWork(path, "a"))) == [*range(N)]


class Calling:
    """What a pickle of somebody else's does: it names a function to call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_file_from_elsewhere_runs_nothing_and_its_work_is_done_again(tmp_path: Path) -> None:
    path, called = tmp_path / "done", tmp_path / "called"
    done = DoneWork(path, "a")
    assert list(done.read()) == []
    done.add(pickle.dumps([-1, 2]))
    done.add(pickle.dumps([Calling(called)]))
    assert list(DoneWork(path, "a").read()) == [[-1, 2]]
    assert list(map_in_order(abs, [-1, 2, -3], 1, size=2, done=DoneWork(path, "a"))) == [-1, 2, 3]
    assert not called.exists()


@pytest.mark.parametrize("stage", ["deidentify", "prepare", "verify", "merge"])
def test_what_every_stage_finds_can_be_read_back(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel.map_in_order, "__defaults__", (100, "local", parallel.BATCH, None))
    monkeypatch.setattr("medkd.deidentify.stage.MANY", 100)
    monkeypatch.setattr("medkd.merge.stage._MANY", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    kept = tmp_path / "kept"

    def keep(_: StageOutput) -> DoneWork:
        return DoneWork(kept, "a")

    monkeypatch.setattr(StageOutput, "open_done_work", keep)
    given = (
        write_cases(tmp_path) if stage in ("deidentify", "prepare") else write_rationales(tmp_path)
    )
    if stage == "prepare":
        given = run_stage("deidentify", given, tmp_path / "cases")
        kept.unlink()
    first = run_stage(stage, given, tmp_path / "first")
    assert len(list(DoneWork(kept, "a").read())) >= 2
    n_before = kept.stat().st_size
    again = run_stage(stage, given, tmp_path / "again")
    assert kept.stat().st_size == n_before
    for path in first.glob("*.jsonl"):
        assert path.read_bytes() == (again / path.name).read_bytes()


def kill_itself(number: int) -> int:
    if number == 3 * SIZE:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_process_that_is_killed_stops_the_work_with_a_line_and_hangs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(StoppedError, match="was killed"):
        list(map_in_order(kill_itself, range(N), 1, size=SIZE))
