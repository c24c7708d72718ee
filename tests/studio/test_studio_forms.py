"""Forms made from configs, and the command lines made from forms."""

from pathlib import Path

import pytest

from medkd.cli.flags import read_value
from medkd.core.errors import InputError
from medkd.core.i18n import Texts
from medkd.stages import STAGES
from medkd.studio.forms import NOT_ASKED, Field, list_fields, write_words
from medkd.studio.orders import check_field, find_problems, read_order
from medkd.studio.workspace import Workspace

SAMPLES = {
    "whole": "3",
    "number": "0.5",
    "path": "runs/a",
    "paths": "runs/a\nruns/b",
    "texts": "主诉",
    "mapping": "save_steps: 7",
    "text": "x",
}
FIXED = {"language": "en"}
"""Fields of text that take certain words only."""


def fill(field: Field) -> str:
    if field.name in FIXED:
        return FIXED[field.name]
    if field.kind == "switch":
        return "false" if field.default == "true" else "true"
    return field.choices[-1] if field.kind == "choice" else SAMPLES[field.kind]


@pytest.mark.parametrize("stage", STAGES)
def test_a_form_asks_for_every_field_of_a_stage_with_its_doc(stage: str) -> None:
    config = STAGES[stage].load().Config
    fields = list_fields(config)
    assert {field.name for field in fields} == set(config.model_fields) - set(NOT_ASKED)
    assert all(field.help for field in fields)


@pytest.mark.parametrize("stage", STAGES)
def test_an_untouched_form_says_nothing_but_what_is_required(stage: str) -> None:
    fields = list_fields(STAGES[stage].load().Config)
    values = {f.name: SAMPLES[f.kind] if f.is_required else f.default for f in fields}
    assert {word.partition("=")[0] for word in write_words(fields, values, {})} == {
        f"--{field.name}" for field in fields if field.is_required
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_filled_form_is_a_command_line_that_parses(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medkd.cli import app as cli

    module = STAGES[stage].load()
    fields = list_fields(module.Config)
    words = [
        stage,
        *write_words(fields, {field.name: fill(field) for field in fields}, {}),
        "--out",
        "x",
    ]
    _, bound, ignored = cli.build_app(words).parse_args(
        words, exit_on_error=False, print_error=False
    )
    given = {
        name: read_value(value)
        for name, value in bound.arguments.items()
        if name not in ("recipe", "detach")
    }
    assert set(given) >= {field.name for field in fields if fill(field) != field.default}
    assert not ignored


def test_a_step_of_a_recipe_is_changed_as_run_takes_it() -> None:
    fields = list_fields(STAGES["train"].load().Config)
    values = {field.name: field.default for field in fields} | {
        "epochs": "4",
        "trainer": "save_steps: 7",
        "model": "medkd:tiny",
    }
    words = write_words(
        fields,
        values,
        {"epochs": "3", "model": "medkd:tiny"},
        "train-answers",
    )
    assert set(words) == {"--train-answers.epochs=4", "--train-answers.trainer.save_steps=7"}
    [columns] = [f for f in list_fields(STAGES["collect"].load().Config) if f.name == "columns"]
    assert write_words([columns], {"columns": "a=主诉"}, {}, "collect") == [
        '--collect.columns=["a=主诉"]'
    ]


@pytest.mark.parametrize(
    ("stage", "name", "value", "said"),
    [
        ("verify", "input", "", "needed"),
        ("train", "trainer", "not a mapping", "key: value"),
        ("train", "trainer", "a: [1", "key: value"),
        ("train", "epochs", "many", "number"),
        ("train", "epochs", "", "number"),
        ("evaluate", "limit", "", ""),
    ],
)
def test_what_is_wrong_with_a_box_is_said_beside_it(
    stage: str, name: str, value: str, said: str, workspace: Workspace
) -> None:
    order = read_order(stage, {"model": "medkd:tiny"}, workspace, is_filled=False)
    order.parts[0].values.update({"input": "x", name: value})
    found = find_problems(order, Texts("en")).get(f"v::{name}", "")
    assert said in found
    assert bool(said) == bool(found), "an emptied box is as if never filled in, where it may be"


HOSTILE = [
    "--overwrite",
    "-f",
    "--input=/etc/passwd",
    "--out",
    "--",
    "a b",
    "a;b",
    "$(id)",
    "`id`",
    "a\nb: --c",
    "",
    " ",
    "=",
]


@pytest.mark.parametrize("stage", STAGES)
def test_no_value_of_a_page_is_a_flag_of_its_own(stage: str) -> None:
    """Every word is the flag of the field that holds it, whatever the value and its kind."""
    for field in list_fields(STAGES[stage].load().Config):
        for value in HOSTILE:
            given = f"{value}\nx" if field.kind in ("paths", "texts") else value
            try:
                words = write_words([field], {field.name: given}, {})
            except InputError:
                continue
            flag = field.flag
            negated = f"--no-{flag[2:]}"
            for word in words:
                assert word.startswith((f"{flag}=", f"{flag}.")) or word in (flag, negated)
            if field.kind in ("paths", "texts"):
                items = [line.strip() for line in given.split("\n") if line.strip()]
                assert words == [f"{flag}={item}" for item in items]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / "runs").mkdir()
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "own.json").write_text("[]")
    (tmp_path / "secret.json").write_text("[]")
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path / "runs", [tmp_path / "given"])


OUTSIDE = [
    "/etc/passwd",
    "../x",
    "given/../secret.json",
    "~/x",
    "~root/x",
    "./secret.json",
    "secret.json",
    "models",
    "file:///etc/passwd",
    "/etc/passwd\0",
]


@pytest.mark.parametrize("stage", STAGES)
def test_no_field_of_any_stage_takes_a_path_outside_the_workspace(
    stage: str, workspace: Workspace
) -> None:
    for field in list_fields(STAGES[stage].load().Config):
        if field.kind not in ("path", "paths", "text", "texts", "mapping"):
            continue
        for text in OUTSIDE:
            given = f"deepspeed: {text}" if field.kind == "mapping" else text
            with pytest.raises(InputError):
                check_field(field, given, workspace)
        check_field(field, str(workspace.data[0] / "own.json"), workspace)


@pytest.mark.parametrize("text", ["medkd:tiny", "Qwen/Qwen3-8B", "http://127.0.0.1:1/v1", "诊断"])
def test_names_and_addresses_are_no_paths(text: str, workspace: Workspace) -> None:
    for stage in STAGES.values():
        for field in list_fields(stage.load().Config):
            if field.kind == "text":
                check_field(field, text, workspace)


def test_a_hub_name_among_paths_is_one(workspace: Workspace) -> None:
    [field] = [f for f in list_fields(STAGES["merge"].load().Config) if f.name == "input"]
    check_field(field, "hf:owner/name", workspace)
    with pytest.raises(InputError):
        check_field(field, "hf:../../etc", workspace)
