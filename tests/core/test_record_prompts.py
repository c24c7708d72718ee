import pytest

from medkd.core.errors import InputError
from medkd.core.prompts import load_prompts


def test_the_record_format_has_its_system_and_an_instruction_that_names_the_tags() -> None:
    prompts = load_prompts()
    assert prompts.system == "你是一名专业的临床医生。"
    assert "<think></think>" in prompts.instruction


@pytest.mark.parametrize("language", ["zh", "en"])
def test_paraphrases_differ_and_all_ask_for_thinking(language: str) -> None:
    prompts = load_prompts(language)
    asked = {prompts.instruction, *prompts.paraphrases}
    assert len(asked) == len(prompts.paraphrases) + 1 >= 4
    assert all("<think>" in text for text in asked)


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="zh"):
        load_prompts("klingon")
