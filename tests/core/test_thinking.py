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
