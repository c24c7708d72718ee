"""The stage `export`: one folder that any `transformers` loads, proven to think and to stop.

In: an adapter of `train` and its base. Out: merged weights, tokenizer, chat template with the
thinking prefix, generation config with all stop tokens, card, `Modelfile`, `proof.json`.
Not done here: K-quants, uploading (`export.push`).
"""

import errno
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from medkd.core import thinking
from medkd.core.config import RUNTIME, StageConfig
from medkd.core.errors import InputError, MedkdError, ProofError, Said, from_os_error, is_disk_full
from medkd.core.i18n import tell
from medkd.core.jsonl import resolve_input, write_json, write_text
from medkd.core.progress import make_printable
from medkd.core.records import Message
from medkd.core.stage_output import Manifest, open_stage_output
from medkd.core.statistics import MIN_QUESTIONS, wilson_interval
from medkd.export.gguf import GgufType, check_writable, write_gguf
from medkd.export.push import UNPROVEN, find_base_licence, find_published_name, push, read_target
from medkd.models.chat_template import (
    find_stop_ids,
    find_templates,
    make_messages,
    render,
)
from medkd.models.inspect import explain, find_number_format, read_json
from medkd.models.load import (
    Dtype,
    Hub,
    LoadedModel,
    find_base,
    find_local,
    load_model,
    load_tokenizer,
    open_to_readers,
    resolve_adapter,
    resolve_model,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WRITES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.*",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template.*",
    "additional_chat_templates",
    "modeling_*.py",
    "configuration_*.py",
    "tokenization_*.py",
    "model-*.gguf",
    "proof.json",
    "proof-gguf.json",
    "lineage.json",
    "MODELCARD.md",
    "README.md",
    "Modelfile",
    UNPROVEN,
)
PROOF_SHARE = 0.99
"""Share of the questions that must be thought about and ended."""
_SYSTEM, _USER, _ANSWER = "\u2400", "\u2401", "\u2402"
"""Characters that no template contains, to see what a template puts around each turn."""


class Config(StageConfig):
    """Merge an adapter into its base, write the model folder and prove it."""

    adapter: Annotated[Path | None, RUNTIME] = None
    """Directory of `train`, or an adapter folder; none for a model all of whose weights were
    trained."""
    model: str | None = None
    """Base model; without it, the one that the adapter names. Without an adapter, a directory of
    `train --method full`."""
    evaluation: Annotated[Path | None, RUNTIME] = None
    """Directory of `evaluate`, or its scores.json, whose scores stand on the card."""
    hub: Annotated[Hub, RUNTIME] = "huggingface"
    """Where a model that is only named is fetched from."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest answer of the proof in tokens."""
    gguf: GgufType | None = None
    """Write `model-TYPE.gguf` beside the folder too, for llama.cpp and Ollama, and prove it: f16,
    bf16, q8_0 or q4_0."""
    push: Annotated[str, RUNTIME] = ""
    """Upload the proven folder to hf:OWNER/NAME (Hugging Face) or ms:OWNER/NAME (ModelScope);
    private, with the token of the hub's own login."""
    dry_run: Annotated[bool, RUNTIME] = False
    """Say what --push would upload, and upload nothing."""
    accept_licences: Annotated[bool, RUNTIME] = False
    """Upload a model that learnt from rows whose licence is unknown or does not allow every use."""


def run(config: Config) -> Manifest:
    """Export as configured, and upload where that is asked for; raises ProofError where the model
    does not prove itself."""
    target = read_target(config.push) if config.push else None
    if config.dry_run and target is None:
        raise InputError("--dry-run: says what --push would upload; add --push, or leave it out")
    manifest = _export(config)
    if target is not None:
        push(config.out, target, config.accept_licences, config.dry_run)
    return manifest


