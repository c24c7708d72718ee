"""The rehearsal site answers as the real one does."""

import json
import urllib.error
import urllib.request

import pytest

from medkd.collect.parser import is_verification, parse_case, parse_list
from medkd.core.errors import InputError
from medkd.demo.mock_site import MISSING_EVERY, PAGE_SIZE, CaseSite, serve_site
from medkd.demo.synthetic_cases import SyntheticCase, generate_cases

CASES = generate_cases(55, seed=3)
XHR = {"X-Requested-With": "XMLHttpRequest"}


def fetch(
    site: CaseSite, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    request = urllib.request.Request(
        site.base_url + path,
        method=method,
        headers=headers or {},
        data=b"" if method == "POST" else None,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_case_page_says_all_the_clinic_wrote():
    case = CASES[0]
    with serve_site(CASES) as site:
        status, html = fetch(site, f"/show/{case.number}-1.html")
    read = parse_case(html, str(case.number), site.base_url)
    assert status == 200 and read is not None
    assert dict(read.sections) == {**case.sections, **case.summary}
    assert (read.title, read.department, read.diagnosis) == (
        case.title,
        case.department,
        case.diagnosis,
    )
    assert "synthetic" in read.licence


def test_hostile_text_is_escaped():
    hostile = '<script>alert(1)</script><img src=x onerror="alert(2)">&amp;'
    case = SyntheticCase.model_validate(
        {
            **CASES[0].model_dump(),
            "title": hostile,
            "sections": {"主诉": hostile, "诊断结果": "感冒"},
        }
    )
    html = CaseSite([case]).answer("GET", f"/show/{case.number}-1.html", is_xhr=False).body
    assert "<script>alert" not in html and "<img src=x" not in html
    read = parse_case(html, str(case.number))
    assert read is not None and read.sections["主诉"] == hostile and read.title == hostile


def test_the_first_list_page_comes_by_get_and_later_ones_by_xhr_post_alone():
    with serve_site(CASES) as site:
        first = fetch(site, "/cull/")
        second = fetch(site, "/cull/2.html", "POST", XHR)
        assert fetch(site, "/cull/2.html")[0] == 404
        assert fetch(site, "/cull/2.html", "POST")[0] == 404
    assert len(parse_list(first[1])) == PAGE_SIZE
    assert (
        "<li" not in json.loads(second[1])["data"]["html"]
        and len(parse_list(second[1])) == PAGE_SIZE
    )


def test_past_its_end_a_list_repeats_the_last_page():
    with serve_site(CASES) as site:
        last = fetch(site, "/cull/3.html", "POST", XHR)[1]
        assert parse_list(fetch(site, "/cull/99.html", "POST", XHR)[1]) == parse_list(last)


def test_some_list_items_lead_nowhere():
    with serve_site(CASES) as site:
        numbers = {
            int(n)
            for path in ("/cull/2.html", "/cull/3.html")
            for n in parse_list(fetch(site, path, "POST", XHR)[1])
        }
        gone = numbers - {case.number for case in CASES}
        assert len(gone) == len(CASES) // MISSING_EVERY
        assert {fetch(site, f"/show/{number}-1.html")[0] for number in gone} == {404}


def test_a_department_lists_its_own_cases():
    with serve_site(CASES) as site:
        listed = parse_list(fetch(site, "/dept/1-1.html")[1])
        assert parse_list(fetch(site, "/dept/999-1.html")[1]) == []
    own = [str(case.number) for case in CASES if CASES[0].department[0] in case.department]
    assert listed == own[:PAGE_SIZE]


def test_after_so_many_cases_a_person_is_wanted_until_one_comes():
    with serve_site(CASES, verify_after=2) as site:
        pages = [fetch(site, f"/show/{case.number}-1.html")[1] for case in CASES[:3]]
        assert [is_verification(page) for page in pages] == [False, False, True]
        assert is_verification(fetch(site, "/cull/")[1])
        site.pass_verification()
        assert not is_verification(fetch(site, f"/show/{CASES[2].number}-1.html")[1])


def test_a_taken_port_is_named_with_the_next_step():
    with serve_site(CASES) as site:
        port = int(site.base_url.rpartition(":")[2])
        with (
            pytest.raises(
                InputError, match=rf"127.0.0.1:{port}: the port is taken .* choose another port"
            ),
            serve_site(CASES, port=port),
        ):
            pass


def test_a_port_that_cannot_be_is_named():
    with pytest.raises(InputError, match="no such port"), serve_site(CASES, port=70000):
        pass


def test_a_port_can_be_used_again_at_once():
    with serve_site(CASES) as site:
        port = int(site.base_url.rpartition(":")[2])
        fetch(site, "/cull/")
    with serve_site(CASES, port=port) as site:
        assert fetch(site, "/robots.txt")[0] == 200
