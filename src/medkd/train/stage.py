"""The stage `train`: a student learns from its teacher's reasoning, or from bare answers.

In: `train.jsonl` of `merge` (and `val.jsonl` beside it). Out: `adapter/` (or `model/`: weights,
tokenizer, template, stop tokens, unseen questions, lineage), `checkpoints/`, `metrics.jsonl`,
`samples.jsonl`, `report.html`. Not done here: merging the adapter (`export`), reinforcement.
"""

import sys
from pathlib import Path

from medkd.core.errors import InputError
from medkd.core.stage_output import Manifest, StageOutput, read_manifest
from medkd.models.inspect import read_model_shape
from medkd.models.load import choose_device, load_libraries, load_tokenizer, resolve_model
from medkd.train.checkpoints import open_training
from medkd.train.config import (
    WRITES,
    Config,
    ProcessInfo,
    broadcast,
    choose_training_dtype,
    read_process_info,
)
from medkd.train.memory import (
    Workload,
    estimate_disk,
    find_too_little_disk,
    find_too_little_memory,
    measure_machine,
)
from medkd.train.onpolicy import distil_on_policy
from medkd.train.preflight import examine, refuse
from medkd.train.sft import Job, train
from medkd.train.tokenize import find_inputs, read_examples


def run(config: Config) -> Manifest:
    """Train as configured; goes on from the newest whole checkpoint of a run that was killed."""
    if config.method == "on-policy":
        return distil_on_policy(config)
    if config.adapter or config.teacher_model:
        flag = "--adapter" if config.adapter else "--teacher-model"
        raise InputError(
            "{}: only --method on-policy takes one, --method {} trains from the base; leave it out",
            flag,
            config.method,
        )
    process = read_process_info()
    if not process.is_main:
        return _follow(config, process)
    train_path, val_path = find_inputs(config.input)
    folder = resolve_model(config.model, config.hub, config.trust_remote_code)
    inputs = {
        "input": train_path,
        "validation": val_path,
        "model": folder if Path(config.model).is_dir() else None,
    }
    with open_training("train", config, inputs, WRITES) as output:
        if process.n_processes > 1:
            broadcast(output.is_finished, choose_device(config.device))
        if output.is_finished:
            return output.manifest
        job = prepare(config, process, output)
        refuse(job.preflight.findings, config.model)
        output.drop_all(job.preflight.dropped)
        train(config, job, process, output)
        return output.manifest


def _follow(config: Config, process: ProcessInfo) -> Manifest:
    """Train beside the main process, which alone writes and prints: there is nothing finished to
    report here."""
    if not broadcast(None, choose_device(config.device)):
        job = prepare(config, process)
        refuse(job.preflight.findings, config.model)
        train(config, job, process, None)
    return read_manifest(config.out).model_copy(update={"state": "running"})


def prepare(
    config: Config, process: ProcessInfo | None = None, output: StageOutput | None = None
) -> Job:
    """Read rows, tokenizer and the model's shape, and find whatever is wrong; nothing is loaded
    yet."""
    load_libraries()
    process = process or read_process_info()
    device = choose_device(config.device)
    train_path, val_path = find_inputs(config.input)
    folder = resolve_model(config.model, config.hub, config.trust_remote_code)
    examples, val_examples = read_examples(train_path, output), read_examples(val_path)
    shape = read_model_shape(folder, config.trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=config.trust_remote_code)
    trains_embeddings = config.method == "full"
    preflight = examine(
        folder, shape, examples, tokenizer, config.target, config.max_length, trains_embeddings
    )
    machine = measure_machine(device)
    if device == "cuda" and machine.n_devices > 1 and not process.is_launched:
        print(
            f"train: 1 of {machine.n_devices} GPUs is used; docs/en/train.md says how all are",
            file=sys.stderr,
        )
    longest = max((len(row.input_ids) for row in preflight.rows), default=config.max_length)
    workload = make_workload(config, device, longest, process.n_processes)
    disk = estimate_disk(shape, config.weights, config.lora_rank, workload.weight_bytes)
    preflight.findings.extend(find_too_little_memory(shape, config.weights, workload, machine))
    preflight.findings.extend(find_too_little_disk(disk, config.out))
    return Job(folder, shape, tokenizer, examples, val_examples, preflight, workload, device)


def make_workload(config: Config, device: str, longest: int, n_devices: int) -> Workload:
    """Describe what memory depends on beside the model."""
    return Workload(
        rank=config.lora_rank,
        n_tokens=config.batch_size * min(longest, config.max_length),
        weight_bytes=choose_training_dtype(config, device).itemsize,
        is_checkpointed=bool(config.trainer.get("gradient_checkpointing", device == "cuda")),
        on_gpu=device == "cuda",
        n_devices=n_devices,
    )


__all__ = ["Config", "make_workload", "prepare", "run"]