def _export(config: Config) -> Manifest:
    from safetensors import SafetensorError

    source, name = _find_source(config)
    folder = resolve_model(name, config.hub)
    if config.gguf:
        check_writable(folder, config.out / f"model-{config.gguf}.gguf", config.gguf)
    kept = read_json(source / "questions.json")
    if not kept or not kept.get("questions"):
        raise InputError(
            '{}: no questions.json to prove the model with; train again with "medkd train"', source
        )
    questions = [str(entry["question"]) for entry in kept["questions"]]
    scores_path = _find_scores(config.evaluation)
    inputs = {
        "adapter": source,
        "model": [folder] if Path(name).is_dir() and folder != source else [],
        "evaluation": [scores_path] if scores_path else [],
    }
    with open_stage_output(
        "export", config, inputs, WRITES, libraries=["torch", "transformers", "peft"]
    ) as space:
        if space.is_finished:
            return space.manifest
        lineage = read_json(source / "lineage.json") or {
            "base_model": name,
            "target": "reasoned",
            "rows": "unknown",
        }
        lineage["scores"] = _read_scores(scores_path)
        place = find_local(str(lineage.get("base_model") or name))
        lineage["base_licence"] = find_base_licence(place if place.is_dir() else folder)
        adapter = source if source != folder else None
        try:
            loaded = export(name, adapter, space.directory, config.hub)
        except (OSError, SafetensorError) as error:
            raise explain_failed_write(error, space.directory) from error
        proof = prove(space.directory, questions, config.max_tokens) | {
            "unseen": bool(kept.get("unseen"))
        }
        write_papers(space.directory, loaded, lineage, proof, config.gguf)
        space.read(len(questions))
        space.manifest.counts.kept = min(proof["n_thinking"], proof["n_stopped"])
        space.manifest.facts = {
            key: proof[key]
            for key in ("n", "n_thinking", "n_stopped", "passed", "finding", "unseen")
        }
        if not proof["passed"]:
            raise explain_unproven(space.directory, proof)
        if config.gguf:
            space.manifest.facts["gguf"] = hand_over_gguf(
                space.directory, config.gguf, loaded.tokenizer, questions, config.max_tokens
            )
        _show(cast(list[dict[str, Any]], proof["answers"])[0])
        return space.manifest


def explain_unproven(out: Path, proof: Mapping[str, Any]) -> ProofError:
    advice = Said("train longer or on more rows")
    if not proof["n"]:
        advice = Said("mend that, for memory with a lower --max-tokens, and run it again")
    elif proof["n"] < MIN_QUESTIONS:
        advice = Said("keep {} rows for validation and train again", MIN_QUESTIONS)
    return ProofError("{}: {}, {}; see proof.json, {}", out, UNPROVEN, proof["finding"], advice)


def _find_source(config: Config) -> tuple[Path, str]:
    """Find the folder that `train` left, and the model that it belongs to or is."""
    if config.adapter is None:
        if config.model is None:
            raise InputError(
                "medkd export: nothing to export; give --adapter, or as --model a directory "
                "of `train --method full`"
            )
        return resolve_model(config.model, config.hub), config.model
    adapter = resolve_adapter(config.adapter)
    name = config.model or find_base(adapter)
    if not name:
        raise InputError("{}: does not say what it was trained on; give --model", adapter)
    return adapter, name


def _find_scores(evaluation: Path | None) -> Path | None:
    return (
        resolve_input(evaluation, "scores.json", made_by="evaluate")
        if evaluation is not None
        else None
    )


def _read_scores(path: Path | None) -> dict[str, str]:
    """Read the scores that are rates or counts, with their intervals, as text."""
    scores = (read_json(path) if path else None) or {}
    intervals = scores.get("intervals") or {}
    return {
        name: f"{value:.4g}"
        + (f" [{intervals[name][0]:.4g}, {intervals[name][1]:.4g}]" if name in intervals else "")
        for name, value in scores.items()
        if isinstance(value, int | float)
    }


def explain_failed_write(error: Exception, out: Path) -> MedkdError:
    """Say on one line why the folder could not be written; safetensors tells a full disk in words
    of its own."""
    if isinstance(error, OSError):
        return from_os_error(error, out)
    if is_disk_full(error):
        return from_os_error(OSError(errno.ENOSPC, "full"), out)
    return InputError(
        "{}: the weights cannot be written ({}); begin again with --overwrite", out, explain(error)
    )


