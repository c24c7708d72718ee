import os
import re
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "medkd"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
TRAINING_SIDE = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "matplotlib"}


def read_pins(name: str = "constraints.txt") -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


def list_files() -> list[Path]:
    """List the files of the tree: what git knows or would add, or else all that are no
    leftovers."""
    found = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if found.returncode == 0:
        names = [name for name in found.stdout.split("\0") if name]
    else:
        names = [
            p.relative_to(ROOT).as_posix()
            for p in ROOT.rglob("*")
            if not p.relative_to(ROOT).as_posix().startswith((".", "runs"))
        ]
    return [path for name in names if (path := ROOT / name).is_file()]


def close_over(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Name all that is installed with a distribution."""
    found: set[str] = set()
    open_ends = [(name, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while open_ends:
        one = open_ends.pop()
        if one in seen:
            continue
        seen.add(one)
        found.add(canonicalize_name(one[0]))
        for text in distribution(one[0]).requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in one[1] | {""}
            ):
                open_ends.append((needed.name, frozenset(needed.extras)))
    return found


def test_the_data_side_installs_without_the_training_side() -> None:
    assert not TRAINING_SIDE & close_over("medkd")
    assert {canonicalize_name(Requirement(text).name) for text in EXTRAS["train"]} >= TRAINING_SIDE


def test_every_dependency_is_pinned_to_a_version_that_is_allowed() -> None:
    pins = read_pins()
    for text in [*PROJECT["project"]["dependencies"], *EXTRAS["train"], *EXTRAS["dev"]]:
        needed = Requirement(text)
        assert canonicalize_name(needed.name) in pins, f"{needed.name} is not in constraints.txt"
        assert needed.specifier.contains(pins[canonicalize_name(needed.name)]), text


def test_the_pins_for_gpus_are_allowed_and_hold_what_the_documented_line_installs() -> None:
    pins = read_pins("constraints-cuda.txt")
    wanted = [*PROJECT["project"]["dependencies"], *EXTRAS["train"], *EXTRAS["studio"]]
    for needed in map(Requirement, [*wanted, *EXTRAS["gguf"], "vllm<=0.31", "bitsandbytes"]):
        assert needed.specifier.contains(pins[canonicalize_name(needed.name)]), needed
    for name in ("README.md", "README_zh.md", "docs/en/start.md", "docs/zh/start.md"):
        page = " ".join((ROOT / name).read_text(encoding="utf-8").split())
        line = "pip install -c constraints-cuda.txt '.[train,studio,gguf]' vllm bitsandbytes"
        assert line in page, name


def test_pins_are_exact_and_name_no_build_for_one_machine() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")[:-1]:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), line
        assert not re.match(r"(nvidia|cuda|triton)", line), line


def test_every_data_file_is_shipped_in_the_package() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["medkd"]
    for path in list_files():
        if not path.is_relative_to(PACKAGE) or path.suffix == ".py":
            continue
        inside = PurePosixPath(path.relative_to(PACKAGE).as_posix())
        assert any(inside.match(pattern.removeprefix("**/")) for pattern in patterns), (
            f"{inside} matches no package-data pattern"
        )


@pytest.mark.parametrize("name", ["demo.yaml"])
def test_a_shipped_recipe_is_found_where_the_command_looks_for_it(name: str) -> None:
    from medkd.core.config import find_recipe

    assert find_recipe(name).is_file()
    assert find_recipe(name).read_bytes() == (ROOT / "recipes" / name).read_bytes()


def test_nothing_in_the_tree_names_a_machine_or_a_registry() -> None:
    links = [
        part
        for variable in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
        for part in os.environ.get(variable, "").split()
    ]
    forbidden = [str(ROOT), f"{Path.home()}/", *links]
    places = re.compile(
        r"/home/[a-z]\w*/|/Users/\w+/|(?:index-url|find-links)[ =]+(?:https?|file)://(?!HOST)\S+"
    )
    for path in list_files():
        text = path.read_bytes().decode("utf-8", "ignore")
        found = [word for word in forbidden if word in text] + places.findall(text)
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_the_licence_is_apache_2() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in (
        ROOT / "LICENSE"
    ).read_text(encoding="utf-8")
