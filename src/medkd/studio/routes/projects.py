"""The pages of runs: all of them, one with its road, curves of several, what a teacher was paid;
stop, go on, delete.

In: the runs of the workspace. Out: detached runs started, stopped or deleted; nothing else. Not
done here: a run's life (`background_jobs`), counting money (`medkd.distill.bill`).
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from starlette.responses import Response

from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.core.errors import InputError, MedkdError
from medkd.distill.bill import bill
from medkd.studio import jobs
from medkd.studio.charts import line_chart
from medkd.studio.jobs import Job
from medkd.studio.jsonl_index import open_index, take_page
from medkd.studio.orders import PAYING, hand_over, show_command
from medkd.studio.page import Form, Page, read_text, stream
from medkd.studio.road import TRAINING, find_actions, find_progress, list_curves, make_road

PAGE_SIZE = 20
PERIOD_S = 1.0
N_LOG_LINES = 60
MAX_OVERLAID = 8
N_SAMPLES = 4


def list_projects(page: Page) -> Response:
    """Show every run with its road, state, progress, cost and next action."""
    found = jobs.list_jobs(page.workspace)
    query = page.query.get("q", "").strip().lower()
    wanted = [job for job in found if query in job.name.lower()]
    shown, at, n_pages = take_page(range(len(wanted)), page.number("page"), PAGE_SIZE)
    if not found:
        return page.render("new.html", is_first=True)
    cards = [_show_card(wanted[i].look(), page) for i in shown]
    is_moving = any(card["job"].alive for card in cards)
    return page.render(
        "projects.html",
        cards=cards,
        n=len(wanted),
        at=at,
        n_pages=n_pages,
        q=query,
        is_moving=is_moving,
    )


def _show_card(job: Job, page: Page) -> dict[str, Any]:
    return {
        "job": job,
        "road": make_road(job),
        "progress": find_progress(job),
        "cost": jobs.write_cost(job.steps),
        "actions": find_actions(job, page.t)[:1],
    }


def show_run(page: Page) -> Response:
    """Show one run."""
    job = jobs.find_job(page.workspace, page.query.get("name", ""))
    return page.render("run.html", job=job, **_describe(job, page))


def follow_run(page: Page) -> Response:
    """Send a run's page again as it goes on."""
    name = page.query.get("name", "")

    def draw() -> tuple[str, bool]:
        try:
            job = jobs.find_job(page.workspace, name)
        except MedkdError:
            return "", True
        return page.draw("run_body.html", job=job, **_describe(job, page)), job.alive is None

    return stream(draw, PERIOD_S)


def _describe(job: Job, page: Page) -> dict[str, Any]:
    last = job.detached[0] if job.detached else None
    tail = jobs.read_tail(last) if last else []
    problem = jobs.find_problem(job) if job.state in jobs.STOPPED else None
    return {
        "road": make_road(job),
        "actions": find_actions(job, page.t),
        "progress": find_progress(job),
        "charts": draw_charts([job], page),
        "samples": list_samples(job, page),
        "cost": jobs.write_cost(job.steps),
        "log": tail[-N_LOG_LINES:],
        "problem": page.t.say(problem) if problem else "",
        "command": show_command(last.words) if last else "",
        "repairs": [
            f"{step.path.name}: {repair}"
            for step in job.steps
            for repair in step.manifest.facts.get("repairs", [])
        ],
        "is_foreign": job.state == jobs.UNFINISHED and not job.detached,
    }


def draw_charts(found: Sequence[Job], page: Page) -> list[Any]:
    """Draw the curves of one run, or of several over each other."""
    return [
        line_chart(lines, page.t.word("curve", chart), page.t("steps"))
        for chart, lines in list_curves(found).items()
    ]


def list_samples(job: Job, page: Page) -> list[dict[str, Any]]:
    """Return what the student answered at its last saves, the newest first."""
    files = (step.path / "samples.jsonl" for step in reversed(job.steps))
    path = next((file for file in files if file.exists() and file.stat().st_size), None)
    if path is None:
        return []
    index = open_index(path)
    return [index.row(number) for number in islice(reversed(range(len(index))), N_SAMPLES)]


def show_curves(page: Page) -> Response:
    """Lay the curves of several runs over each other."""
    names = page.query.getlist("runs")[:MAX_OVERLAID]
    found = [jobs.find_job(page.workspace, name) for name in names]
    trained = [step.run for step in page.workspace.list_steps() if step.manifest.stage in TRAINING]
    return page.render(
        "curves.html",
        names=names,
        charts=draw_charts(found, page),
        offered=list(dict.fromkeys(reversed(trained))),
    )


def stop_run(page: Page, form: Form) -> Response:
    """Interrupt a run; what it has done is kept."""
    name = read_text(form, "name")
    jobs.stop(jobs.find_job(page.workspace, name))
    return page.redirect("run", name=name)


def resume_run(page: Page, form: Form) -> Response:
    """Start the last command of a run again, which goes on from where it stopped."""
    name = read_text(form, "name")
    job = jobs.find_job(page.workspace, name)
    if job.alive:
        raise InputError(page.t("This run is under way; wait for it, or stop it first."))
    if not job.detached:
        raise InputError(page.t("This run was started in a terminal; run the same command there."))
    last = job.detached[0]
    jobs.start(last.words, hand_over(last.words, read_text(form, "key")), last.cwd)
    page.workspace.forget()
    return page.redirect("run", name=name)


def delete_run(page: Page, form: Form) -> Response:
    """Delete the files of a run; the form says twice which one."""
    name = read_text(form, "name")
    if read_text(form, "sure") != name:
        raise InputError(page.t("Nothing was deleted: say that you are sure."))
    jobs.delete(page.workspace, jobs.find_job(page.workspace, name))
    return page.redirect("")


def show_bill(page: Page) -> Response:
    """Show the bill of a step, the newest where the address names none."""
    asking = (s for stage in PAYING for s in page.workspace.list_steps(stage=stage))
    steps = sorted(
        (step for step in asking if (step.path / LEDGER).exists()),
        key=lambda step: step.manifest.started_at,
    )
    if not steps:
        return page.render("nothing.html")
    names = [step.name for step in reversed(steps)]
    name = page.query.get("step") or names[0]
    found = bill(page.workspace.find_step(name).path)
    return page.render("bill.html", names=names, name=name, bill=found, money=write_money)


def write_money(amounts: dict[str, float]) -> str:
    """Write money in every currency there is.

    >>> write_money({"CNY": 1.5}), write_money({})
    ('1.5000 CNY', '0')
    """
    return " + ".join(f"{amount:,.4f} {currency}" for currency, amount in amounts.items()) or "0"
