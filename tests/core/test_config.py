import os
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from medkd.core.config import (
    MAX_YAML_CHARACTERS,
    RUNTIME,
    BrokenYamlError,
    Seed,
    StageConfig,
    find_recipe,
    make_config,
    parse_yaml,
    read_recipe,
    read_shipped_yaml,
)
from medkd.core.errors import InputError


class Config(StageConfig):
    input: Annotated[tuple[Path, ...], RUNTIME] = ()
    mode: Literal["fast", "slow"] = "fast"
    min_share: float = Field(default=0.5, ge=0, le=1)
    model: str
    delay: Annotated[float, RUNTIME] = 2.0
    limit: int | None = None
    seed: Seed = 0
    trainer: dict[str, Any] = Field(default_factory=dict)


def refuse(values: dict[str, object]) -> str:
    with pytest.raises(InputError) as caught:
        make_config(Config, values, "demo.yaml: stage")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_key_is_refused_with_the_nearest_valid_one() -> None:
    assert (
        refuse({"out": "a", "model": "m", "min_shaer": 1})
        == "demo.yaml: stage: unknown key 'min_shaer'; did you mean 'min_share'?"
    )
    assert "known: out, resume, overwrite, input" in refuse({"qqqq": 1})


def test_a_missing_field_is_named_with_its_flag() -> None:
    assert (
        refuse({"out": "a"})
        == "demo.yaml: stage: model is missing; add --model, or write it in the recipe"
    )


def test_a_wrong_value_is_named_with_what_was_given() -> None:
    assert "min_share" in refuse({"out": "a", "model": "m", "min_share": 7})
    assert "(got 7)" in refuse({"out": "a", "model": "m", "min_share": 7})
    assert "'fast', 'slow'" in refuse({"out": "a", "model": "m", "mode": "quick"})


def test_how_a_stage_runs_and_where_is_not_what_it_makes() -> None:
    one = make_config(
        Config, {"out": "a", "model": "m", "delay": 0, "resume": True, "input": ["x"]}, "here"
    )
    two = make_config(Config, {"out": "b", "model": "m", "overwrite": True}, "here")
    assert (
        one.fingerprint_fields()
        == two.fingerprint_fields()
        == {
            "mode": "fast",
            "min_share": 0.5,
            "model": "m",
            "limit": None,
            "seed": 0,
            "trainer": {},
        }
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "a mapping of stages"),
        ("- collect\n- train\n", "a mapping of stages"),
        ("collect: {source: files\ntrain:\n", ":2: broken YAML"),
        ("collect:\n\tsource: files\n", ":2: broken YAML"),
        ("collect: {day: 2021-13-45}\n", ": broken YAML (month must be"),
        ("[" * 2000, "broken YAML (nested more than 50 levels"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_place(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "medkd recipes show demo" in str(caught.value)


def test_a_recipe_that_is_missing_a_directory_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(2**33)
    for name, says in (
        ("nowhere.yaml", "no such recipe"),
        ("", "cannot be read"),
        ("binary.yaml", "cannot be read as UTF-8"),
        ("pipe", "is a pipe or a device"),
        ("/dev/zero", "is a pipe or a device"),
        ("huge.yaml", "too large for a recipe"),
        ("a" * 5000, "the path is too long"),
        ("a\0b", "must not hold the character NUL"),
    ):
        with pytest.raises(InputError, match=says):
            read_recipe(tmp_path / name)


def test_a_recipe_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("collect: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="broken YAML"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"delay": float("inf")}, "delay: must be a finite number"),
        ({"delay": float("nan")}, "delay: must be a finite number"),
        ({"delay": "many"}, "delay: must be a number"),
        ({"limit": 10**20}, "must be at most 2147483647"),
        ({"limit": -(10**20)}, "must be at most 2147483647"),
        ({"limit": "9" * 5000}, "limit: "),
        ({"limit": 1.5}, "limit: must be a whole number"),
        ({"seed": -1}, "seed: must be at least 0 (got -1)"),
        ({"seed": 2**32}, "seed: must be less than"),
        ({"model": "a\0b"}, "model: must not hold the character NUL"),
        ({"model": "a\udce9"}, "model: must be UTF-8"),
        ({"model": ["a"]}, "model: must be text"),
        ({"input": ["a\0b"]}, "input: must not hold the character NUL"),
        ({"input": ["a" * 5000]}, "input: the path is too long"),
        ({"input": ["/dev/null"]}, "is a pipe or a device; write its content to a file first"),
        ({"input": 3}, "input"),
        ({"trainer": {"a": {"b": "c\0"}}}, "trainer.a.b: must not hold the character NUL"),
        ({"trainer": {"a": 10**30}}, "trainer.a: must be at most"),
        ({"overwrite": "perhaps"}, "overwrite: must be true or false"),
    ],
)
def test_numbers_texts_and_paths_that_no_stage_can_use_are_refused_in_one_line(
    values: dict[str, object], says: str
) -> None:
    message = refuse({"out": "a", "model": "m"} | values)
    assert says in message
    assert len(message) < 300
    assert ";" in message


def test_the_next_step_of_a_command_is_its_help() -> None:
    with pytest.raises(InputError, match=r"; see `medkd train --help`$"):
        make_config(Config, {"out": "a", "model": "m", "min_share": 7}, "medkd train")


class Renamed(Config):
    renamed: ClassVar = {"old_delay": "delay"}


def test_the_former_name_of_a_field_is_read_with_one_line_of_notice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"out": "a", "model": "m", "old_delay": 7}
    assert make_config(Renamed, given, "recipe.yaml: train").delay == 7
    notice = "notice: recipe.yaml: train: old_delay is now called delay\n"
    assert capsys.readouterr().err == notice
    with pytest.raises(InputError, match="former name of delay; give only delay"):
        make_config(Renamed, given | {"delay": 8}, "here")


