"""The training itself, from a prepared job to the folder that `export` takes: load, train, save,
tell.

In: a job that passed its pre-flight. Out: `adapter/` or `model/`, and the facts of the manifest.
Not done here: the pre-flight. This module imports torch, transformers, trl and peft: import it
inside functions only.
"""

import resource
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from trl.trainer.sft_trainer import SFTTrainer

from medkd.core.errors import MedkdError, StoppedError, from_os_error, is_disk_full
from medkd.core.progress import Bar
from medkd.core.stage_output import StageOutput
from medkd.models.chat_template import add_thinking_prefix
from medkd.models.load import WHOLE_MODEL
from medkd.train import launch
from medkd.train.checkpoints import find_checkpoint, read_step
from medkd.train.preflight import compare_packed
from medkd.train.report import write_report
from medkd.train.save import choose_questions, save_papers, save_weights, trace_lineage
from medkd.train.sft import (
    choose_packing,
    count_steps_of,
    make_dataset,
    make_lora_config,
    make_trainer,
    make_trainer_config,
)
from medkd.train.stage import (
    ADAPTER,
    LEARNING_RATES,
    STAGE_KEYS,
    Config,
    Job,
    choose_numbers,
    make_val_rows,
    say_what_is_trained,
)
from medkd.train.student import load_student
from medkd.train.trainer_config import explain_refusal
from medkd.train.watch import Interruption, Leaving, MetricsWriter, SampleWriter


def work(config: Config, job: Job, place: launch.Place, space: StageOutput | None) -> None:
    """Train and save; only the main process has a workspace, writes and speaks."""
    checkpoint = launch_point(config.out / "checkpoints", place, job.device)
    step = read_step(checkpoint) if checkpoint else 0
    model = load_student(
        job.folder,
        config.model,
        config.weights,
        choose_numbers(config, job.device),
        job.device,
        place.local_rank,
        config.trust_remote_code,
    )
    packs = choose_packing(config.trainer.get("packing"), job.device)
    if packs and (findings := compare_packed(model, job.flight.rows)):
        job.flight.findings.extend(findings)
        packs = False
    lengths = say_what_is_trained(config, job) if place.is_main else {}
    val_rows = make_val_rows(config, job)
    train_set = make_dataset(job.flight.rows, config.max_length if packs else None)
    settings = make_settings(config, job.device, packs)
    extra = {key: value for key, value in config.trainer.items() if key not in STAGE_KEYS}
    trainer_config = make_trainer_config(
        settings, config.out / "checkpoints", len(train_set), job.device, bool(val_rows), extra
    )
    lora = (
        None
        if config.method == "full"
        else make_lora_config(config.lora_rank, job.flight.untrained_ids, job.skeleton)
    )
    val_set = make_dataset(val_rows) if val_rows else None
    trainer = make_trainer(
        model,
        job.tokenizer,
        train_set,
        val_set,
        trainer_config,
        lora,
        config.trainer.get("early_stopping_patience"),
    )
    started = time.monotonic()
    try:
        shown = (
            Bar("train", count_steps_of(trainer_config, len(train_set)), "steps")
            if place.is_main
            else nullcontext()
        )
        with shown as bar, Interruption() as interruption:
            metrics = MetricsWriter(config.out / "metrics.jsonl", bar, step) if bar else None
            for callback in [
                metrics,
                _make_sampler(config, job, trainer_config, step) if place.is_main else None,
            ]:
                if callback is not None:
                    trainer.add_callback(callback)
            trainer.add_callback(interruption)
            if launch.is_launched():
                trainer.add_callback(Leaving())
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if interruption.is_wanted:
                raise KeyboardInterrupt
        save(trainer, config, job, place)
    except (OSError, MemoryError, RuntimeError, SafetensorError) as error:
        raise explain(error, config.out) from error
    except ValueError as error:
        if not config.trainer or trainer.state.global_step > step:
            raise
        raise explain_refusal(
            error
        ) from error  # what only the optimizer finds wrong, before the first step
    finally:
        if space is not None:
            # What ended the run is what its user must hear, not that no page can be drawn of it any
            # more.
            with (
                suppress(MedkdError, OSError, ImportError, MemoryError)
                if sys.exception()
                else nullcontext()
            ):
                write_report(space.directory, config.model, job.flight, lengths)
    if space is not None and metrics is not None:
        spent = max(time.monotonic() - started, 1e-9)
        space.manifest.counts.kept = len(job.flight.rows)
        space.manifest.facts = {
            "lengths": lengths,
            "repairs": job.flight.repairs,
            "findings": [finding.tell() for finding in job.flight.findings],
            "resumed_from_step": step,
            "tokens_per_second": round(count_tokens(trainer, step, lengths["tokens"]) / spent),
            "expected_s": metrics.expected_s,
            "peak_memory_gib": round(read_peak_memory() / 2**30, 2),
            "packed": packs,
            "processes": place.n_processes,
            "dtype": str(choose_numbers(config, job.device)).removeprefix("torch."),
            "device": job.device,
            "steps": trainer.state.global_step,
            **last_losses(trainer),
        }


