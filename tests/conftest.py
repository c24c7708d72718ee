"""What many tests share: a small model to load and train, rows to train it on, and an adapter
trained on them."""

import os
from pathlib import Path

import pytest

from medkd.models.load import tiny_dir
from student_samples import make_random_model, write_examples

# A model this small is slower on two threads than on one, and many times so where the cores are
# busy with something else.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def random_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing and stops on the wrong token, as some bases do."""
    return make_random_model(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def tiny_model_dir(random_model_dir: Path) -> Path:
    """The shipped student, or the random one where it has not been made yet."""
    return tiny_dir() if (tiny_dir() / "config.json").exists() else random_model_dir


@pytest.fixture(scope="session")
def merged_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `merge` leaves it, with three short files."""
    folder = tmp_path_factory.mktemp("merged")
    write_examples(folder / "train.jsonl", range(24))
    write_examples(folder / "val.jsonl", range(24, 30))
    write_examples(folder / "test.jsonl", range(30, 42))
    return folder


@pytest.fixture(scope="session")
def trained_dir(
    tmp_path_factory: pytest.TempPathFactory, random_model_dir: Path, merged_dir: Path
) -> Path:
    """What `train` leaves when the random model has learnt the short rows by heart: it thinks, is
    right and stops."""
    from medkd.train.stage import Config, run

    out = tmp_path_factory.mktemp("trained")
    run(
        Config(
            model=str(random_model_dir),
            input=merged_dir,
            out=out,
            epochs=50,
            learning_rate=1e-2,
            max_length=256,
        )
    )
    return out
