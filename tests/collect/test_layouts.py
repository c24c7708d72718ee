"""Every layout the site has had is read, and each page of it says the same."""

import pytest

from medkd.collect.parser import (
    is_login,
    is_verification,
    parse_case,
    parse_departments,
    parse_list,
    to_plain_text,
)
from medkd.collect.sections import find_department, is_of_department
from medkd.core.records import RawCase
from medkd.demo.mock_site import layout_of, render_case
from medkd.demo.synthetic_cases import generate_cases

OF_2022 = """<html><body><div class="t20 s_wz">
<a href="/">首页</a> &gt; <a href="/cull/">病例中心</a> &gt; <a>内科病例</a> &gt; <a>神经内科</a></div>
<div class="fl"><div><h1>头痛一例</h1><div class="s_p2">张医生 2022-03-01</div><div><div class="s_floorbox"><div>
<p><b>【一般资料】</b><span>男，49岁</span></p><p><b>【主诉】</b><span>头痛3天<br>加重1天。</span></p>
<p><b>【辅助检查】</b><span>CT：脑室扩张。</span></p><p>第二段。</p><p><img src="a.png"></p>
<p><b>【诊断结果】</b><span>1.脑积水；2.高血压</span></p></div></div></div></div></div>
<div class="foot"><p>版权所有</p></div></body></html>"""

OLDEST = """<html><body><div><h1>头痛一例</h1><div>楼主</div><div class="x">
<p>　　【一般资料】男，49岁<br>【主 诉】头痛3天</p>
<p><strong>体格检查：</strong>神清。</p><p>辅助检查：CT：脑室扩张。</p><p>第二段。</p><p>【诊断】脑积水</p></div></div>
<div>版权所有 诊断：略</div></body></html>"""


def read(html: str) -> RawCase:
    case = parse_case(html, "7", "https://bingli.iiyi.com/show/7-1.html")
    assert case is not None
    return case


def test_the_layout_of_2022_is_read_paragraph_by_paragraph() -> None:
    case = read(OF_2022)
    assert (case.title, case.department, case.diagnosis) == (
        "头痛一例",
        ("内科", "神经内科"),
        ("脑积水", "高血压"),
    )
    assert case.sections == {
        "基本信息": "男，49岁",
        "主诉": "头痛3天\n加重1天。",
        "辅助检查": "CT：脑室扩张。\n第二段。",
        "诊断结果": "1.脑积水；2.高血压",
    }


def test_running_text_with_headings_in_words_is_read_as_the_oldest_layout() -> None:
    case = read(OLDEST)
    assert (case.title, case.diagnosis) == ("头痛一例", ("脑积水",))
    assert case.sections == {
        "基本信息": "男，49岁",
        "主诉": "头痛3天",
        "查体": "神清。",
        "辅助检查": "CT：脑室扩张。\n第二段。",
        "临床诊断": "脑积水",
    }


@pytest.mark.parametrize("layout", ["newest", "of_2022", "oldest"])
def test_the_clinic_s_cases_come_whole_out_of_each_layout(layout: str) -> None:
    chosen = [case for case in generate_cases(60, seed=4) if layout_of(case.number) == layout]
    assert len(chosen) >= 5
    for case in chosen:
        read_back = parse_case(render_case(case), str(case.number))
        assert read_back is not None
        assert dict(read_back.sections) == {**case.sections, **case.summary}
        departments = tuple(dict.fromkeys(case.department))
        assert (read_back.title, read_back.department, read_back.diagnosis) == (
            case.title,
            departments,
            case.diagnosis,
        )


def test_a_block_around_several_sections_does_not_run_them_together() -> None:
    inner = "<div><h3>1.<em>主诉</em></h3>发热</div><div><h3>2.<em>现病史</em></h3>3天</div>"
    case = read(f'<div class="case_study position2"><div class="wrap">{inner}</div></div>')
    assert case.sections == {"主诉": "发热", "现病史": "3天"}


def test_other_pages_are_no_cases() -> None:
    for html in (
        "<p>诊断：略</p>",
        "<p>主诉：头痛</p>",
        "<ul><li>【讨论】</li><li>【总结】好</li></ul>",
        "<h1>404</h1>",
    ):
        assert parse_case(html, "7") is None


def test_a_slider_left_in_a_page_of_any_layout_is_no_verification() -> None:
    slider = '<div class="sliderS"></div>'
    assert is_verification(f"<html><body>{slider}</body></html>")
    assert not is_verification(OF_2022 + slider)
    assert not is_verification(OLDEST + slider)


def test_a_slider_page_with_links_to_other_cases_still_asks_for_a_person() -> None:
    beside = '<ul class="hot"><li><a href="/show/31-1.html">热门</a></li></ul><a class="name" href="/show/32-1.html">甲</a>'
    assert is_verification(f'<html><body><div class="mask sliderS"></div>{beside}</body></html>')
    assert is_login(f'<html><body><form><input type="password"></form>{beside}</body></html>')


def test_html_in_a_text_is_read_as_what_it_shows() -> None:
    assert (
        to_plain_text("<p>发热<script>alert(1)</script>3天</p><p>咳嗽</p>") == "\n发热3天\n\n咳嗽\n"
    )
    assert to_plain_text("WBC<4.0，E/A<1 且 B>2 &lt;") == "WBC<4.0，E/A<1 且 B>2 &lt;"


def test_a_password_field_is_a_login_only_where_content_is_missing() -> None:
    form = '<form><input name="u"><input type="password" name="p"></form>'
    assert is_login(f"<html>{form}</html>")
    assert not is_login(OF_2022 + form)
    assert not is_login("<p>password</p>")


def test_lists_of_older_make_and_relative_links_are_read() -> None:
    assert parse_list(
        '<ul><li><a href="/u/3">甲</a><a href="https://bingli.iiyi.com/show/31-1.html">乙</a></li></ul>'
    ) == ["31"]
    assert parse_list('<div class="li"><a class="name" href="show/12-1.html">甲</a></div>') == [
        "12"
    ]
    assert parse_list(
        '\ufeff{"html": "<div class=\\"li\\"><a class=\\"name\\" href=\\"../show/5-1.html\\">x</a></div>"}'
    ) == ["5"]


def test_departments_are_found_by_name_or_by_a_part_that_only_one_has() -> None:
    page = '<a href="/dept/8-1.html">内科病例</a><a href="../dept/56-1.html"><span>心血管内科</span></a><a href="/x">骨科</a>'
    numbers = parse_departments(page)
    assert numbers == {"内科": "8", "心血管内科": "56"}
    assert [find_department(numbers, name) for name in ("内科", "心血管", "科", "儿科", "")] == [
        "8",
        "56",
        "",
        "",
        "",
    ]
    assert is_of_department(("内科", "神经内科"), "神经内科病例") and not is_of_department(
        ("内科",), "神经内科"
    )
