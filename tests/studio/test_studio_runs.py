"""The page Runs in a real browser: looking before a training, rewards as they come, stopping, going
on, deleting."""

import json
import re
from pathlib import Path

import pytest
from page_moves import fill, find_run, finish, open_start, start

from medkd import background_jobs


def name_inputs(page, **values: Path) -> None:
    """Fill in boxes that suggest what earlier stages made, and take anything."""
    for label, value in values.items():
        page.get_by_label(re.compile(rf"^\s*{label}\b")).first.fill(str(value))
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")


@pytest.mark.slow
def test_what_the_pre_flight_finds_stands_on_the_page_with_its_repair(
    open_studio, watch, random_model_dir: Path, merged_dir: Path, tmp_path: Path
) -> None:
    studio, watched = (
        open_studio("--data", str(random_model_dir), "--data", str(merged_dir)),
        watch(),
    )
    page = watched.page
    page.set_default_timeout(60_000)
    open_start(page, studio.url, "train – LoRA-tune a student", "looked")
    name_inputs(page, model=random_model_dir, input=merged_dir)
    page.get_by_role("button", name="Look first").click()
    repair = page.locator(".notice.info").filter(has_text="put right by the training itself")
    repair.filter(has_text="stops_elsewhere").wait_for()
    assert "<|im_end|>" in repair.filter(has_text="stops_elsewhere").inner_text()
    page.get_by_text("memory").first.wait_for()

    fill(page, "max_length", "20")
    page.get_by_role("button", name="Look first").click()
    page.locator(".notice.bad").filter(has_text="no row is left to train on").wait_for()
    assert not list((tmp_path / "runs" / "looked").glob("*")), "nothing is written"
    assert watched.errors == []


@pytest.mark.slow
def test_rewards_are_drawn_as_they_come_and_a_run_is_stopped_gone_on_with_and_deleted(
    open_studio, watch, random_model_dir: Path, merged_dir: Path, trained_dir: Path, tmp_path: Path
) -> None:
    given = [
        word
        for folder in (random_model_dir, merged_dir, trained_dir)
        for word in ("--data", str(folder))
    ]
    studio, watched = open_studio(*given), watch()
    page = watched.page
    page.set_default_timeout(60_000)
    open_start(page, studio.url, "reinforce – GRPO from an adapter", "rewarded")
    name_inputs(page, model=random_model_dir, adapter=trained_dir, input=merged_dir)
    for field, value in {
        "steps": 40,
        "questions": 2,
        "group_size": 4,
        "batch_size": 4,
        "max_tokens": 96,
        "learning_rate": 0.001,
    }.items():
        fill(page, field, str(value))
    page.get_by_label("trainer", exact=False).first.fill("temperature: 0.7\nsave_steps: 2")
    start(
        page, "--steps=40", "--max-tokens=96", "--trainer.save_steps=2", f"--adapter={trained_dir}"
    )
    out = tmp_path / "runs" / "rewarded" / "reinforce"
    page.get_by_role("button", name="rewarded", exact=True).click()
    reward = page.locator(".plots svg[aria-label='Reward']")
    reward.wait_for(timeout=180_000)
    before = page.locator(".plots").inner_html()
    page.wait_for_function(
        "(before) => document.querySelector('.plots').innerHTML !== before",
        arg=before,
        timeout=120_000,
    )

    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("Stopped; what was done is kept.").wait_for()
    assert background_jobs.read_state(find_run(out)) == "stopped"
    steps = [line["step"] for line in read_metrics(out) if "reward" in line]
    assert 0 < max(steps) < 40
    page.locator(".head .state").filter(has_text="stopped").wait_for()

    page.get_by_role("button", name="Go on").click()
    page.get_by_text("started; medkd logs").wait_for()
    page.locator(".head .state").filter(has_text="running").wait_for()
    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("button", name="Yes, delete its files").click()
    page.get_by_text("is running; stop it first").wait_for()
    finish(out)
    page.locator(".head .state").filter(has_text="finished").wait_for()
    assert max(line["step"] for line in read_metrics(out) if "reward" in line) == 40

    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="Yes, delete its files").wait_for(state="hidden")
    assert out.exists()
    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("button", name="Yes, delete its files").click()
    page.get_by_text("rewarded is deleted.").wait_for()
    assert not out.exists()
    page.get_by_role("button", name="rewarded", exact=True).wait_for(state="detached")
    assert watched.errors == []


def read_metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
