import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.core import thinking

TEXTS = st.text().filter(
    lambda text: text.strip() and thinking.OPEN not in text and thinking.CLOSE not in text
)


@given(TEXTS, TEXTS)
def test_what_is_written_is_read_again(reasoning: str, answer: str) -> None:
    text = thinking.write(reasoning, answer)
    assert thinking.read(text) == (reasoning.strip(), answer.strip())
    assert thinking.is_well_formed(text)
    assert text.startswith(thinking.PREFIX)


@given(TEXTS, TEXTS)
def test_the_glued_form_and_a_missing_opening_tag_are_read_alike(
    reasoning: str, answer: str
) -> None:
    glued = f"<think>{reasoning}</think>{answer}"
    assert (
        thinking.read(glued)
        == thinking.read(glued.removeprefix("<think>"))
        == (reasoning.strip(), answer.strip())
    )


@given(st.lists(st.sampled_from(["<think>", "</think>", "\n", " ", "发热", "<", ">"])).map("".join))
def test_any_text_is_read_without_an_error(text: str) -> None:
    thought = thinking.read(text)
    assert (thought.reasoning is None) == (thinking.CLOSE not in text)
    if thinking.is_well_formed(text):
        assert thought.reasoning
        assert thought.answer


def test_thinking_that_is_never_closed_is_no_answer() -> None:
    assert thinking.read("<think>\n发热，咳嗽") == (None, "")
    assert not thinking.is_well_formed("<think>\n发热，咳嗽")


def test_text_with_tags_twice_or_with_an_empty_part_is_not_well_formed() -> None:
    for text in (
        "<think>a</think><think>b</think>c",
        "<think></think>a",
        "<think>a</think> ",
        "a</think>b",
        "x<think>a</think>b",
    ):
        assert not thinking.is_well_formed(text)


FAMILIES = {
    "think": "<think>\n发热，咳嗽。\n</think>\n\n肺炎",
    "capitals": "<THINK>发热，咳嗽。</THINK>肺炎",
    "thinking": "<thinking>发热，咳嗽。</thinking>\n肺炎",
    "thought": "<thought>\n发热，咳嗽。\n</thought>肺炎",
    "reasoning with an answer": "<reasoning>发热，咳嗽。</reasoning>\n<answer>\n肺炎\n</answer>",
    "r1-zero": "<think>发热，咳嗽。</think><answer>肺炎</answer>",
    "sky-t1": "<|begin_of_thought|>\n\n发热，咳嗽。\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n肺炎\n<|end_of_solution|>",
    "kimi": "◁think▷发热，咳嗽。◁/think▷肺炎",
    "magistral": "[THINK]发热，咳嗽。[/THINK]肺炎",
    "seed": "<seed:think>发热，咳嗽。</seed:think>肺炎",
    "command": "<|START_THINKING|>发热，咳嗽。<|END_THINKING|><|START_RESPONSE|>肺炎<|END_RESPONSE|>",
    "medgemma": "<unused94>thought\n发热，咳嗽。<unused95>肺炎",
    "chinese": "<思考>发热，咳嗽。</思考>肺炎",
    "mismatched": "<think>发热，咳嗽。</thinking>肺炎",
    "harmony": "<|channel|>analysis<|message|>发热，咳嗽。<|end|><|start|>assistant<|channel|>final<|message|>肺炎<|return|>",
    "harmony with its start": "<|start|>assistant<|channel|>analysis<|message|>发热，咳嗽。<|end|>\n<|start|>assistant<|channel|>final <|constrain|>x<|message|>肺炎",
    "harmony without special tokens": "analysis发热，咳嗽。assistantfinal肺炎",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read(family: str) -> None:
    assert thinking.read(FAMILIES[family]) == ("发热，咳嗽。", "肺炎")
    assert not thinking.is_unfinished(FAMILIES[family])


@pytest.mark.parametrize("family", ["thinking", "kimi", "sky-t1", "seed", "magistral", "medgemma"])
def test_a_missing_opening_tag_of_every_family_is_read(family: str) -> None:
    text = FAMILIES[family]
    assert thinking.read(text[text.index("发热") :]) == ("发热，咳嗽。", "肺炎")


@pytest.mark.parametrize("family", FAMILIES)
def test_thinking_of_every_family_that_is_cut_is_no_answer(family: str) -> None:
    text = FAMILIES[family][: FAMILIES[family].index("咳嗽")]
    if "without special" not in family:
        assert thinking.read(text) == (None, "") and thinking.is_unfinished(text)


@pytest.mark.parametrize(
    "text",
    [
        "肺炎",
        "WBC<10，CRP>8",
        "[1] 见文献[/1]",
        "analysis of the case",
        "<b>肺炎</b>",
        "",
        "a </b> c",
    ],
)
def test_text_without_thinking_stays_as_it_is(text: str) -> None:
    assert thinking.read(text) == (None, text)
    assert thinking.find_tag(text) == ""


def test_tags_around_a_reasoning_of_its_own_go_and_others_are_found() -> None:
    for family in ("think", "thinking", "kimi", "sky-t1", "magistral"):
        text = FAMILIES[family]
        whole = text[: text.index("咳嗽。") + 3]
        assert thinking.strip_tags(whole) == "发热，咳嗽。"
        assert thinking.find_tag(f"发热{whole}")
    assert thinking.strip_tags("发热</think>") == "发热"


def test_long_texts_are_read_in_linear_time() -> None:
    for text in (
        "<think>" * 50_000,
        "</b>" * 100_000,
        "<|channel|>" * 50_000,
        " " * 10**6,
        "<|" * 10**6,
    ):
        thinking.read(text)
        thinking.strip_tags(text)
