"""The no-code road in a real browser, from an empty directory: invented cases to a talking model in
English, own cases to a stopped run in Chinese; every page in both themes and at phone width."""

import json
import re
import time
from pathlib import Path

import pytest
from hostile_samples import make_evaluation, make_ledger, make_step

from medkd import background_jobs
from medkd.studio import jobs

LOOK = Path(__file__).with_name("look.js")
AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
PAGES = ("", "run?name=bad", "new", "bring", "start?kind=train", "start?kind=own-cases.yaml", "data",
         "review", "chat", "evaluate", "export", "curves?runs=bad", "bill",
         "bring/preview?file=runs/uploads/cases.csv", "blind?steps=good/evaluate&who=Li",
         "blind?steps=good/evaluate-base&steps=good/evaluate&who=Li")  # fmt: skip
SLOW_MS = 240_000
TABLE = "编号,咨询内容,现病史,诊断\n1,咳嗽3天,患者张三，体温38.5℃。,肺炎\n"
CASE = "咳嗽3天，患者张三，体温38.5℃，右下肺可闻及湿啰音，胸片示右下肺片状阴影。"


def find_run(out: Path) -> background_jobs.Job:
    """Find the newest detached run that writes there."""
    return next(run for run in reversed(background_jobs.list_runs()) if jobs.find_out(run) == out)


def finish(out: Path, limit_s: float = 600) -> None:
    deadline = time.monotonic() + limit_s
    while (state := background_jobs.read_state(find_run(out))) == "running":
        assert time.monotonic() < deadline, out
        time.sleep(0.5)
    assert state == "done", "\n".join(jobs.read_tail(find_run(out)))


