"""The pages of runs: all of them, one with its road, curves of several; stop, go on, delete; what a
run leaves: an exported model with its proof, and what a teacher was paid.

In: the runs of the workspace. Out: detached runs started, stopped or deleted; nothing else. Not
done here: a run's life (`background_jobs`), proving (`export.proof`), counting money
(`distill.bill`).
"""

import json
import shlex
from typing import Any

from starlette.responses import Response

from medkd import background_jobs
from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.core.errors import InputError, Said
from medkd.core.statistics import MIN_QUESTIONS
from medkd.distill.bill import bill
from medkd.export.push import UNPROVEN
from medkd.studio import jobs
from medkd.studio.forms import read_fields, to_text
from medkd.studio.jobs import Job, write_money
from medkd.studio.jsonl_index import Row, open_index, take_page
from medkd.studio.orders import (
    PAYING,
    count_input,
    estimate_time,
    hand_over,
    lacks_key,
    read_order,
    show_command,
)
from medkd.studio.page import Form, Page, read_text, stream
from medkd.studio.road import (
    TRAINING,
    Action,
    draw_lines,
    find_actions,
    find_progress,
    list_curves,
    make_road,
)
from medkd.studio.workspace import Step

PAGE_SIZE = 10
PERIOD_S = 1.0
N_LOG_LINES = 60
MAX_OVERLAID = 8
N_SAMPLES = 12


def show_beginnings(page: Page) -> Response:
    """Offer the three ways to begin."""
    return page.render("new.html", is_first=False)


def list_projects(page: Page) -> Response:
    """Show every run with its road, state, progress, cost and next action."""
    found = jobs.list_jobs(page.workspace)
    if not found:
        return page.render("new.html", is_first=True)
    query = page.query.get("q", "").strip().lower()
    wanted = [name for name in found if query in name.lower()]
    shown, at, n_pages = take_page(range(len(wanted)), page.number("page"), PAGE_SIZE)
    names = [wanted[i] for i in shown]
    cards = [_show_card(jobs.look(page.workspace, name, found[name]), page) for name in names]
    is_moving = any(card["job"].alive for card in cards)
    values: dict[str, Any] = {"at": at, "n_pages": n_pages, "q": query, "is_moving": is_moving}
    return page.render("projects.html", cards=cards, **values)


def _show_card(job: Job, page: Page) -> dict[str, Any]:
    return {
        "job": job,
        "road": make_road(job),
        "progress": find_progress(job),
        "actions": [_add_time(action, page) for action in find_actions(job, page.t)],
    }


def _add_time(action: Action, page: Page) -> Action:
    """Say of a training how long it will take, where that is known."""
    if action.query.get("kind") != "train":
        return action
    part = read_order("train", action.query, page.workspace, is_filled=False).parts[0]
    seconds = estimate_time(count_input(part, page.workspace), part.values, page.workspace)
    time = page.t("about {time}", time=page.t.seconds(seconds or 0))
    said = page.t("{said}: {time} here", said=action.text, time=time)
    return action._replace(text=said) if seconds else action


def show_run(page: Page) -> Response:
    """Show one run."""
    return page.render("run.html", **_describe(page))


def follow_run(page: Page) -> Response:
    """Send a run's page again as it goes on."""

    def draw() -> tuple[str, bool]:
        try:
            described = _describe(page)
        except InputError:  # deleted meanwhile
            return "", True
        return page.draw("run_body.html", **described), described["job"].alive is None

    return stream(draw, PERIOD_S)


def _describe(page: Page) -> dict[str, Any]:
    """Gather what the page of the run that the address names shows."""
    job = jobs.find_job(page.workspace, page.query.get("name", ""))
    last = job.detached[0] if job.detached else None
    end = background_jobs.read_end(last) if last and not job.alive else None
    at_work = [step for step in job.steps if job.alive and step.manifest.state == "running"]
    is_training = any(step.manifest.stage in TRAINING for step in at_work)
    return {
        **_show_card(job, page),
        "plots": draw_plots([job._replace(steps=at_work) if is_training else job], page),
        "samples": list_samples(job),
        "log": jobs.read_tail(last, N_LOG_LINES) if last else [],
        "problem": page.t.say(Said.from_json(end.problem)) if end and end.problem else "",
        "command": show_command(last.words) if last else "",
        "lacks_key": last is not None and not job.alive and lacks_key(last.words, last.cwd),
        "is_foreign": job.state == jobs.UNFINISHED and not last,
        "list_settings": list_settings,
    }


def list_settings(step: Step) -> dict[str, str]:
    """List what a step was made with, as the address of its form says it; `m:` keeps what fits the
    model from being put over it."""
    config, fields = step.manifest.config, read_fields(step.manifest.stage)
    values = {f.name: to_text(config[f.name]) for f in fields if f.name in config}
    usual = {f.name: f.default for f in fields}
    said = {f"v::{name}": text for name, text in values.items() if text != usual[name]}
    return {**said, "m:": values.get("model", "")}


