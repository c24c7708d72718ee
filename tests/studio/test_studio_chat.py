"""The page Chat in a real browser: two models side by side, an endpoint, stopping, keeping what was
said."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_moves import open_start, start

from medkd.demo.teacher import serve_teacher
from student_samples import make_random_model


@pytest.fixture(scope="module")
def babbler_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has no end: by its weights, as nobody asks its generation config."""
    from transformers import AutoModelForCausalLM

    folder = make_random_model(tmp_path_factory.mktemp("babbler"), hidden_size=256)
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    weight = model.get_input_embeddings().weight.data  # tied to the output's
    weight[:, 0] = 4.0
    weight[[token["id"] for token in tokens], 0] = -4.0
    for layer in model.model.layers:  # what the layers add leaves that dimension as it is
        layer.self_attn.o_proj.weight.data[0] = 0.0
        layer.mlp.down_proj.weight.data[0] = 0.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def slow_teacher() -> Iterator[str]:
    with serve_teacher(pace_s=1.0) as teacher:
        yield f"any@{teacher.base_url}"


def open_chat(studio, watched, before: str, after: str):
    page = watched.page
    page.set_default_timeout(30_000)
    page.goto(f"{studio.url}/en/chat")
    for label, name in (("Model (before)", before), ("Model (after)", after)):
        if name:
            page.get_by_label(label, exact=True).first.fill(name)
            page.keyboard.press("Enter")
            page.keyboard.press("Escape")
    return page


def ask(page, text: str) -> None:
    page.get_by_label("Question", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


@pytest.mark.slow
def test_before_and_after_answer_side_by_side_and_are_kept(
    open_studio, watch, trained_dir: Path, random_model_dir: Path
) -> None:
    studio, watched = (
        open_studio("--data", str(trained_dir), "--data", str(random_model_dir)),
        watch(),
    )
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = open_chat(studio, watched, str(random_model_dir), str(trained_dir))
    page.locator(".empty").wait_for()
    assert page.get_by_role("button", name="Unload models").is_hidden(), "there is none to unload"
    page.get_by_role("button", name="Sampling, task text, key").click()
    page.get_by_label("max_tokens").fill("64")
    ask(page, "case 24: sign a")
    page.get_by_text("Thought · ").wait_for(timeout=60_000)
    page.locator(".turn .fact").nth(1).wait_for(timeout=60_000)
    left, right = (pane.bounding_box() for pane in page.locator(".turn.user").all())
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"], "side by side"
    assert page.get_by_text("sign a means flu").is_hidden(), "the thinking is folded"
    page.get_by_text("Thought · ").click()
    page.get_by_text("sign a means flu").wait_for()
    assert page.get_by_text("MiB").inner_text().count("MiB") == 2, (
        "two models, each with its memory"
    )
    ask(page, "case 25: sign b")
    page.locator(".turn .fact").nth(3).wait_for(timeout=60_000)

    with page.expect_download() as awaited:
        page.get_by_role("button", name="Save").click()
    saved = json.loads(Path(awaited.value.path()).read_text(encoding="utf-8"))
    assert [turn["role"] for turn in saved["after"]] == ["user", "assistant"] * 2
    assert [turn["answer"] for turn in saved["after"]][:3] == [
        "case 24: sign a",
        "flu",
        "case 25: sign b",
    ]
    assert saved["after"][1]["reasoning"] == "sign a means flu"
    page.get_by_role("button", name="Copy").last.click()
    page.wait_for_function(
        "() => navigator.clipboard.readText().then((text) => text.includes('sign a means flu'))"
    )
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == saved

    page.get_by_role("button", name="New conversation").click()
    page.locator(".turn").first.wait_for(state="detached")
    assert page.get_by_role("button", name=re.compile("Save|New conversation|Stop")).all() == []
    page.get_by_role("button", name="Unload models").click()
    page.get_by_role("button", name="Unload models").wait_for(state="hidden")
    assert watched.errors == []


@pytest.mark.slow
def test_a_model_without_end_is_stopped_and_a_training_sends_it_away(
    open_studio, watch, babbler_dir: Path
) -> None:
    studio, watched = open_studio("--data", str(babbler_dir)), watch()
    page = open_chat(studio, watched, "", str(babbler_dir))
    page.get_by_role("button", name="Sampling, task text, key").click()
    page.get_by_label("max_tokens").fill("30000")
    page.get_by_label("number input for temperature").fill("1")
    ask(page, "?")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.turn:not(.user) .text')].some((part) => part.innerText.length > 40)",
        timeout=120_000,  # the model is loaded first
    )
    ask(page, "and?")
    page.get_by_text("Wait until the answer has ended").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator(".turn .fact").filter(has_text="stopped").wait_for()
    said = page.locator(".turn:not(.user) .text").inner_text()
    page.wait_for_timeout(1500)
    assert page.locator(".turn:not(.user) .text").inner_text() == said, "nothing comes after a stop"
    ask(page, "and?")
    page.locator(".turn:not(.user)").nth(1).wait_for()
    other = watch().page
    open_start(other, f"{studio.url}/en/export")
    other.get_by_label("adapter", exact=False).first.fill(str(babbler_dir))
    other.keyboard.press("Enter")
    start(other, f"--adapter={babbler_dir}", "road")
    page.locator(".turn .fact").filter(has_text="stopped").nth(1).wait_for(timeout=120_000)
    page.get_by_role("button", name="Unload models").wait_for(state="hidden")
    assert watched.errors == []


@pytest.mark.slow
def test_an_endpoint_answers_in_words_as_they_come_and_one_that_is_not_there_is_told(
    open_studio, watch, slow_teacher: str
) -> None:
    studio, watched = open_studio(), watch()
    page = open_chat(studio, watched, "some@http://127.0.0.1:9/v1", slow_teacher)
    ask(page, "【主诉】发热3天。")
    page.get_by_text("check the address, the model's name and the key").wait_for()
    summary = page.locator(".turn summary")
    summary.filter(has_text="Thinking …").wait_for()
    page.locator(".turn details[open] .text").wait_for()  # folded when it has ended
    first = summary.inner_text()
    page.wait_for_function(
        "(first) => document.querySelector('.turn summary').innerText !== first", arg=first
    )
    page.get_by_role("button", name="Stop").click()
    page.locator(".turn .fact").filter(has_text="stopped").wait_for()
    assert watched.foreign == []
    assert watched.errors == []
