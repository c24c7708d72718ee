"""The page Runs: every run with its state, progress and cost; start, watch, stop, go on, delete.

In: the runs of the directory. Out: detached runs started, stopped or deleted; nothing else. Not
done here: a run's life (`background_jobs`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from medkd import background_jobs
from medkd.core.errors import MedkdError
from medkd.core.jsonl import write_text
from medkd.stages import STAGES
from medkd.studio import jobs
from medkd.studio.jobs import Job
from medkd.studio.next_steps import show_next
from medkd.studio.orders import hand_over
from medkd.studio.places import UPLOADS, Places
from medkd.studio.present import PICK, render, show_error, show_notice, show_table, write_seconds
from medkd.studio.shelf import take_page
from medkd.studio.starts import build_start
from medkd.studio.texts import Texts

PAGE_SIZE = 20
LIST_REFRESH_S, RUN_REFRESH_S = 10.0, 2.0
N_LOG_LINES = 60
SUFFIXES = [".json", ".jsonl"]


def build(page: gr.Blocks, places: Places, t: Texts) -> None:
    """Lay the page out."""
    build_start(page, places, t, list(STAGES), t("start.title"))
    with gr.Accordion(t("runs.upload"), open=False):
        given = gr.File(label=t("runs.upload_hint"), file_types=SUFFIXES, type="filepath")
        taken = gr.HTML()
    with gr.Row(visible=False) as finder:
        query = gr.Textbox("", label=t("runs.search"), scale=3)
        number = gr.Number(
            label=t("data.page"),
            value=1,
            precision=0,
            minimum=1,
            interactive=True,
            scale=1,
            min_width=90,
        )
    listing = gr.HTML(js_on_load=PICK)
    chosen = gr.State("")
    with gr.Column(visible=False) as details:
        head = gr.HTML()
        with gr.Row(elem_classes="buttons"):
            halt = gr.Button(t("runs.stop"), variant="stop")
            again = gr.Button(t("runs.go_on"))
            remove = gr.Button(t("runs.delete"))
            key = gr.Textbox("", label=t("start.key"), type="password", max_length=300)
        with gr.Row(visible=False, elem_classes="buttons") as question:
            sure = gr.Button(t("runs.delete_sure"), variant="stop")
            no = gr.Button(t("runs.delete_no"))
        news = gr.HTML()
        curves = gr.HTML()
        log = gr.HTML(autoscroll=True)

    def arrive(request: gr.Request) -> str:
        return dict(request.query_params).get("run", "")

    def show_list(text: str | None, wanted: float | None) -> tuple[str, Any, Any]:
        there = jobs.list_jobs(places)
        if not there:
            return show_next("runs", "collect", places, t), gr.skip(), gr.update(visible=False)
        found = [job for job in there if (text or "").strip().lower() in job.name.lower()]
        shown, at, n_pages = take_page(range(len(found)), int(wanted or 1), PAGE_SIZE)
        table = show_jobs([found[i] for i in shown], len(found), at, n_pages, t)
        return table, gr.update(value=at, visible=n_pages > 1), gr.update(visible=True)

    def show(name: str) -> tuple[Any, ...]:
        """Show one run as it stands now."""
        try:
            job = jobs.find_job(places, name) if name else None
        except MedkdError:
            job = None
        if job is None:
            return gr.update(visible=False), "", "", "", *(gr.skip() for _ in doors)
        titles = {kind: t(f"runs.curve_{kind}") for kind in jobs.CURVES}
        can_go_on = not job.alive and bool(job.detached)
        curves = jobs.draw_curves(job, titles, t("runs.steps_done"))
        able = (gr.update(visible=can) for can in (job.alive is not None, can_go_on, can_go_on))
        return gr.update(visible=True), show_job(job, t), curves, show_log(job, t), *able

    def refresh(name: str) -> tuple[Any, ...]:
        return show(name)[1:] if name else tuple(gr.skip() for _ in run[1:])

    def act(what: Any) -> Any:
        """Do something with the chosen run, and say what came of it."""

        def done(name: str, *given: Any) -> str:
            try:
                return show_notice(what(jobs.find_job(places, name), *given), "good")
            except MedkdError as error:
                return show_error(error, t)

        return done

    def end(job: Job) -> str:
        if job.alive is None:
            return t("runs.not_running")
        background_jobs.stop(job.alive, say=lambda _: None)
        return t("runs.stopped")

    def go_on(job: Job, secret: str) -> str:
        if not job.detached:
            return t("runs.foreign")
        run = job.detached[0]
        return jobs.start(run.words, hand_over(run.words, secret), run.cwd)

    def erase(job: Job) -> str:
        jobs.delete(places, job)
        return t("runs.deleted", name=job.name)

    def take(path: str | None) -> str:
        return take_upload(places, path, t)

    state: list[Any] = [query, number]
    listed: list[Any] = [listing, number, finder]
    doors: list[Any] = [halt, again, key]
    """What can be done with a run as it stands."""
    run: list[Any] = [details, head, curves, log, *doors]
    page.load(arrive, None, chosen).then(show, chosen, run).then(show_list, state, listed)
    query.submit(show_list, state, listed)
    number.submit(show_list, state, listed)
    listing.select(pick, None, [chosen, news, question]).then(show, chosen, run)
    halt.click(act(end), chosen, news).then(show, chosen, run).then(show_list, state, listed)
    again.click(act(go_on), [chosen, key], news).then(lambda: "", None, key).then(show, chosen, run)
    remove.click(lambda: gr.update(visible=True), None, question)
    no.click(lambda: gr.update(visible=False), None, question)
    sure.click(act(erase), chosen, news).then(
        lambda: gr.update(visible=False), None, question
    ).then(show_list, state, listed)
    given.upload(take, given, taken)
    gr.Timer(LIST_REFRESH_S).tick(show_list, state, listed, show_progress="hidden")
    gr.Timer(RUN_REFRESH_S).tick(refresh, chosen, run[1:], show_progress="hidden")


def pick(event: gr.EventData) -> tuple[str, str, Any]:
    """Take the run that was picked, and put away what was said of another."""
    return str(event.value), "", gr.update(visible=False)


def show_jobs(found: Sequence[Job], n: int, page: int, n_pages: int, t: Texts) -> str:
    """List runs."""
    listed: list[dict[str, Any]] = [
        {
            "name": job.name,
            "state": job.state,
            "started_at": job.started_at[:16].replace("T", " "),
            "steps": " ".join(
                f"{step.path.name}{' ✓' if step.manifest.state == 'finished' else ' …'}"
                for step in job.steps
            ),
            "progress": find_progress(job, t),
            "cost": jobs.write_cost(job.steps),
        }
        for job in found
    ]
    return render("jobs", t, jobs=listed, n=n, page=page, n_pages=n_pages)


def find_progress(job: Job, t: Texts) -> dict[str, Any] | None:
    """Find how far the work on a run has come, as it is shown."""
    found = jobs.find_progress(jobs.read_tail(job.alive, 50)) if job.alive else None
    if found is None:
        return None
    left = write_seconds(found.seconds_left, t) if found.seconds_left is not None else ""
    return found._asdict() | {
        "note": t.say(found.note),
        "share": 100 * found.done / max(found.total, 1),
        "left": left,
    }


def show_job(job: Job, t: Texts) -> str:
    """Show the steps of a run."""
    head = tuple(
        t(f"runs.{column}")
        for column in ("step", "state", "read", "kept", "dropped", "seconds", "cost")
    )
    rows = [
        (
            step.path.name,
            t.word("state", step.manifest.state),
            step.manifest.counts.read,
            step.manifest.counts.kept,
            ", ".join(
                f"{n} {t.word('reason', reason)}"
                for reason, n in step.manifest.counts.dropped.items()
            ),
            write_seconds(step.manifest.seconds, t),
            jobs.write_cost([step]),
        )
        for step in job.steps
    ]
    repairs = [
        f"{step.path.name}: {repair}"
        for step in job.steps
        for repair in step.manifest.facts.get("repairs", [])
    ]
    places = {
        page: f"/{t.language}/{page}?{urlencode(values)}"
        for page, values in list_links(job).items()
    }
    command = f"medkd {' '.join(job.detached[0].words)}" if job.detached else ""
    cost = jobs.write_cost(job.steps)
    is_over = job.state in ("failed", "stopped", "crashed", "killed") and job.detached
    problem = jobs.find_problem(jobs.read_tail(job.detached[0])) if is_over else ""
    shown = {
        "links": places,
        "command": command,
        "repairs": repairs,
        "problem": problem,
        "cost": cost,
    }
    is_foreign = job.state == jobs.UNFINISHED and not job.detached
    top = render(
        "job",
        t,
        name=job.name,
        state=job.state,
        progress=find_progress(job, t),
        is_foreign=is_foreign,
        **shown,
    )
    return top + (show_table(head, rows, t) if rows else "")


def list_links(job: Job) -> dict[str, dict[str, str]]:
    """Say which other pages show something of this run, and under which address."""
    links: dict[str, dict[str, str]] = {"data": {"run": job.name}} if job.steps else {}
    for step in job.steps:
        match step.manifest.stage:
            case "verify":
                links["review"] = {"file": f"{step.name}/verified.jsonl"}
            case "distill":
                links["bill"] = {"step": step.name}
            case "export":
                links["export"] = {"step": step.name}
            case "evaluate":
                links["evaluate"] = {
                    "steps": ",".join(
                        [*filter(None, [links.get("evaluate", {}).get("steps")]), step.name]
                    )
                }
            case _:
                pass
    return links


def show_log(job: Job, t: Texts) -> str:
    """Show the end of what the newest detached run of this directory printed."""
    return (
        render("log", t, title=t("runs.log"), lines=jobs.read_tail(job.detached[0], N_LOG_LINES))
        if job.detached
        else ""
    )


def take_upload(places: Places, path: str | None, t: Texts) -> str:
    """Keep an uploaded file of records below the runs, under its own name, if it is what it
    says."""
    if not path:
        return ""
    source = Path(path)
    text = source.read_bytes().decode("utf-8-sig", "replace").lstrip()
    if (
        source.suffix not in SUFFIXES
        or not text.startswith(("[", "{"))
        or "\ufffd" in text[:10_000]
    ):
        return show_notice(t("runs.upload_refused"), "bad")
    target = places.runs / UPLOADS / source.name
    if target.exists():
        return show_notice(t("runs.upload_there", name=target), "bad")
    write_text(target, text)
    return show_notice(t("runs.uploaded", name=target), "good")
