"""What can be asked of a crawl: departments, ids, cookies; and what makes it stop."""

from pathlib import Path

import pytest

from medkd.cli.app import build_app
from medkd.cli.flags import read_values
from medkd.collect.stage import Config, run
from medkd.core.config import make_config
from medkd.core.errors import HumanActionRequiredError, InputError, StoppedError
from medkd.core.records import RawCase
from medkd.demo.mock_site import NOT_FOUND, Answer, CaseSite, serve_site
from medkd.demo.synthetic_cases import SyntheticCase, generate_cases

CASES = generate_cases(120, seed=11)
NEUROLOGY = [case for case in CASES if "神经内科" in case.department]


def order_to(site: CaseSite, out: Path, **fields: object) -> Config:
    return Config.model_validate({"out": out, "base_url": site.base_url, "delay": 0, **fields})


def ids_in(out: Path) -> list[str]:
    return [
        RawCase.model_validate_json(line).id[5:]
        for line in (out / "raw_cases.jsonl").read_bytes().splitlines()
    ]


def numbers(cases: list[SyntheticCase]) -> list[str]:
    return [str(case.number) for case in cases]


def test_a_department_is_found_by_its_name_in_the_links_of_the_site(tmp_path: Path):
    with serve_site(CASES) as site:
        run(order_to(site, tmp_path, department="神经内科"))
        assert site.asked.count("GET /cull/") == 1 and any(
            asked.startswith("GET /dept/") for asked in site.asked
        )
        assert len([asked for asked in site.asked if "/show/" in asked]) == len(NEUROLOGY)
    assert ids_in(tmp_path) == numbers(NEUROLOGY)


def test_a_department_is_taken_by_its_number(tmp_path: Path):
    with serve_site(CASES) as site:
        run(order_to(site, tmp_path, department="1"))
        assert (
            "GET /dept/1-1.html" in site.asked
            and "POST /dept/1-2.html" in site.asked
            and "GET /cull/" not in site.asked
        )
    assert ids_in(tmp_path) == numbers(
        [case for case in CASES if CASES[0].department[0] in case.department]
    )


def test_where_no_page_links_to_the_department_others_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with serve_site(CASES) as site:
        answer = site.answer

        def without_links(*request: object) -> Answer:
            given = answer(*request)  # pyright: ignore[reportArgumentType]
            return given._replace(body=given.body.replace("/dept/", "/other/"))

        monkeypatch.setattr(site, "answer", without_links)
        manifest = run(order_to(site, tmp_path, department="神经内科", limit=5))
        assert site.asked.count("GET /cull/") == 1
    assert ids_in(tmp_path) == numbers(NEUROLOGY[:5])
    assert manifest.counts.dropped["other_department"] > 0


def test_a_department_that_the_site_does_not_have_is_named(tmp_path: Path):
    with (
        serve_site(CASES[:5]) as site,
        pytest.raises(InputError, match="no case among them; check --department '核医学科'"),
    ):
        run(order_to(site, tmp_path, department="核医学科"))


def test_ids_are_asked_one_by_one_and_missing_ones_counted(tmp_path: Path):
    first = CASES[0].number
    with serve_site(CASES[:30]) as site:
        manifest = run(order_to(site, tmp_path, ids=f"{first - 2}-{first + 4}, {first + 7}"))
        assert not any("/cull/" in asked for asked in site.asked)
        n_asked = len(site.asked)
        run(order_to(site, tmp_path, ids=f"{first - 2}-{first + 5}, {first + 7}", resume=True))
        assert len(site.asked) == n_asked + 2  # robots.txt and the one id that is new
    assert manifest.counts.model_dump() == {"read": 8, "kept": 6, "dropped": {"missing": 2}}
    assert ids_in(tmp_path) == [str(first + i) for i in (0, 1, 2, 3, 4, 5, 7)]


