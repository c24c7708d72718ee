"""What many tests share: a small model to load and train, rows to train it on, and an adapter
trained on them."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from medkd.models.load import shipped_dir
from student_samples import make_random_model, write_examples

# A model this small is slower on two threads than on one, and many times so where the cores are
# busy with something else.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Messages are compared as they are in English, whoever runs the tests.
for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
    os.environ.pop(name, None)
# No test asserts a time, and a machine may be busy. The slow tests come with all examples.
hypothesis.settings.register_profile("full", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=40)


def pytest_configure(config: pytest.Config) -> None:
    """Draw fewer examples where the slow tests are left out."""
    is_quick = config.getoption("markexpr", "") == "not slow"
    hypothesis.settings.load_profile("quick" if is_quick else "full")


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Build what many tests read, once for all processes of pytest-xdist, and return its folder."""
    root = factory.getbasetemp()
    root = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    folder, done = root / "shared" / name, root / "shared" / f"{name}.done"
    folder.parent.mkdir(exist_ok=True)
    with (root / "shared" / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            build(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def random_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing and stops on the wrong token, as some bases do."""
    return build_once(tmp_path_factory, "random", make_random_model)


@pytest.fixture(scope="session")
def tiny_model_dir(random_model_dir: Path) -> Path:
    """The shipped student, or the random one where it has not been made yet."""
    return shipped_dir() if (shipped_dir() / "config.json").exists() else random_model_dir


@pytest.fixture(scope="session")
def merged_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `merge` leaves it, with three short files."""

    def build(folder: Path) -> None:
        folder.mkdir()
        write_examples(folder / "train.jsonl", range(24))
        write_examples(folder / "val.jsonl", range(24, 30))
        write_examples(folder / "test.jsonl", range(30, 42))

    return build_once(tmp_path_factory, "merged", build)


@pytest.fixture(scope="session")
def trained_dir(
    tmp_path_factory: pytest.TempPathFactory, random_model_dir: Path, merged_dir: Path
) -> Path:
    """What `train` leaves when the random model has learnt the short rows by heart: it thinks, is
    right and stops."""
    from medkd.train.stage import Config, run

    def build(folder: Path) -> None:
        run(
            Config(
                model=str(random_model_dir),
                input=merged_dir,
                out=folder,
                epochs=50,
                learning_rate=1e-2,
                max_length=256,
            )
        )

    return build_once(tmp_path_factory, "trained", build)
