"""Active rounds: which steps they have, when they stop, what is told of them."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from medkd.core.config import make_config
from medkd.core.errors import InputError
from medkd.pipeline import plan
from medkd.rounds import RoundKeeper, Rounds

STEPS = {
    "select": {"input": "prepare", "adapter": "train@last"},
    "distill": {"input": "select", "mode": "correct", "from": "select"},
    "verify": {},
    "merge": {"input": ["verify@all"]},
    "train": {},
    "evaluate": {"input": "prepare", "split": "val", "adapter": "train"},
}
RECIPE = {
    "student": "medkd:tiny",
    "prepare": {"input": "cases.jsonl"},
    "evaluate-start": {"input": "prepare", "split": "val"},
    "rounds": {
        "most": 2,
        "watch": "evaluate",
        "before": "evaluate-start",
        "budget": 3,
        "steps": STEPS,
    },
}


def plan_recipe(tmp_path: Path, recipe: dict) -> dict:
    with ExitStack() as servers:
        planned = plan(recipe, "r.yaml", tmp_path, False, servers)
    return {step.name: step for step in planned.steps}


def test_each_round_has_its_steps_wired_to_its_own_and_to_those_before(tmp_path):
    steps = plan_recipe(tmp_path, RECIPE)
    assert [s.round for s in steps.values()] == [0, 0, *[1] * 6, *[2] * 6]
    first, second = steps["select-1"].config, steps["select-2"].config
    assert first.adapter is None
    assert second.adapter == tmp_path / "train-1" / "adapter"
    assert second.input == tmp_path / "prepare"
    bought = steps["distill-2"].config
    assert (bought.input, bought.from_) == (tmp_path / "select-2",) * 2
    assert (bought.ledger, bought.budget) == (tmp_path / "ledger.sqlite", 3)
    assert steps["verify-2"].config.input == tmp_path / "distill-2"
    assert steps["merge-2"].config.input == (tmp_path / "verify-1", tmp_path / "verify-2")
    assert steps["evaluate-2"].config.adapter == tmp_path / "train-2" / "adapter"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"watch": "evaluat"}, "rounds: watch: no step 'evaluat'; did you mean 'evaluate'"),
        ({"before": "start"}, "rounds: before: no step 'start'"),
        ({"steps": {"evaluate": {}, "distil": {}}}, "unknown section 'distil-1'"),
        ({"steps": {}}, "rounds: steps"),
        ({"most": 0}, "rounds: most"),
    ],
)
def test_a_mistake_in_rounds_is_one_line(tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        plan_recipe(tmp_path, {**RECIPE, "rounds": {**RECIPE["rounds"], **change}})


def write_step(folder: Path, stage: str, rights: str = "", cost: float = 0.0, **facts) -> None:
    """Write what a step leaves: its manifest, and for an evaluation its rows."""
    folder.mkdir(parents=True)
    manifest = {
        "stage": stage,
        "state": "finished",
        "config": {},
        "facts": facts,
        "counts": {"kept": facts.pop("kept", 5)},
        "cost": {"amount": cost},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    rows = [
        {"id": str(n), "scores": {"diagnosis_accuracy": float(one)}} for n, one in enumerate(rights)
    ]
    if rights:
        (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def make_keeper(tmp_path: Path, most: int = 3) -> RoundKeeper:
    given = {**RECIPE["rounds"], "most": most}
    return RoundKeeper(make_config(Rounds, given, "r.yaml"), tmp_path)


def test_rounds_go_on_while_the_gain_is_beyond_its_noise_and_tell_it_for_the_money(
    tmp_path, capsys
):
    write_step(tmp_path / "evaluate-start", "evaluate", "0" * 40)
    write_step(tmp_path / "distill-1", "distill", cost=0.5, bought=7)
    write_step(tmp_path / "evaluate-1", "evaluate", "1" * 20 + "0" * 20)
    write_step(tmp_path / "distill-2", "distill", cost=0.25, bought=3)
    write_step(tmp_path / "evaluate-2", "evaluate", "1" * 20 + "0" * 19 + "1")
    keeper = make_keeper(tmp_path)
    assert keeper.close(1) == ""
    assert "is within its noise" in keeper.close(2)
    keeper.write()
    first, second = json.loads((tmp_path / "rounds.json").read_text())
    assert (first["gain"], first["gain_per_money"], first["bought"]) == (0.5, 1.0, 7)
    assert (second["gain"], second["stopped"] != "") == (0.025, True)
    assert "0.500 (0.352-0.648)" in capsys.readouterr().out


def test_rounds_end_with_the_budget_with_their_number_or_with_nothing_to_buy(tmp_path):
    write_step(tmp_path / "evaluate-start", "evaluate", "0" * 40)
    write_step(tmp_path / "evaluate-1", "evaluate", "1" * 40)
    assert make_keeper(tmp_path, most=1).close(1) == "1 rounds were wanted"
    keeper = make_keeper(tmp_path)
    keeper.note_budget()
    assert keeper.close(1) == "the budget is spent"
    write_step(tmp_path / "select-1", "select", selected=0)
    write_step(tmp_path / "distill-1", "distill", kept=0)
    write_step(tmp_path / "select-2", "select", selected=3)
    assert keeper.find_reason_to_skip("select-1", 1) == "nothing to buy in round 1"
    assert keeper.find_reason_to_skip("distill-1", 1) == "nothing to buy in round 1"
    assert keeper.done[-1].stopped == "nothing to buy in round 1"
    assert keeper.find_reason_to_skip("select-2", 2) == ""
