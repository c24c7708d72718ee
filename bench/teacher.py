"""One misbehaving teacher, three clients: MedKD, Bespoke Curator, and a thread pool over the plain
`openai` client.

In: `--curator-python`, `--openai-python`, the Pythons of environments that hold them
(bench/README.md). Out: tables on the screen: answers delivered, what the teacher bills over the
ideal, seconds; then what is bought again after `kill -9` half-way, and after one edited row. The
bill is the teacher's own: tokens, and money at its price with its context cache. The ideal is each
question answered once.
Run: `.venv/bin/python bench/teacher.py --curator-python PATH/bin/python --openai-python
PATH/bin/python`
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from medkd.core import thinking
from medkd.core.jsonl import write_records
from medkd.core.records import Question
from medkd.core.task import load_task
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import RehearsalTeacher, serve_teacher
from medkd.distill.courses import make_messages

CLIENTS = Path(__file__).parent / "clients"
SECTIONS = ("基本信息", "主诉", "现病史", "既往史", "查体", "辅助检查")
LATENCY_S = 1.0
KILL_DELAY_S = 2.0
"""From half of the answers to the kill: in the middle of the answers of the next round."""
PACE_S = 0.2
"""Between two pieces of text where a run is killed: an answer then takes some seconds, as real ones
do."""


@dataclass(frozen=True)
class Client:
    """One side: how it is started, and where its answers lie."""

    name: str
    command: Callable[[Path, str, Path], list[str]]
    """From the folder of the run, the teacher's address, the file of questions."""
    answers: str


def make_questions(n: int) -> list[Question]:
    """Make questions of the rehearsal clinic, prompts and answers of their usual length."""
    questions = []
    for case in generate_cases(n, seed=11):
        record = " ".join(
            f"【{name}】{case.sections[name]}" for name in SECTIONS if name in case.sections
        )
        questions.append(
            Question(
                id=f"clinic:{case.number}",
                case_id=f"clinic:{case.number}",
                source="clinic",
                system="",
                instruction="",
                input=record,
                reference="；".join(case.diagnosis),
                split="train",
                deidentified_by="born so",
            )
        )
    return questions


def write_questions(folder: Path, questions: list[Question]) -> None:
    """Write them as records for MedKD and as messages for the others."""
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "questions.jsonl", questions)
    task = load_task("diagnosis")
    with (folder / "messages.jsonl").open("w", encoding="utf-8") as file:
        for question in questions:
            messages = [
                {"role": m.role, "content": m.content}
                for m in make_messages(task, "rationalize", question)
            ]
            file.write(
                json.dumps({"id": question.id, "messages": messages}, ensure_ascii=False) + "\n"
            )


def list_clients(options: argparse.Namespace) -> list[Client]:
    def medkd(teacher: str) -> Callable[[Path, str, Path], list[str]]:
        def command(folder: Path, base_url: str, inputs: Path) -> list[str]:
            flags = [
                "--teacher",
                teacher,
                "--model",
                "rehearsal",
                "--concurrency",
                str(options.concurrency),
            ]
            where = [
                "--base-url",
                base_url,
                "--input",
                str(inputs / "questions.jsonl"),
                "--out",
                str(folder / "distill"),
            ]
            return [sys.executable, "-m", "medkd", "distill", *flags, *where]

        return command

    def other(python: str, script: str) -> Callable[[Path, str, Path], list[str]]:
        def command(folder: Path, base_url: str, inputs: Path) -> list[str]:
            paths = [
                str(inputs / "messages.jsonl"),
                base_url,
                str(folder / "answers.jsonl"),
                str(folder / "cache"),
            ]
            return [python, str(CLIENTS / script), *paths, str(options.concurrency)]

        return command

    clients = [
        Client("MedKD", medkd("rehearsal"), "distill/rationales.jsonl"),
        Client("MedKD, no prefix completion", medkd("custom"), "distill/rationales.jsonl"),
    ]
    if options.curator_python:
        clients.append(
            Client("Curator", other(options.curator_python, "curator_client.py"), "answers.jsonl")
        )
    if options.openai_python:
        clients.append(
            Client(
                "openai, thread pool",
                other(options.openai_python, "openai_pool.py"),
                "answers.jsonl",
            )
        )
    return clients


def count_answers(path: Path) -> int:
    """Count the answers that hold both a reasoning and a diagnosis."""
    if not path.exists():
        return 0
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [
        thinking.write(r["reasoning"], r["answer"]) if "reasoning" in r else r["text"] or ""
        for r in rows
    ]
    return sum(thinking.is_well_formed(text) for text in texts)