@pytest.mark.parametrize(
    ("ids", "message"),
    [("7-3", "no range of ids"), ("a", "no range"), ("1-2000000", "more than 1000000 ids")],
)
def test_ids_that_are_none_are_refused(ids: str, message: str):
    with pytest.raises(InputError, match=message):
        make_config(Config, {"out": "x", "ids": ids}, "medkd collect")
    with pytest.raises(InputError, match="exclude each other"):
        make_config(Config, {"out": "x", "ids": "1", "department": "内科"}, "medkd collect")


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--department", "1"], "department", "1"),
        (["--ids", "61001"], "ids", "61001"),
        (["--ids", "61001,61002"], "ids", "61001,61002"),
        (["--ids", "61001-61002"], "ids", "61001-61002"),
    ],
)
def test_numbers_on_a_command_line_are_taken_as_they_were_typed(
    words: list[str], field: str, value: str
):
    line = ["collect", "--out", "x", *words]
    _, bound, _ = build_app(line).parse_args(line, exit_on_error=False, print_error=False)
    config = make_config(Config, read_values(dict(bound.arguments)), "medkd collect")
    assert getattr(config, field) == value


def test_a_person_s_cookies_take_the_crawl_past_the_verification(tmp_path: Path):
    cookies = tmp_path / "cookies.txt"
    with serve_site(CASES[:60], verify_after=20) as site:
        with pytest.raises(HumanActionRequiredError, match="--cookies FILE"):
            run(order_to(site, tmp_path / "out"))
        name, _, value = site.passed.partition("=")
        cookies.write_text(
            f"# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\t{name}\t{value}\n"
        )
        manifest = run(order_to(site, tmp_path / "out", cookies=cookies))
        shown = [asked for asked in site.asked if "/show/" in asked]
    assert manifest.counts.kept == 60
    assert value not in (tmp_path / "out/manifest.json").read_text()
    # Only what was in flight at the verification is asked a second time.
    assert len(shown) - len(set(shown)) <= 16 + 16


def test_a_changed_layout_stops_the_crawl_and_keeps_the_pages_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with serve_site(CASES) as site:
        answer = site.answer

        def changed(method: str, path: str, *more: object) -> Answer:
            given = answer(method, path, *more)  # pyright: ignore[reportArgumentType]
            is_hit = "/show/" in path and int(path[6:11]) % 3 == 0
            return (
                Answer(200, "<html><body><section>新版</section></body></html>")
                if is_hit
                else given
            )

        monkeypatch.setattr(site, "answer", changed)
        with pytest.raises(
            StoppedError, match=r"unread_pages.jsonl: more than 20% .* layout may have changed"
        ) as stopped:
            run(order_to(site, tmp_path))
        assert stopped.value.exit_code == 3 and "\n" not in str(stopped.value)
        assert len([asked for asked in site.asked if "/show/" in asked]) < 60
    lines = (tmp_path / "unread_pages.jsonl").read_text().splitlines()
    assert len(lines) >= 2 and all("新版" in line and "/show/" in line for line in lines)


def test_a_login_page_asks_for_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    login = Answer(200, '<html><body><form><input type="password"></form></body></html>')
    with serve_site(CASES[:30]) as site:
        answer = site.answer
        monkeypatch.setattr(
            site,
            "answer",
            lambda m, path, *more: login if "/show/" in path else answer(m, path, *more),
        )
        with pytest.raises(HumanActionRequiredError, match="asks a person to log in"):
            run(order_to(site, tmp_path))
    assert not (tmp_path / "unread_pages.jsonl").read_text()


def test_a_list_that_gives_a_404_from_its_first_page_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with serve_site(CASES[:3]) as site:
        monkeypatch.setattr(site, "answer", lambda *_: NOT_FOUND)
        with pytest.raises(InputError, match="no case among them"):
            run(order_to(site, tmp_path))


def test_a_page_in_another_encoding_than_it_says_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Mislabelled(str):
        def encode(self, *_: str) -> bytes:
            return str(self).encode("gb18030")

    with serve_site(CASES[:6]) as site:
        answer = site.answer

        def mislabelled(method: str, path: str, *more: object) -> Answer:
            given = answer(method, path, *more)  # pyright: ignore[reportArgumentType]
            return given._replace(body=Mislabelled(given.body)) if "/show/" in path else given

        monkeypatch.setattr(site, "answer", mislabelled)
        assert run(order_to(site, tmp_path)).counts.kept == 6
    first = RawCase.model_validate_json((tmp_path / "raw_cases.jsonl").read_bytes().splitlines()[0])
    assert dict(first.sections) == {**CASES[0].sections, **CASES[0].summary}
