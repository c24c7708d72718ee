"""A real Scrapy crawl over loopback: complete, polite, and going on where it stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from medkd.collect.crawl import CrawlJob
from medkd.collect.spider import make_settings
from medkd.collect.stage import Config, run
from medkd.core.errors import HumanActionRequiredError, InputError, StoppedError
from medkd.core.records import RawCase
from medkd.core.stage_output import read_manifest
from medkd.demo.mock_site import NOT_FOUND, Answer, CaseSite, serve_site
from medkd.demo.synthetic_cases import SyntheticCase, generate_cases

CASES = generate_cases(105, seed=5)


def order_to(site: CaseSite, out: Path, **fields: object) -> Config:
    return Config.model_validate({"out": out, "base_url": site.base_url, "delay": 0, **fields})


def read_cases(out: Path) -> list[RawCase]:
    return [
        RawCase.model_validate_json(line)
        for line in (out / "raw_cases.jsonl").read_bytes().splitlines()
    ]


def shown(site: CaseSite) -> Counter[str]:
    return Counter(asked for asked in list(site.asked) if "/show/" in asked)


def test_a_crawl_brings_every_case_as_the_clinic_wrote_it(tmp_path: Path):
    with serve_site(CASES) as site:
        manifest = run(order_to(site, tmp_path, contact="https://example.org/me"))
        assert site.asked[0] == "GET /robots.txt" and site.asked.count("GET /robots.txt") == 1
        assert site.asked.count("GET /cull/") == 1 and "POST /cull/2.html" in site.asked
        assert max(shown(site).values()) == 1
        assert all(
            agent.startswith("MedKD/") and "+https://example.org/me" in agent
            for agent in site.agents
        )
    cases = read_cases(tmp_path)
    assert [case.id for case in cases] == [f"iiyi:{case.number}" for case in CASES]
    assert [dict(case.sections) for case in cases] == [
        {**case.sections, **case.summary} for case in CASES
    ]
    assert all(
        case.url.endswith(f"/show/{case.id[5:]}-1.html") and case.retrieved_at and case.licence
        for case in cases
    )
    n_missing = len(CASES) // 25
    assert manifest.counts.model_dump() == {
        "read": len(CASES) + n_missing,
        "kept": len(CASES),
        "dropped": {"missing": n_missing},
    }
    assert manifest.facts == {"list_pages": 7, "case_pages": len(CASES) + n_missing}


def test_a_finished_crawl_asks_nothing_more_even_of_a_site_on_another_port(tmp_path: Path):
    with serve_site(CASES[:5]) as site:
        run(order_to(site, tmp_path))
    with serve_site(CASES[:5]) as site:
        assert run(order_to(site, tmp_path)).counts.kept == 5
        assert site.asked == []


def test_a_limit_keeps_the_first_cases_of_the_list_and_asks_for_no_more(tmp_path: Path):
    with serve_site(CASES) as site:
        run(order_to(site, tmp_path, limit=30))
        assert [case.id for case in read_cases(tmp_path)] == [
            f"iiyi:{case.number}" for case in CASES[:30]
        ]
        assert shown(site).total() == 31  # one of them is missing
        assert "POST /cull/3.html" not in site.asked
        run(order_to(site, tmp_path, limit=45, resume=True))
        assert [case.id for case in read_cases(tmp_path)] == [
            f"iiyi:{case.number}" for case in CASES[:45]
        ]
        assert max(shown(site).values()) == 1


def test_a_verification_stops_the_crawl_and_after_it_the_crawl_goes_on(tmp_path: Path):
    with serve_site(CASES, verify_after=25) as site:
        with pytest.raises(
            HumanActionRequiredError, match=r"/(show|cull)/.*verification.*goes on from here"
        ) as stopped:
            run(order_to(site, tmp_path))
        assert stopped.value.exit_code == 3 and "\n" not in str(stopped.value)
        # Served until then, in flight at the most after that.
        assert 25 < len(site.asked) < 25 + 16 + 16
        assert (
            read_manifest(tmp_path).state == "stopped"
            and len(read_cases(tmp_path)) == read_manifest(tmp_path).counts.kept <= 25
        )
        kept = {f"GET /show/{case.id[5:]}-1.html" for case in read_cases(tmp_path)}
        site.pass_verification()
        assert run(order_to(site, tmp_path)).counts.kept == len(CASES)
        assert {shown(site)[asked] for asked in kept} == {1}
    assert len(read_cases(tmp_path)) == len(CASES)


@pytest.mark.parametrize("status", [403, 429, 503])
def test_a_verification_in_an_error_page_stops_at_once_and_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
):
    with serve_site(CASES, verify_after=10) as site:
        answer = site.answer

        def with_status(*request: object) -> Answer:
            given = answer(*request)  # pyright: ignore[reportArgumentType]
            return given._replace(status=status) if "sliderS" in given.body else given

        monkeypatch.setattr(site, "answer", with_status)
        with pytest.raises(HumanActionRequiredError, match="pass its verification"):
            run(order_to(site, tmp_path))
        assert max(shown(site).values()) == 1
        assert len(site.asked) < 60


def test_a_site_whose_robots_file_forbids_every_case_is_named(tmp_path: Path):
    with serve_site(CASES[:10]) as site:
        site.robots = "User-agent: *\nDisallow: /show/\n"
        with pytest.raises(InputError, match=r"robots\.txt forbids every case page"):
            run(order_to(site, tmp_path))
        assert not shown(site)


def test_a_page_cut_in_half_gives_what_it_still_says_and_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with serve_site(CASES[:12]) as site:
        answer = site.answer

        def in_half(*request: object) -> Answer:
            given = answer(*request)  # pyright: ignore[reportArgumentType]
            return (
                given._replace(body=given.body[: len(given.body) // 2])
                if request[1] == f"/show/{CASES[3].number}-1.html"
                else given
            )

        monkeypatch.setattr(site, "answer", in_half)
        manifest = run(order_to(site, tmp_path))
    assert manifest.counts.kept + manifest.counts.dropped.get("unreadable", 0) == 12
    whole = {f"iiyi:{case.number}": case.sections for case in CASES}
    for case in read_cases(tmp_path):
        told = "".join(whole[case.id].values())
        assert all(
            line in told or line in case.title
            for text in case.sections.values()
            for line in text.split("\n")[:-1]
        )


def test_a_killed_crawl_leaves_no_child_and_goes_on_without_asking_twice(tmp_path: Path):
    program = "import sys; from pathlib import Path; from medkd.collect.stage import Config, run; "
    program += "run(Config(out=Path(sys.argv[1]), base_url=sys.argv[2], delay=0.05))"
    with serve_site(CASES) as site:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), site.base_url], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while len(shown(site)) < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.5)
        n_asked = len(site.asked)
        time.sleep(1)
        assert len(site.asked) == n_asked, "the child outlived its parent"
        with (tmp_path / "raw_cases.jsonl").open("ab") as file:
            file.write(b'{"id": "iiyi:1", "sou')  # a torn line, as a kill in mid-write leaves it
        kept = [
            json.loads(line)["address"]
            for line in (tmp_path / "pages.jsonl").read_bytes().splitlines()
        ]
        assert 8 < len(kept) < 60
        manifest = run(order_to(site, tmp_path))
        counts = Counter(asked.split()[1] for asked in site.asked)
        assert {counts[address] for address in kept} == {1}
    assert manifest.counts.kept == len(CASES) and "broken_line" not in manifest.counts.dropped
    assert [case.id for case in read_cases(tmp_path)] == [f"iiyi:{case.number}" for case in CASES]


def test_a_site_that_forbids_robots_is_left_alone(tmp_path: Path):
    with serve_site(CASES) as site:
        site.robots = "User-agent: *\nDisallow: /\n"
        with pytest.raises(InputError, match=r"/cull/: the site's robots.txt forbids it; "):
            run(order_to(site, tmp_path))
        assert site.asked == ["GET /robots.txt"]


def test_forbidden_cases_are_counted_and_not_asked_for(tmp_path: Path):
    with serve_site(CASES[:10]) as site:
        site.robots = f"User-agent: *\nDisallow: /show/{CASES[0].number}-1.html\n"
        manifest = run(order_to(site, tmp_path))
        assert f"GET /show/{CASES[0].number}-1.html" not in site.asked
    assert manifest.counts.kept == 9 and manifest.counts.dropped == {"forbidden": 1}


def test_a_page_that_parses_to_nothing_is_kept_aside_and_counted(tmp_path: Path):
    empty = SyntheticCase.model_validate({**CASES[0].model_dump(), "sections": {}, "summary": {}})
    with serve_site([empty, *CASES[1:5]]) as site:
        manifest = run(order_to(site, tmp_path))
    assert manifest.counts.kept == 4 and manifest.counts.dropped == {"unreadable": 1}
    kept_aside = json.loads((tmp_path / "unread_pages.jsonl").read_text())
    assert (
        kept_aside["url"].endswith(f"/show/{empty.number}-1.html")
        and empty.title in kept_aside["html"]
    )


def test_a_site_that_is_not_there_is_named_with_the_next_step(tmp_path: Path):
    with serve_site(CASES[:2]) as site:
        pass
    with pytest.raises(InputError, match=r"/cull/: no answer \(.*\); check --base-url") as refused:
        run(order_to(site, tmp_path))
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)


def test_a_site_that_goes_down_stops_the_crawl_which_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    down = Answer(521, "web server is down")
    with serve_site(CASES) as site:
        answer = site.answer
        monkeypatch.setattr(
            site, "answer", lambda *request: down if len(site.asked) > 30 else answer(*request)
        )
        with pytest.raises(
            StoppedError, match=r"HTTP 521; run the same command again later"
        ) as stopped:
            run(order_to(site, tmp_path))
        assert stopped.value.exit_code == 3
        assert 0 < read_manifest(tmp_path).counts.kept < 30
        monkeypatch.undo()
        manifest = run(order_to(site, tmp_path))
    assert manifest.counts.kept == len(CASES) and "failed" not in manifest.counts.dropped


def test_single_failures_are_counted_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with serve_site(CASES[:10]) as site:
        answer = site.answer
        bad = f"/show/{CASES[3].number}-1.html"
        monkeypatch.setattr(
            site,
            "answer",
            lambda m, path, *more: Answer(500, "") if path == bad else answer(m, path, *more),
        )
        manifest = run(order_to(site, tmp_path))
        assert shown(site)[f"GET {bad}"] == 3
    assert manifest.counts.model_dump() == {"read": 10, "kept": 9, "dropped": {"failed": 1}}


def test_a_list_ends_at_a_404_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with serve_site(CASES[:25]) as site:
        answer = site.answer
        monkeypatch.setattr(
            site,
            "answer",
            lambda m, path, *more: NOT_FOUND if path == "/cull/3.html" else answer(m, path, *more),
        )
        assert run(order_to(site, tmp_path)).counts.kept == 25


def test_the_delay_lies_between_requests_of_which_few_run_at_once():
    job = CrawlJob(base_url="http://127.0.0.1", delay=0.3, user_agent="medkd")
    settings = make_settings(job)
    assert settings["DOWNLOAD_DELAY"] == settings["AUTOTHROTTLE_START_DELAY"] == 0.3
    assert settings["AUTOTHROTTLE_ENABLED"]
    assert settings["CONCURRENT_REQUESTS_PER_DOMAIN"] == 2


def test_a_site_without_cases_is_no_success(tmp_path: Path):
    with (
        serve_site([]) as site,
        pytest.raises(InputError, match="no case among them; check --base-url"),
    ):
        run(order_to(site, tmp_path))


def test_a_full_disk_stops_the_crawl_and_ends_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import errno

    from medkd.core import jsonl

    class FullDisk:
        def __init__(self, file: object) -> None:
            self.file = file

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            return

    init = jsonl.RecordAppender.__init__

    def open_on_full_disk(self: jsonl.RecordAppender, path: Path, private: bool = False) -> None:
        init(self, path, private)
        monkeypatch.setattr(self, "_file", FullDisk(self._file))

    monkeypatch.setattr(jsonl.RecordAppender, "__init__", open_on_full_disk)
    with serve_site(CASES) as site:
        with pytest.raises(StoppedError, match="the disk is full"):
            run(order_to(site, tmp_path))
        n_asked = len(site.asked)
        time.sleep(0.3)
        assert len(site.asked) == n_asked


@pytest.mark.parametrize("url", ["bingli.iiyi.com", "ftp://x/", "http://", "http://[bad"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str):
    with pytest.raises(InputError, match="no web address; give --base-url as https://host"):
        run(Config(out=tmp_path / "out", base_url=url))
    assert not (tmp_path / "out").exists()


def test_the_config_imports_neither_scrapy_nor_lxml():
    program = "import sys, medkd.collect.stage; print([m for m in ('scrapy', 'lxml', 'parsel', 'twisted', 'jinja2') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