def run_client(
    command: list[str], teacher: RehearsalTeacher, log: Path, kill_at: int | None = None
) -> float:
    """Run a client to its end, or kill it once the teacher has answered so many; give the seconds
    from the first request on."""
    began: list[float] = []

    def watch_for_the_first(n_before: int) -> None:
        while process.poll() is None and not began:
            if teacher.bill.requests > n_before:
                began.append(time.monotonic())
            time.sleep(0.005)

    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    n_before, n_billed = teacher.bill.requests, teacher.bill.billed
    with log.open("a") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=env, start_new_session=True
        )
    threading.Thread(target=watch_for_the_first, args=(n_before,), daemon=True).start()
    while process.poll() is None:
        if kill_at and teacher.bill.billed - n_billed >= kill_at:
            time.sleep(KILL_DELAY_S)
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.02)
    return time.monotonic() - began[0] if began else 0.0


def measure_faults(
    client: Client, questions: list[Question], rates: list[float], home: Path
) -> dict[float, dict[str, float]]:
    """Ask all questions at each rate of faults."""
    found = {}
    for rate in rates:
        folder = home / f"{client.name} {rate}".replace(" ", "-").replace(",", "")
        write_questions(folder, questions)
        with serve_teacher(latency_s=LATENCY_S, faults=rate, seed=5) as teacher:
            seconds = run_client(
                client.command(folder, teacher.base_url, folder), teacher, folder / "log.txt"
            )
        usage = teacher.bill.usage
        found[rate] = {
            "delivered": count_answers(folder / client.answers), "seconds": seconds, "amount": teacher.bill.amount,
            "tokens": usage.prompt + usage.completion, "completion": usage.completion, "requests": teacher.bill.requests,
        }  # fmt: skip
    return found


def measure_kill_and_edit(
    client: Client, questions: list[Question], home: Path
) -> tuple[int, float, int]:
    """Kill a run half-way and run it again, then edit one row and run it once more, without faults.

    Returns requests billed beyond one a question, all answer tokens billed by then, and requests
    billed after the edit.
    """
    folder = home / f"{client.name} kill".replace(" ", "-").replace(",", "")
    write_questions(folder, questions)
    with serve_teacher(latency_s=LATENCY_S, pace_s=PACE_S) as teacher:
        command = client.command(folder, teacher.base_url, folder)
        run_client(command, teacher, folder / "log.txt", kill_at=len(questions) // 2)
        time.sleep(2 * LATENCY_S)  # the teacher notices who has gone
        run_client(command, teacher, folder / "log.txt")
        again, completion = teacher.bill.billed - len(questions), teacher.bill.usage.completion
        edited = questions[0].model_copy(update={"input": questions[0].input + " 【补充】无。"})
        write_questions(folder, [edited, *questions[1:]])
        n_before = teacher.bill.billed
        run_client(command, teacher, folder / "log.txt")
    return again, completion, teacher.bill.billed - n_before


def main() -> None:
    """Measure every client and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curator-python", default="")
    parser.add_argument("--openai-python", default="")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.2, 0.5])
    options = parser.parse_args()
    questions = make_questions(options.n)
    clients = list_clients(options)
    with tempfile.TemporaryDirectory() as home:
        print(
            "| client | faults | delivered | seconds | requests | money / ideal | answer tokens / ideal | all tokens / ideal |"
        )
        print("|---|---|---|---|---|---|---|---|")
        ideal: dict[str, float] = {}
        for client in clients:
            for rate, one in measure_faults(
                client, questions, sorted({0.0, *options.rates}), Path(home)
            ).items():
                ideal = ideal or one
                ratios = [
                    f"{one[name] / ideal[name]:.3f}" for name in ("amount", "completion", "tokens")
                ]
                head = f"| {client.name} | {rate:.0%} | {one['delivered']} of {len(questions)} | {one['seconds']:.1f} | {one['requests']} |"
                print(head, " | ".join(ratios), "|", flush=True)
        print(
            "\n| client | requests bought again after kill -9 half-way | answer tokens / ideal by then | requests after one edited row |"
        )
        print("|---|---|---|---|")
        with ThreadPoolExecutor() as pool:  # nothing is timed here
            results = pool.map(
                lambda client: measure_kill_and_edit(client, questions, Path(home)), clients
            )
            for client, (again, completion, edited) in zip(clients, results, strict=True):
                print(
                    f"| {client.name} | {again} | {completion / ideal['completion']:.3f} | {edited} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