def test_a_shipped_recipe_is_found_by_its_name_and_a_file_of_the_user_s_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.yaml", "recipes/demo.yaml"):
        assert read_recipe(Path(name))["student"] == "medkd:tiny"
    (tmp_path / "demo.yaml").write_text("out: mine\n")
    assert read_recipe(Path("demo")) == {"out": "mine"}
    assert find_recipe("demo", tmp_path) == tmp_path / "demo.yaml"
    assert find_recipe("own-cases", tmp_path).is_file()
    assert find_recipe("elsewhere/demo.yaml") == Path("elsewhere/demo.yaml")
    with pytest.raises(InputError, match="did you mean 'own-cases'"):
        read_recipe(Path("own-case"))


# --- YAML ---------------------------------------------------------------------------------------

LEVELS = range(1, 40)
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in LEVELS)
MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in LEVELS
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "more than 1000000 values"),
        (MERGES, "more than 1000000 values"),
        ("[" * 2000, "levels deep"),
        ("[" * 200_000, "levels deep"),
        ("- " * 2000 + "a", "levels deep"),
        ("{a: " * 2000, "levels deep"),
        ("a: &a [*a]", "holds itself"),
        ("a: &a {b: *a}", "holds itself"),
        ("a: *b", "undefined alias"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice"),
        ("train:\n  epochs: 1\n  epochs: 2", "the key 'epochs' is given twice"),
        ("x" * (MAX_YAML_CHARACTERS + 1), "longer than"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("? [a]\n: b", "unhashable"),
        ("a: " + "9" * 5000, "integer string conversion"),
        ("day: 2021-13-45", "month must be"),
        ("a: b: c", "mapping values are not allowed"),
        ("a\0b", "NUL|special characters|control characters"),
        ("--- a\n--- b", "found another document"),
    ],
)
def test_what_cannot_be_read_or_is_too_much_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(BrokenYamlError, match=says) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_the_place_of_a_repeated_key_is_told() -> None:
    with pytest.raises(BrokenYamlError) as caught:
        parse_yaml("a: 1\nb: 2\na: 3")
    assert caught.value.line == 3


def test_anchors_and_merges_of_an_honest_recipe_are_read() -> None:
    text = "train: &t {epochs: 1}\ntrain-more: {<<: *t, epochs: 2}\nevaluate: *t"
    assert parse_yaml(text) == {
        "train": {"epochs": 1},
        "train-more": {"epochs": 2},
        "evaluate": {"epochs": 1},
    }


def test_an_empty_text_is_nothing() -> None:
    assert parse_yaml("") is None


PLAIN: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(PLAIN)
def test_what_yaml_writes_is_read_back(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


@settings(deadline=None)
@given(st.text(alphabet="[]{}:,&*a- \n?!|>'\"#%\t<@`", max_size=40))
def test_any_text_is_read_or_refused_with_one_error(text: str) -> None:
    try:
        parse_yaml(text)
    except BrokenYamlError as error:
        assert "\n" not in str(error)


def test_without_the_c_loader_the_same_is_read_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert parse_yaml("a: [1, {b: c}]") == {"a": [1, {"b": "c"}]}
    for text in (BOMB, "[" * 5000, "a: 1\na: 2"):
        with pytest.raises(BrokenYamlError):
            parse_yaml(text)
    assert sys.getrecursionlimit() >= 1000


def test_a_shipped_table_is_read_once() -> None:
    first = read_shipped_yaml("medkd", "tasks/diagnosis.yaml")
    assert first is read_shipped_yaml("medkd", "tasks/diagnosis.yaml")
    assert first["name"] == "diagnosis"