def start(page, *words: str) -> None:
    """Wait until the form's command says this, and start it."""
    for word in words:
        page.locator("#order code").filter(has_text=word).wait_for()
    page.locator("#order .primary").click()
    page.wait_for_url("**/run?name=*")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_invented_cases_become_a_model_that_talks(open_studio, watch, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    studio, watched = open_studio(), watch()
    page = watched.page
    page.goto(studio.url)
    page.get_by_role("heading", name="Welcome").wait_for()
    page.get_by_role("link", name="Up to the review").click()
    page.get_by_label("Project").fill("road")
    page.get_by_label("Language of the invented cases").select_option("zh")  # the student's own
    start(page, "medkd run rehearsal-data --out=runs/road")
    page.locator(".state.running").wait_for()
    finish(runs / "road")
    page.locator(".state.finished").wait_for()
    page.get_by_text("rationales wait for review").wait_for()

    page.get_by_role("link", name="Review", exact=True).nth(1).click()
    page.get_by_label("Your name").fill("Dr. Li")
    page.get_by_label("Your name").press("Tab")
    page.wait_for_url("**who=Dr*")
    page.locator("body").click(position={"x": 5, "y": 500})
    page.keyboard.press("a")
    page.get_by_text("1 judged by you").wait_for()
    page.keyboard.press("r")
    page.get_by_text("Say why you reject it").wait_for()
    page.get_by_label("Reason", exact=True).fill("not sound")
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.get_by_text("2 judged by you").wait_for()
    lines = (runs / "road/verify/reviews.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["decision"] for line in lines] == ["accept", "reject"]

    page.goto(f"{studio.url}/en/run?name=road")
    page.get_by_role("link", name="Merge", exact=True).click()
    start(page, "medkd merge --input=runs/road/verify")
    finish(runs / "road/merge")
    dropped = json.loads((runs / "road/merge/manifest.json").read_text())["counts"]["dropped"]
    assert dropped["rejected_by_reviewer"] == 1

    page.get_by_role("link", name="Train", exact=True).click()
    page.get_by_label("Epochs").fill("5")
    start(page, "--model=medkd:tiny", "--epochs=5", "--max-length=1024", "--input=runs/road/merge")
    curve = page.locator(".plots polyline").first
    curve.wait_for(timeout=SLOW_MS)
    before = curve.get_attribute("points")
    deadline = time.monotonic() + SLOW_MS / 1000
    while curve.get_attribute("points") == before:
        assert time.monotonic() < deadline, "the curve does not grow"
        page.wait_for_timeout(500)
    page.close()
    studio.close()
    state = background_jobs.read_state(find_run(runs / "road/train"))
    assert state == "running", "a closed studio stops nothing"

    studio = open_studio()
    page = watched.context.new_page()
    page.goto(f"{studio.url}/en/run?name=road")
    page.locator(".state.running").wait_for()
    finish(runs / "road/train")
    page.get_by_role("link", name="Evaluate", exact=True).nth(1).click()
    page.get_by_label("Longest answer").or_(page.get_by_label("Max tokens")).first.fill("256")
    page.get_by_label("At most").fill("12")
    start(page, "--adapter=runs/road/train", "--limit=12", "--max-tokens=256")
    finish(runs / "road/evaluate")
    page.goto(f"{studio.url}/en/evaluate")
    page.get_by_role("heading", name=re.compile(r"Diagnosis accuracy: \d+(–\d+)? %")).wait_for()
    page.locator("#answers .rows a").nth(2).click()
    page.wait_for_url("**id=*")
    page.locator("#answers article.case").wait_for()

    page.goto(f"{studio.url}/en/start?kind=export&run=road")
    start(page, "medkd export --adapter=runs/road/train")
    while background_jobs.read_state(find_run(runs / "road/export")) == "running":
        time.sleep(0.5)
    page.goto(f"{studio.url}/en/export")
    page.locator(".notice").filter(has_text=re.compile("Proven: asked|UNPROVEN")).wait_for()
    page.get_by_text("ollama create road-export").first.wait_for()
    page.get_by_role("link", name="Talk to it").click()
    page.locator("summary", has_text="Questions of the test split").click()
    page.locator(".questions button").first.click()
    page.get_by_role("button", name="Send").click()
    page.locator(".turn.model .end").filter(has_text=re.compile(r"\d s$")).nth(1).wait_for(
        timeout=SLOW_MS
    )
    assert "c=" in page.url
    page.goto(f"{studio.url}/en/bill")
    page.get_by_role("cell", name="complete").first.wait_for()
    assert watched.foreign == []
    assert watched.errors == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_own_cases_are_brought_looked_at_started_stopped_and_deleted_in_chinese(
    open_studio, watch, tmp_path: Path
) -> None:
    table = tmp_path / "cases.csv"
    rows = [f"{n},{CASE},患者3天前受凉后咳嗽、咳黄痰，第{n}次就诊。,肺炎" for n in range(40)]
    table.write_text("\n".join(["编号,咨询内容,现病史,诊断", *rows]), encoding="utf-8")
    studio, watched = open_studio(), watch(locale="zh-CN")
    page = watched.page
    page.goto(studio.url)
    page.get_by_role("link", name="选择文件").click()
    page.locator("#files").set_input_files(table)
    page.get_by_role("heading", name="cases.csv").wait_for()
    page.get_by_label("咨询内容").select_option("主诉")
    page.get_by_role("button", name="重新读取").click()
    page.locator("mark.found", has_text="张三").first.wait_for()
    page.locator("mark.masked", has_text="[姓名1]").first.wait_for()
    page.get_by_role("link", name="用这些病例继续").first.click()
    start(page, "咨询内容=主诉")
    page.locator(".road .finished").first.wait_for(timeout=SLOW_MS)
    page.get_by_role("button", name="停止").click()
    page.locator(".state.stopped, .state.failed, .state.finished").first.wait_for(timeout=SLOW_MS)
    page.locator("summary", has_text="删除").click()
    page.get_by_role("button", name="确认删除文件").click()
    page.get_by_role("heading", name="欢迎").wait_for()
    assert not (tmp_path / "runs" / "cases").exists()
    assert table.exists()
    assert watched.foreign == []
    assert watched.errors == []


def delay(route) -> None:
    time.sleep(1)
    route.continue_()


@pytest.mark.slow
def test_a_page_follows_its_run_though_its_scripts_arrive_late(
    open_studio, watch, tmp_path: Path
) -> None:
    step = make_step(tmp_path / "runs" / "one" / "verify", "verify")
    folder = background_jobs.runs_dir() / "verify-1"
    folder.mkdir(parents=True)
    job = {"name": folder.name, "words": ["verify", f"--out={step}"], "cwd": str(tmp_path)}
    (folder / "run.json").write_text(json.dumps(job | {"pid": 1, "started_at": "2026-01-01"}))
    studio, page = open_studio(), watch().page

    page.route("**/hx-sse.min.js*", delay)
    with background_jobs.record_end(folder) as result:
        page.goto(f"{studio.url}/en/run?name=one")
        page.locator(".state.running").wait_for()
        result.code = 0
    page.locator(".state.finished").wait_for()


@pytest.mark.slow
def test_what_is_written_while_a_form_is_drawn_anew_stays(
    open_studio, watch, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    make_step(tmp_path / "runs" / "one" / "merge", "merge")
    studio, page = open_studio(), watch().page
    page.goto(f"{studio.url}/en/start?kind=train&run=one")
    page.route("**/start/form", delay)
    page.locator("summary", has_text="More").click()
    page.get_by_label("Lora rank").wait_for()
    page.get_by_label("Method").select_option("full")
    page.get_by_label("Epochs").fill("7")
    page.get_by_label("Lora rank").wait_for(state="detached")
    page.locator("#order code").filter(has_text="--method=full").wait_for()
    page.locator("#order code").filter(has_text="--epochs=7").wait_for()
    assert page.get_by_label("Epochs").input_value() == "7"
    page.goto(f"{studio.url}/en/start?kind=distill&run=one")
    drawn_anew = expect(page.locator("#key:not([data-old])"))
    mark = "document.querySelector('#key').dataset.old = ''"
    page.get_by_label("API key").fill("sk-secret")
    page.evaluate(mark)
    page.get_by_label("Mode --mode").select_option("solve")
    drawn_anew.to_have_value("sk-secret")
    page.evaluate(mark)
    page.get_by_label("Teacher --teacher", exact=True).fill("dashscope")
    page.get_by_label("Teacher --teacher", exact=True).blur()
    drawn_anew.to_have_value("")  # the key of one provider is not sent to another


@pytest.fixture
def full_runs(hostile_runs: Path) -> Path:
    """Something to show on every page."""
    make_evaluation(hostile_runs / "good" / "evaluate-base", ["肺炎", "胃炎"])
    make_evaluation(hostile_runs / "good" / "evaluate", ["肺炎", "肺炎"])
    make_ledger(hostile_runs / "good" / "distill")
    (hostile_runs / "uploads").mkdir()
    (hostile_runs / "uploads" / "cases.csv").write_text(TABLE, encoding="utf-8")
    return hostile_runs


@pytest.mark.slow
def test_a_phone_shows_every_page_whole(open_studio, watch, full_runs: Path) -> None:
    studio, watched = open_studio(), watch(viewport={"width": 375, "height": 700})
    page = watched.page
    for language in ("zh", "en"):
        for name in PAGES:
            open_whole(page, f"{studio.url}/{language}/{name}")
            wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{name} scrolls sideways"
            assert "broken in" not in page.title()
    assert watched.foreign == []
    assert watched.errors == []


def open_whole(page, address: str) -> None:
    """Open a page with all that is folded on it."""
    page.goto(address)
    page.wait_for_load_state("networkidle")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.wait_for_load_state("networkidle")


@pytest.mark.slow
@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there: npm install --prefix tests")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_axe_finds_nothing_that_a_person_could_not_read_or_reach(
    open_studio, watch, full_runs: Path, scheme: str, width: int
) -> None:
    studio, closed = open_studio(), open_studio("--host", "127.0.0.1")
    page = watch(color_scheme=scheme, viewport={"width": width, "height": 900}).page
    found: dict[str, list[str]] = {}
    for name in (f"{closed.url}/en/", *(f"{studio.url}/en/{name}" for name in PAGES)):
        open_whole(page, name)
        page.evaluate(AXE.read_text(encoding="utf-8"))
        report = page.evaluate("axe.run({resultTypes: ['violations']})")
        assert len(report["passes"]) > 10
        found |= {
            f"{name}: {one['id']}": [node["html"][:200] for node in one["nodes"][:3]]
            for one in report["violations"]
        }
    assert found == {}


@pytest.mark.slow
def test_every_control_is_reached_by_keyboard_and_shows_that_it_is(
    open_studio, watch, full_runs: Path
) -> None:
    studio = open_studio()
    watched = watch()
    watched.context.add_init_script(path=LOOK)
    page = watched.page
    for name in PAGES:
        page.goto(f"{studio.url}/en/{name}")
        page.wait_for_load_state("networkidle")
        n = page.evaluate(
            "listControls().forEach((one) => (one.unreached = true)) ?? listControls().length"
        )
        unmarked: set[str] = set()
        for _ in range(n + 12):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "() => { const one = document.activeElement; one.unreached = false;"
                " return [nameControl(one), getComputedStyle(one).outlineStyle !== 'none']; }"
            )
            unmarked |= set() if found[1] or found[0].startswith("BODY") else {found[0]}
        left = page.evaluate("listControls().filter((one) => one.unreached).map(nameControl)")
        assert left == [], name
        assert unmarked == set(), name


@pytest.mark.slow
def test_strangers_have_to_show_the_token_once(open_studio, watch) -> None:
    studio, watched = open_studio("--host", "127.0.0.1"), watch()
    assert len(studio.token) >= 32
    page = watched.page
    page.goto(f"{studio.url}/en/data")
    page.get_by_label("Token").fill("guess")
    page.get_by_role("button", name="Enter").click()
    page.get_by_text("The token is not right.").wait_for()
    page.get_by_label("Token").fill(studio.token)
    page.get_by_role("button", name="Enter").click()
    page.locator("header.top").wait_for()
    page.goto(f"{studio.url}/en/data")
    page.get_by_role("heading", name="Data").wait_for()
    assert watched.foreign == []
    assert watched.errors == []
