"""Which folders the studio may touch."""

import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medkd.background_jobs import Job, JobResult, runs_dir
from medkd.core.errors import InputError
from medkd.core.jsonl import MANIFEST
from medkd.core.stage_output import Manifest, read_manifest
from medkd.studio import jobs
from medkd.studio.orders import read_order
from medkd.studio.workspace import Workspace

N_RUNS = 1000


def make_step(
    folder: Path,
    stage: str,
    state: str = "finished",
    started_at: str = "2026-01-01",
    config: dict[str, str] | None = None,
) -> Path:
    folder.mkdir(parents=True)
    manifest = Manifest(
        stage=stage, state=state, identity="x", config=config or {}, started_at=started_at
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    make_step(tmp_path / "runs" / "one" / "verify", "verify")
    (tmp_path / "given").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("sk")
    return Workspace(tmp_path / "runs", [tmp_path / "given"])


@pytest.mark.parametrize(
    "name",
    [
        "../secret/key",
        "one/../../secret",
        "/etc/passwd",
        "one/verify/../../../secret/key",
        "~/x",
        ".",
    ],
)
def test_a_path_outside_the_workspace_is_refused(
    workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == ".":
        assert workspace.resolve(name).resolve() == workspace.runs.resolve()
        return
    if name == "~/x":
        assert workspace.resolve(name).resolve().is_relative_to(workspace.runs.resolve())
        return
    with pytest.raises(InputError, match="lies outside"):
        workspace.resolve(name)


def test_a_link_that_leads_out_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.runs / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="lies outside"):
        workspace.resolve("link/key")
    with pytest.raises(InputError, match="lies outside"):
        workspace.resolve(workspace.runs / "link" / "new")


def test_what_lies_inside_is_found_by_name_and_by_path(
    workspace: Workspace, tmp_path: Path
) -> None:
    assert workspace.resolve("one/verify") == workspace.runs / "one" / "verify"
    assert workspace.resolve(tmp_path / "given" / "cases.json") == tmp_path / "given" / "cases.json"
    assert workspace.resolve("new/train") == workspace.runs / "new" / "train"
    with pytest.raises(InputError, match="no such folder"):
        Workspace(workspace.runs, [tmp_path / "nowhere"])


def test_a_run_is_deleted_whole_and_nothing_beside_it(workspace: Workspace, tmp_path: Path) -> None:
    make_step(workspace.runs / "two" / "verify", "verify")
    jobs.delete(workspace, jobs.find_job(workspace, "one"))
    assert not (workspace.runs / "one").exists()
    assert (workspace.runs / "two" / "verify" / MANIFEST).exists()
    (workspace.runs / "link").symlink_to(tmp_path / "secret")
    for name in ("link", ".", ".."):
        with pytest.raises(InputError, match="remove it by hand"):
            jobs.delete(workspace, jobs.Job(name, "finished", [], []))
    assert (tmp_path / "secret" / "key").exists()


def test_a_job_says_how_it_stands(workspace: Workspace) -> None:
    make_step(workspace.runs / "two" / "verify", "verify", state="running")
    for name, code in (("three", 3), ("four", None), ("five", 2)):
        folder = runs_dir() / f"run-{name}"
        folder.mkdir(parents=True)
        run = Job(
            name=folder.name,
            words=["run", "x.yaml", "--out", str(workspace.runs / name)],
            cwd=Path("/"),
            pid=1,
            started_at="2026-02-01",
        )
        (folder / "run.json").write_text(run.model_dump_json())
        (folder / "alive").touch()
        if code is not None:
            (folder / "end.json").write_text(
                JobResult(code=code, ended_at="2026-02-01").model_dump_json()
            )
    found = jobs.list_jobs(workspace)
    states = {name: jobs.look(workspace, name, made).state for name, made in found.items()}
    assert states == {
        "one": "finished",
        "two": jobs.UNFINISHED,
        "three": "stopped",
        "four": "killed",
        "five": "failed",
    }


def test_a_thousand_runs_are_listed_and_read_again_only_where_they_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(N_RUNS):
        for stage in ("collect", "verify", "train"):
            make_step(
                tmp_path / "runs" / f"run-{number:04}" / stage,
                stage,
                started_at=f"2026-01-01T00:{number % 60:02}:00",
            )
    workspace = Workspace(tmp_path / "runs")
    assert len(jobs.list_jobs(workspace)) == N_RUNS
    read: list[Path] = []
    monkeypatch.setattr(
        "medkd.studio.workspace.read_manifest",
        lambda folder: read.append(folder) or read_manifest(folder),
    )
    changed = tmp_path / "runs" / "run-0007" / "train"
    (changed / MANIFEST).write_text((changed / MANIFEST).read_text() + "\n")
    assert len(jobs.list_jobs(workspace)) == N_RUNS
    assert read == []
    workspace.forget()
    assert len(jobs.list_jobs(workspace)) == N_RUNS
    assert read == [changed]


def test_many_who_ask_at_once_share_one_look_through_all_runs(
    workspace: Workspace, monkeypatch
) -> None:
    looks: list[Path] = []
    scan = Workspace._scan

    def look(self: Workspace, top: Path) -> list:
        looks.append(top)
        time.sleep(0.1)  # for the others to come
        return scan(self, top)

    monkeypatch.setattr(Workspace, "_scan", look)
    workspace.forget()
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: workspace.list_steps(), range(20)))
    assert len(looks) == 1
    assert all(steps == found[0] for steps in found)