def export(
    name: str,
    adapter: Path | None,
    out: Path,
    hub: Hub = "huggingface",
) -> LoadedModel:
    """Merge and write the folder in the base's own number format; returns what was written.

    PEFT adds an adapter in float32 and rounds once, whatever the format of the base:
    `bench/export.py` finds a merge in float32 to give the same weights to the bit, in twice the
    memory. The chat template is the adapter's with the thinking prefix, whatever it was trained
    for: an exported model thinks.
    """
    folder = resolve_model(name, hub)
    dtype = cast(Dtype, find_base_format(folder))
    loaded = load_model(name, adapter, device="cpu", dtype=dtype, hub=hub)
    model, tokenizer = cast(Any, loaded.model), load_tokenizer(folder, adapter)
    tokenizer.chat_template = find_templates(tokenizer).thinking
    stop_ids = find_stop_ids(tokenizer, model.generation_config)
    model.generation_config.eos_token_id = stop_ids
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id, model.config.pad_token_id = stop_ids[0], tokenizer.pad_token_id
    model.save_pretrained(out)
    open_to_readers(out)
    tokenizer.save_pretrained(out)
    return LoadedModel(model, tokenizer)


def find_base_format(folder: Path) -> str:
    """Find the number format to write a model in: its own, but for one whose weights were trained
    in float32 that of its base, or bfloat16 where the base is not on this machine."""
    own = find_number_format(folder)
    base = str((read_json(folder / "lineage.json") or {}).get("base_model") or "")
    if own != "float32" or not base:
        return own
    place = find_local(base)
    return find_number_format(place) if (place / "config.json").exists() else "bfloat16"


def hand_over_gguf(
    out: Path,
    kind: GgufType,
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[str],
    max_tokens: int,
) -> dict[str, Any]:
    """Write the folder as a GGUF file and prove it with llama.cpp alone; raises ProofError where it
    does not think and stop as the folder does."""
    path = out / f"model-{kind}.gguf"
    try:
        write_gguf(out, path, kind, tokenizer)
    except OSError as error:
        raise from_os_error(error, path) from error
    proof = prove(path, questions, max_tokens)
    write_json(out / "proof-gguf.json", proof)
    if not proof["passed"]:
        write_text(out / UNPROVEN, f"{path.name}: {proof['finding']}\n")
        raise ProofError(
            "{}: {}, {}; see proof-gguf.json, or try --gguf f16", path, UNPROVEN, proof["finding"]
        )
    if kind in ("f16", "bf16"):
        command = ("llama-quantize", str(path), str(out / "model-Q4_K_M.gguf"), "Q4_K_M")
        tell("smaller, by llama.cpp's own tool: {}", shlex.join(command))
    return {"file": path.name, "bytes": path.stat().st_size} | {
        key: proof[key] for key in ("n", "n_thinking", "n_stopped", "passed")
    }


def prove(model: Path, questions: Sequence[str], max_tokens: int) -> dict[str, Any]:
    """Ask a folder, or a GGUF file, bare questions in a fresh process with plain `transformers`, or
    llama.cpp; judge what comes back."""
    library = "llama.cpp" if model.is_file() else "transformers"
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "questions.json", Path(folder) / "answers.json"
        write_json(asked, list(questions))
        script = Path(__file__).with_name("proof.py")
        given = (script, model.resolve(), asked, max_tokens, answered)
        # Neither the network nor MedKD's own folder is within its reach.
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        done = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-I", *map(str, given)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return judge([]) | {
                "finding": Said("plain {} could not use it ({})", library, last[:200])
            }
        return judge(json.loads(answered.read_text(encoding="utf-8")))


