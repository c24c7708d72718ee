import ast
import importlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medkd import __version__
from medkd.cli.app import build_app, run_command
from medkd.cli.commands import describe_recipe
from medkd.cli.flags import DETACH_HELP, INSTALLED_DOCS, PARTS, RECIPE_HELP, TRUST_HELP
from medkd.cli.overview import (
    BEGINNINGS,
    COMMANDS,
    LOOK,
    MACHINE,
    RUN,
    STAGE,
    fill_next,
    read_help,
)
from medkd.core.config import StageConfig, describe, list_recipes, read_recipe
from medkd.core.i18n import Texts, load_catalogue, speak
from medkd.core.jsonl import write_json, write_records
from medkd.core.records import RawCase
from medkd.core.stage_output import Counts, Manifest, read_manifest
from medkd.core.task import SHIPPED, load_task
from medkd.pipeline import check_consent
from medkd.stages import STAGES
from rehearsal_questions import make_questions

ROOT = Path(__file__).parents[1]
CASE = {
    "title": "发热",
    "department": "内科",
    "url": "",
    "id": "1",
    "raw_medical_record": {
        "主诉": "发热3天",
        "现病史": "患者3天前受凉后发热，伴咳嗽、咳黄痰。",
        "初步诊断": "肺炎",
    },
}


def fail(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    """Run a command that cannot succeed; give its exit code and its one line."""
    code = run_command([str(word) for word in words])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return code, lines[0].removeprefix("error: ")


def start(*words: str | Path, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "medkd", *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )  # pyright: ignore


@pytest.fixture
def cases_path(tmp_path: Path) -> Path:
    path = tmp_path / "given" / "cases.json"
    write_json(path, [CASE])
    return path


def test_help_lists_every_command_and_each_stage_explains_its_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f" {name} " in listed for name in COMMANDS)
    assert "not a medical device" in " ".join(listed.split())
    for name, stage in STAGES.items():
        assert run_command([name, "--help-all"]) == 0
        shown = capsys.readouterr().out
        assert all(
            f"--{field.strip('_').replace('_', '-')}" in shown
            for field in stage.load().Config.model_fields
        ), name


