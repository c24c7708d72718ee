import pytest

from medkd.deidentify.names import as_name, as_words


@pytest.mark.parametrize(
    "name", ["李建国", "欧阳雨薇", "庾国强", "闻小舟", "佐藤健太", "古丽娜尔", "朴志勋", "阮氏梅"]
)
def test_names_of_many_peoples_read_better_as_names(name: str) -> None:
    assert as_name(name) > as_words(name)


@pytest.mark.parametrize(
    "word", ["左侧", "黄疸", "严重", "家属", "包括", "个人史", "康复", "安静", "普外科"]
)
def test_ordinary_words_read_better_as_words(word: str) -> None:
    assert as_name(word) < as_words(word)