def judge(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the answers that close their thinking before an answer, and those that end by
    themselves."""
    for answer in answers:
        answer["thinks"] = thinking.is_well_formed(str(answer["text"]))
    n_thinking = sum(bool(answer["thinks"]) for answer in answers)
    n_stopped = sum(bool(answer["stopped"]) for answer in answers)
    n = len(answers)
    enough = PROOF_SHARE * n
    finding = Said("{} of {} answers think, {} stop", n_thinking, n, n_stopped)
    if is_short := n < MIN_QUESTIONS:
        finding = Said("few: {}; too few questions, a proof takes {}", finding, MIN_QUESTIONS)
    return {
        "passed": not is_short and n_thinking >= enough and n_stopped >= enough,
        "finding": finding,
        "n": n,
        "n_thinking": n_thinking,
        "n_stopped": n_stopped,
        "intervals": {
            "thinking": wilson_interval(n_thinking, n),
            "stopped": wilson_interval(n_stopped, n),
        },
        "answers": answers,
    }


def write_papers(
    out: Path,
    loaded: LoadedModel,
    lineage: Mapping[str, Any],
    proof: Mapping[str, Any],
    gguf: GgufType | None = None,
) -> None:
    """Write proof, card and Modelfile; mark a folder that failed its proof, and unmark one that
    passed."""
    write_json(out / "proof.json", proof)
    write_json(out / "lineage.json", lineage)
    card = write_card(out.resolve().name, lineage, proof)
    write_text(out / "MODELCARD.md", card)
    write_text(out / "README.md", card)
    tokenizer = loaded.tokenizer
    stops = cast(
        list[str],
        tokenizer.convert_ids_to_tokens(find_stop_ids(tokenizer, loaded.model.generation_config)),
    )
    write_text(out / "Modelfile", write_modelfile(tokenizer, stops, gguf))
    mark = out / UNPROVEN
    if proof["passed"]:
        mark.unlink(missing_ok=True)
    else:
        write_text(mark, f"{proof['finding']}\n")


def write_card(name: str, lineage: Mapping[str, Any], proof: Mapping[str, Any]) -> str:
    """Write the model card; one whose proof failed says so in its title."""
    from jinja2 import Environment, PackageLoader

    base = str(lineage.get("base_model") or "")
    published = find_published_name(base)
    answers = proof["answers"]
    said = str(answers[0]["text"]) if answers else ""
    example = "\n".join(f"    {line}" for line in said.splitlines())  # nothing in it closes a block
    environment = Environment(
        loader=PackageLoader("medkd.export", "."),
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return (
        environment.get_template("card.md.jinja").render(
            name=name,
            base=published or Path(base).name,
            published=published,
            lineage=lineage,
            proof=proof,
            example=example,
        )
        + "\n"
    )


def write_modelfile(
    tokenizer: "PreTrainedTokenizerBase", stops: list[str], gguf: str | None = None
) -> str:
    """Write a Modelfile whose prompt is the chat template's own, the thinking prefix and a default
    system text included, and that takes the likeliest token as the proof does, without Ollama's
    own repetition penalty.

    Covers conversations in which user and assistant take turns. An answer that is to be gone on
    with gets nothing behind it.
    """
    bare, _, end = render(tokenizer, make_messages(_USER)).partition(_USER)
    # The part before the first question depends on the system text, the parts between turns do not.
    system = Message(role="system", content=_SYSTEM)
    opening = render(tokenizer, [system, *make_messages(_USER)]).partition(_USER)[0]
    before_system, _, behind_system = opening.partition(_SYSTEM)
    answered = [
        *make_messages(_USER),
        Message(role="assistant", content=_ANSWER),
        *make_messages(_USER),
    ]
    between = render(tokenizer, answered).removeprefix(bare + _USER).removesuffix(_USER + end)
    before_answer, _, behind_answer = between.partition(_ANSWER)
    template = (
        f"{{{{ if .System }}}}{before_system}{{{{ .System }}}}{behind_system}"
        f"{{{{ else }}}}{bare}{{{{ end }}}}"
        "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        f'{{{{ if eq .Role "user" }}}}{{{{ .Content }}}}{{{{ if $last }}}}{end}{{{{ end }}}}'
        f'{{{{ else if eq .Role "assistant" }}}}{before_answer}{{{{ .Content }}}}'
        f"{{{{ if not $last }}}}{behind_answer}{{{{ end }}}}"
        "{{ end }}{{ end }}"
    )
    lines = [
        f"FROM ./model-{gguf}.gguf" if gguf else "FROM .",
        f'TEMPLATE """{template}"""',
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1.0",
    ]
    return "\n".join(lines) + "\n"


def _show(answer: Mapping[str, Any]) -> None:
    tell(
        "asked, without any task: {}\nanswered, and stopped by itself:\n{}",
        make_printable(str(answer["question"])[:200]),
        make_printable(str(answer["text"])),
    )