def test_deleting_a_run_touches_no_other_run_and_nothing_of_others(workspace: Workspace) -> None:
    runs = workspace.runs
    for name in ("a/verify", "a/merge", "a/b/verify", "a/b/c/verify", "ab/verify"):
        make_step(runs / name, name.rpartition("/")[2])
    for name in ("a/report.html", "a/notes.txt", "a/b/report.html", "a/verify/reviews.jsonl"):
        (runs / name).write_text("x")
    jobs.delete(workspace, jobs.find_job(workspace, "a"))
    left = {path.relative_to(runs).as_posix() for path in runs.rglob("*") if path.is_file()}
    assert left == {
        "one/verify/manifest.json",
        "a/notes.txt",
        "a/b/report.html",
        "a/b/verify/manifest.json",
        "a/b/c/verify/manifest.json",
        "ab/verify/manifest.json",
    }
    jobs.delete(workspace, jobs.find_job(workspace, "a/b"))
    assert (runs / "a/b/c/verify/manifest.json").exists()


def test_a_run_in_whose_step_a_process_works_or_another_run_lies_is_not_deleted(
    workspace: Workspace,
) -> None:
    step = make_step(workspace.runs / "a" / "verify", "verify")
    handle = os.open(step, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="is running; stop it first"):
        jobs.delete(workspace, jobs.find_job(workspace, "a"))
    os.close(handle)
    make_step(step / "inner" / "merge", "merge")
    with pytest.raises(InputError, match="holds another run"):
        jobs.delete(workspace, jobs.find_job(workspace, "a"))
    assert (step / "inner" / "merge" / MANIFEST).exists()


def test_an_evaluation_begins_with_what_the_run_has_trained(workspace: Workspace) -> None:
    for name, started_at in (("train", "2026-01-02"), ("train-answers", "2026-01-03")):
        make_step(workspace.runs / "one" / name, "train", "finished", started_at, {"model": "base"})
    make_step(workspace.runs / "one" / "train-2", "train", "stopped", "2026-01-04")
    values = read_order("evaluate", {"run": "one"}, workspace, False).parts[0].values
    assert (values["model"], Path(values["adapter"]).name) == ("base", "train")
    for name, adapter in (("evaluate", "runs/one/train"), ("evaluate-2", "")):
        make_step(workspace.runs / "one" / name, "evaluate", "finished", name, {"adapter": adapter})
    workspace.forget()
    exported = read_order("export", {"run": "one"}, workspace, False).parts[0].values
    fed = (Path(exported[name]).name for name in ("adapter", "evaluation"))
    assert tuple(fed) == ("train", "evaluate"), "what was trained, and its own evaluation"
    untrained = read_order("evaluate", {"run": "two"}, workspace, False).parts[0].values
    assert (untrained["model"], untrained["adapter"]) == ("", "")