def test_the_version_is_that_of_the_package() -> None:
    done = start("--version")
    said = done.communicate()[0]
    assert said.startswith(f"medkd {__version__}, Python 3.") and " computes on c" in said
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["colect"], "no command 'colect'; did you mean 'collect'?"),
        (["collect", "--outt", "x"], "--outt: no such flag; did you mean '--out'?"),
        (["runs", "--foo"], "--foo: no such flag; see `medkd runs --help`"),
        (["demo", "--language", "fr"], "--language: must be one of 'zh', 'en' (got 'fr')"),
        (["collect", "--limit", "many", "--out", "x"], "--limit"),
        (
            ["collect", "--limit", "0", "--out", "x"],
            "limit: must be at least 1 (got '0'); see `medkd collect --help`",
        ),
        (
            ["collect", "--source", "web", "--out", "x"],
            "--source: must be one of 'iiyi', 'files' (got 'web'); see `medkd collect --help`",
        ),
        (["collect", "leftover"], "leftover"),
        (["verify", "--out", "x"], "medkd verify: input is missing; add --input"),
        (["verify", "--input", "x"], "medkd verify: out is missing; add --out"),
        (["chat"], "model is missing; add --model, as `medkd chat --help` shows"),
        (["run"], "RECIPE is missing"),
        (["collect", "--out"], "--out: has no value; write one after it"),
        (["collect", "--out", "x", "--out", "y"], "--out: is given more than once"),
        (
            ["reinforce", "--out", "x", "--rewards", "{}", "--rewards.stop", "0"],
            "both as a whole and key by key (--rewards.KEY)",
        ),
        (
            ["train", "--out", "x", "--trainer", "{"],
            "'{' is no mapping; give it key by key (--trainer.KEY VALUE)",
        ),
        (["train", "--out", "x", "--epochs", "abc"], "--epochs: must be a number (got 'abc')"),
        (
            ["train", "--out", "x", "--batch-size", "1.5"],
            "--batch-size: must be a whole number (got '1.5')",
        ),
        (
            ["train", "--out", "x", "--method", "lorra"],
            "--method: must be one of 'lora', 'qlora', 'full', 'dpo', 'kto', 'on-policy'",
        ),
        (["bill"], "PATH"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    code, line = fail(capsys, *words)
    assert code == 2
    assert says in line


def test_a_missing_input_is_named_with_the_command_that_makes_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    makers = {
        "deidentify": "collect",
        "prepare": "deidentify",
        "distill": "prepare",
        "verify": "distill",
        "merge": "verify",
        "select": "prepare",
    }
    for stage, maker in makers.items():
        student = ["--model", "medkd:tiny"] if stage == "select" else []
        given = [*student, "--input", tmp_path / "nowhere", "--out", tmp_path / stage]
        code, line = fail(capsys, stage, *given)
        assert code == 2
        assert str(tmp_path / "nowhere") in line
        assert f'run "medkd {maker}" first' in line
        assert not (tmp_path / stage).exists()


def test_empty_broken_and_foreign_files_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = tmp_path / "given.json"
    for content, says in (
        ("", "the file is empty"),
        ("<html>", "HTML or XML; export the table"),
        ('[{"a": 1}, ', "the JSON array breaks off after 1 elements"),
        ('[{"a": 1}]', "found the fields a"),
    ):
        given.write_text(content)
        code, line = fail(
            capsys, "collect", "--source", "files", "--input", given, "--out", tmp_path / "out"
        )
        assert code == 2
        assert says in line


def test_a_stage_runs_says_what_came_out_and_is_not_done_twice(
    capsys: pytest.CaptureFixture[str], cases_path: Path, tmp_path: Path
) -> None:
    words = [
        "collect",
        "--source",
        "files",
        "--input",
        str(cases_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert run_command(words) == 0
    said, following = capsys.readouterr().out.splitlines()
    assert said == f"collect: 1 in, 1 kept; see {tmp_path / 'out' / 'manifest.json'}"
    assert following.startswith(f"next: medkd deidentify --input {tmp_path / 'out'} --out ")
    made = (tmp_path / "out" / "raw_cases.jsonl").stat().st_mtime_ns
    assert run_command(words) == 0
    assert (tmp_path / "out" / "raw_cases.jsonl").stat().st_mtime_ns == made


def test_a_directory_of_another_config_is_refused_until_told_what_to_do(
    capsys: pytest.CaptureFixture[str], cases_path: Path, tmp_path: Path
) -> None:
    words = [
        "collect",
        "--source",
        "files",
        "--input",
        str(cases_path),
        "--out",
        str(tmp_path / "out"),
    ]
    run_command(words)
    code, line = fail(capsys, *words, "--limit", "1")
    assert code == 2
    assert "changed: limit" in line
    assert run_command([*words, "--limit", "1", "--resume"]) == 0
    assert run_command([*words, "--overwrite"]) == 0


def test_a_stage_takes_its_fields_from_a_recipe_and_flags_win(
    capsys: pytest.CaptureFixture[str], cases_path: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"collect:\n  source: files\n  input: {cases_path}\n  limit: 5\n")
    assert (
        run_command(
            ["collect", "--recipe", str(recipe), "--limit", "7", "--out", str(tmp_path / "out")]
        )
        == 0
    )
    assert read_manifest(tmp_path / "out").config["limit"] == 7
    code, line = fail(capsys, "verify", "--recipe", recipe, "--out", tmp_path / "verify")
    assert code == 2
    assert "no section 'verify'" in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("colect: {}\n", "unknown section 'colect'; did you mean 'collect'?"),
        ("collect: {sorce: files}\n", "collect: unknown key 'sorce'; did you mean 'source'?"),
        ("collect: [files]\n", "section 'collect' must be a mapping"),
        ("rehearsal: {casses: 3}\n", "rehearsal: unknown key 'casses'; did you mean 'cases'?"),
        ("collect: {}\nreport: {base: evaluate}\n", "report: base: no step 'evaluate'"),
        ("1: 3\n", "unknown section 1"),
        ("collect: 3\n", "section 'collect' must be a mapping"),
        ("collect: {1: 2}\n", "the key 1 must be text"),
        ("collect: {limit: 1, limit: 2}\n", "the key 'limit' is given twice"),
        ("collect: {limit: .inf}\n", "collect: limit: must be a finite number"),
        ("collect: {\n", "broken YAML"),
        ("", "a recipe is a mapping"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, says: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    code, line = fail(capsys, "run", recipe, "--out", tmp_path / "run")
    assert code == 2
    assert says in line
    assert not (tmp_path / "run").exists()


def test_a_field_of_a_step_can_be_given_to_run(
    capsys: pytest.CaptureFixture[str], cases_path: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("collect:\n  source: files\n")
    words = [
        "run",
        str(recipe),
        "--out",
        str(tmp_path / "run"),
        "--collect.limit",
        "1",
        "--collect.input",
        str(cases_path),
    ]
    assert run_command(words) == 0
    assert read_manifest(tmp_path / "run" / "collect").config["limit"] == 1
    code, line = fail(capsys, *words, "--collect.inputt", "x")
    assert code == 2
    assert "did you mean 'input'?" in line


def test_a_recipe_that_is_missing_and_a_ledger_that_is_none_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert fail(capsys, "run", tmp_path / "nowhere.yaml")[0] == 2
    code, line = fail(capsys, "bill", tmp_path)
    assert code == 2
    assert 'give the --out of "medkd distill"' in line


def test_a_teacher_without_a_key_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    (tmp_path / "questions.jsonl").write_text("{}\n")
    code, line = fail(capsys, "distill", "--input", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert "DEEPSEEK_API_KEY" in line
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_cannot_start_is_refused_before_it_leaves_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--collect.input", str(tmp_path / "none.json"), "--detach"]
    code, line = fail(capsys, "run", "own-cases", *flags)
    assert code == 2
    assert line.endswith("none.json: no such file; check --collect.input")


def test_behind_a_price_the_command_that_pays_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [question.model_dump_json() for question in make_questions(2)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    words = ["distill", "--input", str(tmp_path), "--out", str(tmp_path / "out")]
    assert run_command([*words, "--dry-run"]) == 0
    assert f"next: medkd {' '.join(words)}\n" in capsys.readouterr().out


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, line = fail(
            capsys, "mock-servers", "--site-port", str(port), "--teacher-port", "0", "--cases", "1"
        )
    assert code == 2
    assert str(port) in line


def test_a_full_disk_stops_the_command_with_exit_3_and_nothing_half_written(tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    write_records(
        cases / "raw_cases.jsonl",
        (RawCase(id=f"a:{n}", source="a", sections={"主诉": "发热" * 500}) for n in range(100)),
    )
    command = f'ulimit -f 64; exec "{sys.executable}" -m medkd collect --source files --input "{cases}" --out "{tmp_path / "out"}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "the disk is full; free some space and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.json"]
    assert read_manifest(tmp_path / "out").state == "stopped"
    again = subprocess.run(
        command.partition("exec ")[2], shell=True, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr


def test_an_interrupted_command_exits_with_3_in_one_line() -> None:
    running = start("mock-servers", "--site-port", "0", "--teacher-port", "0", "--cases", "2")
    assert running.stdout is not None
    line = running.stdout.readline()
    assert "case site http://127.0.0.1:" in line
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 3
    assert (
        errors.strip()
        == "error: interrupted; what was done is kept, the same command continues from there"
    )


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_while_it_loads_ends_in_one_line(
    tmp_path: Path, sign: signal.Signals
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'medkd.pipeline': os.kill(os.getpid(), int(os.environ['SIGN']))\n"
        "sys.meta_path.insert(0, Stop())\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    running = start("runs", env={**os.environ, "PYTHONPATH": path, "SIGN": str(int(sign))})
    out, errors = running.communicate()
    assert (running.returncode, out) == (3, "")
    assert errors == "error: interrupted before anything was done; run the command again\n"


def test_a_command_that_is_terminated_keeps_what_was_done_and_says_so(tmp_path: Path) -> None:
    running = start("mock-servers", "--site-port", "0", "--teacher-port", "0", "--cases", "2")
    assert running.stdout is not None
    running.stdout.readline()
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 3
    assert errors.startswith("error: terminated; what was done is kept")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "fault",
    [
        KeyError("x"),
        ValueError("two\nlines and \x1b[31mcolour"),
        RecursionError("too deep"),
        UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"),
        AssertionError(),
        ImportError("cannot import name 'x' from 'medkd.core'"),
    ],
)
def test_a_fault_of_medkd_is_one_line_with_a_log_and_exit_1(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: Exception,
) -> None:
    def fail_within(path: object) -> None:
        raise fault

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("medkd.distill.bill.bill", fail_within)
    words = ["bill", "https://me:se/secret@host/x"]
    assert run_command(words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "\x1b" not in error
    assert error.startswith("error: a fault in medkd at test_cli.py:")
    assert "report it to the maintainers" in error
    [log] = (tmp_path / "medkd" / "faults").iterdir()
    assert str(log) in error
    assert log.stat().st_mode & 0o777 == 0o600
    content = log.read_text(encoding="utf-8")
    assert "fail_within" in content
    assert "secret" not in content
    assert __version__ in content


def test_a_fault_whose_log_cannot_be_written_is_still_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("medkd.distill.bill.bill", lambda path: 1 / 0)
    assert run_command(["bill", "x"]) == 1
    assert "the details could not be written" in capsys.readouterr().err


def test_a_former_name_of_a_command_works_with_one_line_of_notice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["rehearse", "--help"]) == 0
    said = capsys.readouterr()
    assert said.err == "notice: medkd rehearse is now called mock-servers\n"
    assert "--teacher-port" in said.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seed", "-1"], "seed: must be at least 0"),
        (["--seed", "9" * 30], "seed: "),
        (["--bare-share", "nan"], "bare_share: must be"),
        (["--bare-share", "inf"], "bare_share: must be"),
        (["--bare-share", "1e400"], "bare_share: must be"),
        (["--seed", "²"], "--seed: must be a whole number"),
        (["--take", "a\udce9=1"], "take: must be UTF-8"),
        (["--input", "/dev/null"], "is a pipe or a device"),
        (["--input", "/" + "a" * 5000], "the path is too long"),
        (["--out", "/dev/null/x"], "file, not a directory|is a file|is no directory|not a dir"),
    ],
)
def test_values_that_no_stage_can_use_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], says: str
) -> None:
    rows = tmp_path / "rows.json"
    write_json(rows, [{"instruction": "a", "input": "b", "output": "c"}])
    given = {"--input": str(rows), "--out": str(tmp_path / "out")} | {words[0]: words[1]}
    code, line = fail(capsys, "merge", *(word for pair in given.items() for word in pair))
    assert code == 2
    assert re.search(says, line)


RISKS = [
    ("distill: {teacher: deepseek, base_url: 'http://evil.example/v1'}", "to this address"),
    ("distill: {base_url: 'http://127.0.0.1.evil.example'}", "to this address"),
    ("distill: {base_url: 'http://[::1'}", "to this address"),
    ("distill: {base_url: 'http://127.0.0.1:1/v1,http://evil.example/v1'}", "to this address"),
    ("distill: {base_url: ['http://127.0.0.1:1/v1', 'http://evil.example']}", "to this address"),
    ("distill: {providers: mine.yaml}", "names keys of this machine"),
    ("verify: {base_url: 'https://evil.example'}", "to this address"),
    ("reinforce: {judge: 'https://evil.example'}", "to this address"),
    ("evaluate: {endpoint: 'https://evil.example'}", "to this address"),
    ("evaluate: {judge: 'https://evil.example'}", "to this address"),
    ("train: {teacher_url: 'https://evil.example'}", "to this address"),
]


@pytest.mark.parametrize(("content", "says"), RISKS)
def test_a_recipe_that_sends_keys_needs_a_word_of_consent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, says: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    out = ["--out", str(tmp_path / "out")]
    code, line = fail(capsys, "run", recipe, *out)
    assert code == 2
    assert says in line
    assert "--trust-recipe" in line
    stage = content.partition(":")[0].partition("-")[0]
    assert says in fail(capsys, stage, "--recipe", recipe, *out)[1]
    allowed = fail(capsys, stage, "--recipe", recipe, "--trust-recipe", *out)[1]
    assert "--trust-recipe" not in allowed


@pytest.mark.parametrize(
    "content",
    [
        "evaluate: {endpoint: deepseek}",
        "distill: {base_url: 'http://127.0.0.1:8000/v1', teacher: custom}",
        "distill: {base_url: 'http://[::1]:8000/v1'}",
        "distill: {base_url: ['http://127.0.0.1:1/v1', 'http://localhost:2/v1']}",
    ],
)
def test_a_recipe_without_risk_needs_none(tmp_path: Path, content: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    check_consent(recipe, read_recipe(recipe))


def test_a_reader_that_leaves_is_no_failure() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "medkd", "--help"],
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write_end)
    assert done.stderr == ""


def test_without_the_training_side_the_package_to_install_is_named(
    tmp_path: Path, random_model_dir: Path, merged_dir: Path
) -> None:
    words = [
        "train",
        "--model",
        str(random_model_dir),
        "--input",
        str(merged_dir),
        "--out",
        str(tmp_path / "out"),
    ]
    script = f"import sys; sys.modules['torch'] = None; from medkd.cli.app import run_command; sys.exit(run_command({words!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "medkd[train]" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="what is settled is glibc's")
def test_memory_that_is_freed_stays_in_the_process_once_it_is_settled_for_torch() -> None:
    code = (
        "import ctypes, sys\n"
        "from medkd.cli.app import configure_for_torch\n"
        "if len(sys.argv) > 1: configure_for_torch()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]\n"
        "libc.free(libc.malloc(50_000_000))\n"
        "class Info(ctypes.Structure): _fields_ = [('arena', ctypes.c_size_t), ('rest', ctypes.c_size_t * 9)]\n"
        "libc.mallinfo2.restype = Info\n"
        "print(libc.mallinfo2().arena)\n"
    )
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    held = [
        int(
            subprocess.run(
                [sys.executable, "-c", code, *given],
                env=plain,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for given in ([], ["settled"])
    ]
    assert held[0] < 50_000_000 < held[1]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits of memory are set as on Linux"
)
def test_a_library_that_memory_has_no_room_for_is_one_line() -> None:
    little = (
        "import resource, sys; from medkd.cli.app import run_command; import medkd.train.doctor\n"
    )
    little += "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    little += "resource.setrlimit(resource.RLIMIT_AS, (held + 60_000_000, held + 60_000_000)); sys.exit(run_command(['doctor', '--model', 'medkd:tiny']))"
    done = subprocess.run(
        [sys.executable, "-c", little], capture_output=True, text=True, check=False
    )
    advice = "lower --batch-size or --max-length and run the same command again"
    assert (done.returncode, done.stderr) == (3, f"error: out of memory; {advice}\n")


def test_tasks_and_recipes_are_listed_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["tasks"]) == 0 and run_command(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("open-question", "multiple-choice", "own-cases"))
    assert run_command(["tasks", "copy", "diagnosis", "tcm.yaml"]) == 0
    assert load_task(tmp_path / "tcm.yaml").name == "tcm"
    assert run_command(["recipes", "copy", "own-cases"]) == 0
    assert "student: medkd:tiny" in (tmp_path / "own-cases.yaml").read_text()
    assert run_command(["recipes", "copy", "own-cases"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run_command(["tasks", "show", "diagnosi"]) == 2
    assert "did you mean 'diagnosis'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_has_three_examples_that_parse_and_a_page(name: str) -> None:
    told = read_help(name)
    assert len(told["examples"]) == 3 and (ROOT / "docs" / "en" / f"{told['page']}.md").exists()
    for line in told["examples"]:
        words = shlex.split(line)[1:]
        words = words[: words.index(">")] if ">" in words else words
        build_app(words, Texts("en")).parse_args(words, exit_on_error=False, print_error=False)


def test_a_help_leads_to_a_page_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["collect", "--help"]) == 0
    assert Path(capsys.readouterr().out.strip().rpartition("More: ")[2]).is_file()
    installed = tmp_path / INSTALLED_DOCS / "zh"
    (installed.parent / "en").mkdir(parents=True)
    monkeypatch.setattr("medkd.__file__", str(tmp_path / "lib/python/site-packages/medkd/a.py"))
    monkeypatch.setattr("medkd.cli.flags.get_path", lambda name: str(tmp_path))
    assert run_command(["collect", "--help", "--lang", "zh"]) == 0
    assert f"更多：{INSTALLED_DOCS}/zh/collect.md" in capsys.readouterr().out


def test_the_first_fields_are_shown_and_all_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--model" in shown and "--lora-rank" not in shown and "--help-all" in shown
    for name in STAGES:
        fields = STAGES[name].load().Config.model_fields
        first = read_help(name)["first"]
        needed = {field for field, info in fields.items() if info.is_required()}
        assert needed <= {*first} <= fields.keys() and len(first) == 5, name


def test_all_missing_flags_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = fail(capsys, "train", "--epochs", "1")
    assert code == 2
    assert line.startswith("medkd train: out, model, input are missing; add --out, --model")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_completes_commands_and_fields(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "deidentify" in script and "min-grounded" in script


def list_texts() -> set[str]:
    """List the texts of the command line that a person reads in their language."""
    found = {RUN, STAGE, LOOK, MACHINE, *(command.summary for command in COMMANDS.values())}
    found |= {said for _, said in BEGINNINGS} | {
        RECIPE_HELP,
        TRUST_HELP,
        DETACH_HELP,
        *PARTS,
    }
    configs = [StageConfig]
    for command in COMMANDS.values():
        module, _, function = command.place.partition(":")
        loaded = importlib.import_module(module)
        if function:
            doc = getattr(loaded, function).__doc__.partition("\n    Parameters\n")[2]
            parts = re.split(r"(?m)^( {4}\w.*\n)", doc)[2::2]
            found |= {" ".join(part.split()) for part in parts}
        elif command.group != STAGE:
            configs.append(loaded.Config)
    found |= {describe(field) for config in configs for field in config.model_fields.values()}
    found |= {load_task(task).about for task in SHIPPED}
    found |= {describe_recipe(path) for path in list_recipes()}
    for path in [*(ROOT / "src/medkd/cli").glob("*.py"), ROOT / "src/medkd/core/stage_output.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".of", "say")):
                found |= {a.value for a in node.args[1:2] if isinstance(a, ast.Constant)}
    return found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tasks"], "multiple-choice   choice     考试选择题"),
        (["recipes"], "medkd run 名称 运行一个配方"),
        (["doctor", "--device", "cpu"], "机器：处理器，"),
        (["doctor", "--gpu", "3x24"], "规划：3 x 24 GiB"),
        (["runs"], "没有；用 --detach 启动一个"),
    ],
)
def test_what_a_command_prints_is_in_the_language_that_was_asked_for(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert run_command([*arguments, "--lang", "zh"]) == 0
    assert said in capsys.readouterr().out
    assert run_command(arguments) == 0
    assert not re.search("[\u4e00-\u9fff]", capsys.readouterr().out)


def test_the_line_that_ends_a_stage_gives_its_counts_and_reasons_in_chinese() -> None:
    counts = Counts(read=640, kept=635, dropped={"contaminated": 5})
    manifest = Manifest(stage="merge", config={}, counts=counts)
    assert manifest.describe_counts() == "640 in, 635 kept, 5 contaminated"
    with speak("zh"):
        assert manifest.describe_counts() == "读入 640，保留 635，5 与测试题重合"


def test_the_command_line_speaks_chinese_and_nothing_is_left_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {key[4:] for key in load_catalogue("zh") if key.startswith("cli\x04")}
    assert own == list_texts()
    assert run_command(["--help", "--lang", "zh"]) == 0
    assert "研究软件" in capsys.readouterr().out
    assert run_command(["train", "--lang", "zh"]) == 2
    assert capsys.readouterr().err.startswith(
        "错误：medkd train：缺少 out, model, input；加上 --out"
    )
    assert run_command(["train", "--epochs", "x", "--lang=zh"]) == 2
    assert capsys.readouterr().err.startswith(
        "错误：medkd train：--epochs：须为数字（得到 'x'）；见"
    )
    assert run_command(["train", "--epoch", "1", "--lang=zh"]) == 2
    assert capsys.readouterr().err.startswith(
        "错误：medkd train：--epoch：没有这个选项；是不是 '--epochs'？"
    )
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert run_command(["merge", "--help"]) == 0
    assert "必填" in capsys.readouterr().out
    assert run_command(["demo", "--help"]) == 0
    said = capsys.readouterr().out
    assert "用法：medkd demo" in said and "默认：zh" in said
    assert not re.search("Usage|Parameters|default", said)


def test_without_a_command_one_is_told_where_one_is_and_what_comes_next(
    tmp_path: Path, cases_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([]) == 0
    assert "medkd demo" in capsys.readouterr().out
    out = "runs/my/collect"
    assert (
        run_command(["collect", "--source", "files", "--input", str(cases_path), "--out", out]) == 0
    )
    following = f"next: medkd deidentify --input {out} --out runs/my/deidentify"
    assert following in capsys.readouterr().out
    assert run_command([]) == 0
    said = capsys.readouterr().out
    assert "runs/my: the newest of 1 runs here" in said and following in said
    assert run_command(following.removeprefix("next: medkd ").split()) == 0
    capsys.readouterr()
    assert run_command([]) == 0
    said = capsys.readouterr().out  # both within a second, and the later one counts
    assert said.index("  collect ") < said.index("  deidentify ")
    assert "next: medkd prepare --input runs/my/deidentify" in said


def test_a_model_that_failed_its_proof_is_not_called_a_step_to_repeat(
    tmp_path: Path, cases_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("runs/my/export")
    words = ["collect", "--source", "files", "--input", str(cases_path), "--out", str(out)]
    assert run_command(words) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(
        json.dumps(manifest | {"stage": "export", "state": "stopped"})
    )
    (out / "UNPROVEN").write_text("few\n")
    capsys.readouterr()
    assert run_command([]) == 0
    said = capsys.readouterr().out
    assert "repeat the command" not in said
    assert f"UNPROVEN: {out}/proof.json says why" in said
    assert f"next: medkd chat --model {out}" in said


@pytest.mark.parametrize(
    ("compared", "following"),
    [
        (["runs/my/base", "runs/my/evaluate"], "medkd report runs/my"),
        (["runs/one/evaluate", "runs/two/evaluate"], "medkd report runs/two/evaluate"),
    ],
)
def test_after_a_comparison_the_report_is_of_what_was_compared(
    compared: list[str], following: str
) -> None:
    assert fill_next("compare", {"input": compared, "out": "elsewhere/compare"}) == following


@pytest.mark.parametrize(
    ("asked", "student"),
    [("咳嗽、发热3天", "medkd:tiny"), ("Cough and fever for 3 days", "medkd:tiny-en")],
)
def test_after_a_merge_the_student_reads_the_language_of_the_rows(
    asked: str, student: str, tmp_path: Path
) -> None:
    (tmp_path / "merge").mkdir()
    (tmp_path / "merge/train.jsonl").write_text(json.dumps({"input": asked}) + "\n")
    said = fill_next("merge", {"out": str(tmp_path / "merge")})
    assert said.startswith(f"medkd train --model {student} --input {tmp_path / 'merge'}")


def test_help_in_one_language_leaves_the_next_in_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["demo", "--help", "--lang", "zh"]) == 0
    capsys.readouterr()
    assert run_command(["demo", "--help", "--lang", "en"]) == 0
    assert "Language of cases and questions" in capsys.readouterr().out