def _make_sampler(config: Config, job: Job, trainer_config: Any, step: int) -> SampleWriter | None:
    """Make what asks the student at each save, unless its weights are shared out among
    processes."""
    if trainer_config.deepspeed_plugin or str(
        trainer_config.distributed_state.distributed_type
    ).endswith("FSDP"):
        return None
    asked = job.val_examples or job.examples
    return SampleWriter(
        config.out / "samples.jsonl", job.tokenizer, job.flight.plain_template, asked, step
    )


def launch_point(checkpoints: Path, place: launch.Place, device: str) -> Path | None:
    """Find the checkpoint that all processes go on from; torn ones are deleted by one process
    alone."""
    found = find_checkpoint(checkpoints) if place.is_main else None
    return launch.agree(found, device) if place.n_processes > 1 else found


def make_settings(config: Config, device: str, packs: bool) -> dict[str, Any]:
    """Say in TRL's words what the stage's own fields say."""
    return {
        "num_train_epochs": config.epochs,
        "learning_rate": config.learning_rate or LEARNING_RATES[config.weights],
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "seed": config.seed,
        "bf16": choose_numbers(config, device) == torch.bfloat16,
        "padding_free": packs,
    }


def save(trainer: SFTTrainer, config: Config, job: Job, place: launch.Place) -> None:
    """Write the folder that serving and `export` take."""
    final = config.out / (WHOLE_MODEL if config.method == "full" else ADAPTER)
    temporary = save_weights(trainer, final, config.model, place.is_main)
    if place.is_main:
        questions, lineage = (
            choose_questions(job.examples, job.val_examples),
            trace_lineage(job.examples, config.model, config.target),
        )
        plain = job.flight.plain_template
        template = add_thinking_prefix(plain) if config.target == "reasoned" else plain
        save_papers(trainer, temporary, final, template, job.flight.stop_ids, questions, lineage)


def explain(error: BaseException, out: Path, limit: str = "--max-length") -> BaseException:
    """Turn what can happen in a long training into one line with the next step; what is a bug stays
    itself."""
    if isinstance(error, MedkdError):
        return error
    if is_disk_full(error):
        return StoppedError(
            f"{out}: the disk is full; free some space and run the same command again, the last whole checkpoint is kept"
        )
    if isinstance(error, OSError):
        return from_os_error(error, out)
    if (
        isinstance(error, MemoryError)
        or "out of memory" in str(error).lower()
        or "allocate memory" in str(error)
    ):
        advice = f"lower --batch-size or {limit}, or give --trainer.gradient-checkpointing true"
        return StoppedError(
            f"{out}: out of memory; {advice}, and run again with --resume: the last checkpoint is kept"
        )
    return error


def count_tokens(trainer: SFTTrainer, resumed_step: int, n_tokens: int) -> float:
    """Count the tokens, padding apart, that this call trained on."""
    done = trainer.state.epoch or 0.0
    return n_tokens * done * (1 - resumed_step / max(trainer.state.global_step, 1))


def read_peak_memory() -> int:
    """Read the most memory this process held, in bytes: of the GPU where there is one."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def last_losses(trainer: SFTTrainer) -> dict[str, float]:
    """Give the last losses, and the best on validation."""
    last: dict[str, float] = {}
    for line in trainer.state.log_history:
        last |= {key: float(cast(Any, line)[key]) for key in ("loss", "eval_loss") if key in line}
    best = trainer.state.best_metric
    return last | (
        {"best_eval_loss": float(best), "best_step": int(trainer.state.best_global_step or 0)}
        if best is not None
        else {}
    )