def draw_plots(found: list[Job], page: Page) -> list[Any]:
    """Draw the curves of one run, or of several over each other."""
    curves = list_curves(found, page.t).items()
    plots = (draw_lines(lines, page.t.word("curve", chart)) for chart, lines in curves)
    return [plot for plot in plots if plot]


def list_samples(job: Job) -> list[Row]:
    """Return what the student answered at its last saves, the newest first."""
    files = (step.path / "samples.jsonl" for step in reversed(job.steps))
    path = next((file for file in files if file.exists()), None)
    index = open_index(path) if path else None
    numbers = range(len(index))[: -N_SAMPLES - 1 : -1] if index else ()
    return [index.row(number) for number in numbers] if index else []


def show_curves(page: Page) -> Response:
    """Lay the curves of several runs over each other."""
    names = page.query.getlist("runs")[:MAX_OVERLAID]
    plots = draw_plots([jobs.find_job(page.workspace, name) for name in names], page)
    trained = [step.run for step in page.workspace.list_steps() if step.manifest.stage in TRAINING]
    offered = list(dict.fromkeys(reversed(trained)))
    return page.render("curves.html", names=names, plots=plots, offered=offered)


def stop_run(page: Page, form: Form) -> Response:
    """Interrupt a run; what it has done is kept."""
    name = read_text(form, "name")
    jobs.stop(jobs.find_job(page.workspace, name))
    return page.redirect("run", name=name)


def resume_run(page: Page, form: Form) -> Response:
    """Start the last command of a run again that did not come to its end, which goes on from where
    it stopped."""
    name = read_text(form, "name")
    job = jobs.find_job(page.workspace, name)
    if job.alive:
        raise InputError(page.t("This run is under way; wait for it, or stop it first."))
    if not job.detached:
        raise InputError(page.t("This run was started in a terminal; run the same command there."))
    ended = {run.name: background_jobs.read_state(run) for run in job.detached}
    last = next((run for run in job.detached if ended[run.name] != "done"), job.detached[0])
    key = hand_over(last.words, read_text(form, "key"), last.cwd)
    background_jobs.start(last.words, environment=key, cwd=last.cwd)
    page.workspace.forget()
    return page.redirect("run", name=name)


def delete_run(page: Page, form: Form) -> Response:
    """Delete the files of a run; the form says twice which one."""
    name = read_text(form, "name")
    if read_text(form, "sure") != name:
        raise InputError(page.t("Nothing was deleted: say that you are sure."))
    jobs.delete(page.workspace, jobs.find_job(page.workspace, name))
    return page.redirect("")


# --- What a run leaves --------------------------------------------------------------------------


def _choose(page: Page, steps: list[Step]) -> dict[str, Any] | None:
    """Name the steps, the newest first, and choose the one that the address names, or the newest;
    None where there are none."""
    names = [step.name for step in reversed(steps)]
    if not names:
        return None
    return {"names": names, "step": page.workspace.find_step(page.query.get("step") or names[0])}


def show_exports(page: Page) -> Response:
    """Show an exported model."""
    chosen = _choose(page, page.workspace.list_steps(stage="export"))
    if chosen is None:
        return page.render("nothing.html")
    step: Step = chosen["step"]
    return page.render(
        "export.html",
        least=MIN_QUESTIONS,
        is_unproven=(step.path / UNPROVEN).exists(),
        commands=write_commands(step) if (step.path / "Modelfile").exists() else {},
        answers=read_proof(step),
        **chosen,
    )


def read_proof(step: Step) -> list[dict[str, Any]]:
    """Read the answers of the proof; empty where there is none."""
    try:
        content = json.loads((step.path / "proof.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    answers = content.get("answers", []) if isinstance(content, dict) else []
    return [answer for answer in answers if isinstance(answer, dict)]


def write_commands(step: Step) -> dict[str, str]:
    """Write the commands that serve the folder, by the tool."""
    folder = shlex.quote(str(step.path.resolve()))
    name = shlex.quote(step.name.replace("/", "-").lower())
    return {
        "Ollama": f"cd {folder}\nollama create {name} -f Modelfile\nollama run {name}",
        "vLLM": f"vllm serve {folder} --served-model-name {name} --reasoning-parser deepseek_r1 "
        """--override-generation-config '{"temperature": 0}'""",
    }


def show_bill(page: Page) -> Response:
    """Show the bill of a step."""
    asking = (step for stage in PAYING for step in page.workspace.list_steps(stage=stage))
    paid = (step for step in asking if (step.path / LEDGER).exists())
    chosen = _choose(page, sorted(paid, key=lambda step: step.manifest.started_at))
    if chosen is None:
        return page.render("nothing.html")
    return page.render("bill.html", bill=bill(chosen["step"].path), money=write_money, **chosen)
