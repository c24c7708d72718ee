"""Pages are read into cases, whatever stands on them."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from medkd.collect.parser import is_verification, licence_note, native_id_of, parse_case, parse_list
from medkd.core.records import RawCase

PAGE = """
<div class="breadcrumbs"><a>首页</a><a>内科病例</a></div>
<div class="case_details_cont"><h2> 咳嗽
 三天 </h2>
<div class="case_summary position1"><div class="situation"><p><var>【一般资料】</var><span>男，49岁</span></p></div></div>
<div class="case_study position2"><div><h3>1.<em>主诉</em></h3>发热<br>咳嗽<!-- not this --><script>nor this</script> 3天<img src="x"></div>
<div><h3>2.<em>现病史</em></h3><p>第一段。</p><p>第二段<b>（重）</b>。</p></div><div>no heading</div></div>
<div class="case_study position3"><div><h3>1.<em>诊断结果</em></h3>1.肺炎；2.脑梗死</div></div>
<div class="position4"><h2>【分析总结】</h2><div>总结。</div></div></div>
"""

TAGS = ["div", "p", "br", "h2", "h3", "em", "var", "span", "a", "li", "script", "!--", "?x", "td"]
CLASSES = [
    "case_study position2",
    "case_study position3",
    "position4",
    "case_summary position1",
    "situation",
    "sliderS",
    "li",
    "name",
    "t",
]


def read(html: str) -> RawCase:
    case = parse_case(html, "7", "https://bingli.iiyi.com/show/7-1.html")
    assert case is not None
    return case


def test_the_newest_layout_is_read_block_by_block():
    case = read(PAGE)
    assert case.id == "iiyi:7" and case.title == "咳嗽 三天" and case.department == ("内科",)
    assert case.sections == {
        "基本信息": "男，49岁",
        "主诉": "发热\n咳嗽 3天",
        "现病史": "第一段。\n第二段（重）。",
        "诊断结果": "1.肺炎；2.脑梗死",
        "分析总结": "总结。",
    }
    assert case.diagnosis == ("肺炎", "脑梗死")
    assert "copyright" in case.licence


def test_department_tags_go_before_breadcrumbs():
    tags = (
        '<div class="doctors_excel"><a><span>外科病例</span></a><a><span>骨科病例</span></a></div>'
    )
    assert read(PAGE + tags).department == ("外科", "骨科")


def test_a_page_without_sections_is_no_case():
    assert parse_case("<html><h1>404</h1></html>", "7") is None
    assert parse_case("", "7") is None
    assert parse_case(PAGE, "") is None


def test_a_page_nested_deeper_than_the_stack_is_read():
    html = PAGE.replace("第一段。", "<div>" * 20000 + "深" + "</div>" * 20000)
    assert parse_case(html, "7") is not None


pieces = st.one_of(
    st.text(max_size=8),
    st.builds('<{} class="{}">'.format, st.sampled_from(TAGS), st.sampled_from(CLASSES)),
    st.builds("</{}>".format, st.sampled_from(TAGS)),
    st.sampled_from(
        [
            PAGE[:200],
            PAGE[200:],
            "\x00",
            "\ud800",
            "&#0;",
            "&#xD800;",
            "<![CDATA[",
            '{"data":',
            '{"html":"',
            "]",
        ]
    ),
)


@given(st.lists(pieces, max_size=40).map("".join))
@example("{" + '"data":{' * 5000)
@example("[" * 100_000)
@example('{"data":[1]}')
@example('{"data":{"html":3}}')
@example("<?xml version='1.0' encoding='utf-16'?><html>")
def test_no_page_breaks_the_readers(html: str):
    case = parse_case(html, "7", "http://[bad")
    if case is not None:
        case.model_dump_json()
    parse_list(html)
    is_verification(html)


LINKS = "".join(
    f'<div class="li"><a class="name" href="{href}">甲</a></div>'
    for href in ("../show/12-1.html", "/show/9-1.html")
)


def test_a_list_is_read_in_all_its_forms():
    aside = '<div class="li"><a class="name" href="/show/99-1.html">elsewhere</a></div>'
    page = f'<html><div class="case_database_box">{LINKS}</div>{aside}</html>'
    answers = [
        page,
        LINKS,
        json.dumps({"data": {"html": LINKS}}),
        json.dumps({"html": LINKS}),
        json.dumps({"data": LINKS}),
    ]
    assert [parse_list(answer) for answer in answers] == [["12", "9"]] * 5


def test_links_that_are_no_cases_are_left_alone():
    assert parse_list(
        '<div class="li"><a class="name" href="https://elsewhere.example/x">甲</a></div>'
        + LINKS
        + LINKS
    ) == ["12", "9"]


def test_the_slider_is_a_verification_only_where_content_is_missing():
    slider = '<div class="mask sliderS"></div>'
    assert is_verification(slider) and is_verification(json.dumps({"data": {"html": slider}}))
    assert not is_verification(slider + PAGE)
    assert not is_verification(slider + LINKS)
    assert not is_verification("<p>the word sliderS</p>")


def test_addresses_give_their_id():
    assert [
        native_id_of(a)
        for a in ("/show/12-1.html", "https://x/show/34-2.html?a", "/cull/2.html", "")
    ] == ["12", "34", "", ""]


def test_the_licence_note_names_the_host():
    assert "copyright" in licence_note("https://bingli.iiyi.com/x")
    assert licence_note("https://notiiyi.com/x").startswith("notiiyi.com")
    assert licence_note("") == "" and licence_note("http://[bad") == ""
