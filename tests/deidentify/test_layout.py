import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.deidentify.search import find_identifiers, make_search_view


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("姓 名：于   洋   住 院 号：2 0 2 3 1 1 8 7   性 别：男", ["于   洋", "2 0 2 3 1 1 8 7"]),
        ("<tr><td>姓名</td><td>毛小雨</td><td>床号</td><td>23</td></tr>", ["毛小雨", "23"]),
        ("姓名：尚\n云祥  性别：男", ["尚\n云祥"]),
        ("入院2022年\n5月4日，手机138 0000\n1234", ["2022年\n5月4日", "138 0000\n1234"]),
        ("患者<b>刘</b>卓然，男", ["刘</b>卓然"]),
        ("床号\t姓名\t电话\n11\t晏小鸥\t62883311", ["11", "晏小鸥", "62883311"]),
        ("| Pt | Rm |\n|---|---|\n| Young, Grace | 405 |", ["Young, Grace", "405"]),
    ],
)
def test_identifiers_are_found_through_gaps_breaks_markup_and_tables(
    text: str, found: list[str]
) -> None:
    assert [text[m.start : m.end] for m in find_identifiers(text)] == found


@given(st.text(alphabet="姓名王 \n\t<b/td>&nbsp;12 住院号：", max_size=60))
def test_every_character_of_the_view_leads_back_into_the_text(text: str) -> None:
    view = make_search_view(text)
    assert len(view.text) == len(view.starts) == len(view.ends)
    spans = list(zip(view.starts, view.ends, strict=True))
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert spans == sorted(spans)
