from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from medkd.core.config import RUNTIME, StageConfig, is_list_field, make_config, read_recipe
from medkd.core.errors import InputError


class Config(StageConfig):
    input: Annotated[tuple[Path, ...], RUNTIME] = ()
    mode: Literal["fast", "slow"] = "fast"
    min_share: float = Field(default=0.5, ge=0, le=1)
    model: str
    delay: Annotated[float, RUNTIME] = 2.0


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
        == "demo.yaml: stage: model is missing; give --model or write it in the recipe"
    )


def test_a_wrong_value_is_named_with_what_was_given() -> None:
    assert "min_share" in refuse({"out": "a", "model": "m", "min_share": 7})
    assert "(got 7)" in refuse({"out": "a", "model": "m", "min_share": 7})
    assert "'fast' or 'slow'" in refuse({"out": "a", "model": "m", "mode": "quick"})


def test_how_a_stage_runs_and_where_is_not_what_it_makes() -> None:
    one = make_config(
        Config, {"out": "a", "model": "m", "delay": 0, "resume": True, "input": ["x"]}, "here"
    )
    two = make_config(Config, {"out": "b", "model": "m", "overwrite": True}, "here")
    assert (
        one.fingerprint_fields()
        == two.fingerprint_fields()
        == {"mode": "fast", "min_share": 0.5, "model": "m"}
    )


def test_a_field_that_takes_several_values_is_known_as_one() -> None:
    assert [name for name in Config.model_fields if is_list_field(Config, name)] == ["input"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "a mapping of stages"),
        ("- collect\n- train\n", "a mapping of stages"),
        ("collect: {source: files\ntrain:\n", ":2: broken YAML"),
        ("collect:\n\tsource: files\n", ":2: broken YAML"),
        ("collect: {day: 2021-13-45}\n", ": broken YAML (month must be"),
        ("[" * 2000, ": broken YAML (maximum recursion"),
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
    assert "recipes/demo.yaml" in str(caught.value)


def test_a_recipe_that_is_missing_a_directory_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for name, says in (
        ("nowhere.yaml", "no such recipe"),
        ("", "cannot be read"),
        ("binary.yaml", "cannot be read as UTF-8"),
    ):
        with pytest.raises(InputError, match=says):
            read_recipe(tmp_path / name)


def test_a_recipe_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("collect: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="broken YAML"):
        read_recipe(path)
