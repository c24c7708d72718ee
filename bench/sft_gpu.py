r"""How fast does a model of the true shape of Qwen2.5-7B train on this GPU, and which switch is
worth what? Does it take the memory that `medkd doctor` says?

Random weights, LoRA of rank 16 on all linear layers, full rows of 2,048 tokens, the whole row
learnt: the arithmetic of the real training, none of its data. For each set of switches (attention,
Liger, checkpointing, batch): tokens a second, peak memory, and the share of the FLOPs that a plain
matrix product reaches on the same GPU in the same run.

FLOPs are counted as follows, N being the parameters that multiply (all but the input embeddings), L
layers, d the width of all heads together, s tokens a row. Forward: 2 N a token. Backward through
frozen weights: 2 N more for the gradients of the activations, and nothing for those of the weights,
which LoRA does not need. So 4 N a token. Attention has no weights, hence forward and both gradients
count: 3 * 2 * 2 * L * d * s / 2 = 6 L d s a token, the half for the causal mask. The adapter's own
6 n (n its parameters) is added. What checkpointing computes a second time is not counted: it is no
progress.

    FLOPs a token = 4 N + 6 L d s + 6 n

Goal: at least 55 % of the measured product, and the worked example (62,766 rows x 2 epochs) in
under 4 hours on one H200.

In: a GPU. Out: a table with the GPU's name, and the hours. Without a GPU it says so and measures
nothing; with --tiny it goes through all of it on a tiny shape, on any machine, and its figures mean
nothing.
Run: `.venv/bin/python bench/sft_gpu.py --batches 1 2 4 8`
"""

import argparse
import itertools
import sys
import time
from importlib.util import find_spec
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from medkd.train.doctor import make_shape
from medkd.train.preflight import GIB, Workload, estimate_memory

SHAPE = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
"""Qwen2.5-7B's own config."""
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
ROW_TOKENS = 2048
RANK = 16
N_EXAMPLE_ROWS, N_EXAMPLE_EPOCHS, EXAMPLE_TOKENS = 62766, 2, 1000
"""The worked example; tokens a row are an assumption that the hours are proportional to: give one's
own with --row-tokens."""


class Switches(NamedTuple):
    """One way to run it."""

    attention: str
    liger: bool
    checkpointing: bool
    batch: int


def estimate(switches: Switches) -> float:
    """Return the GiB that `medkd doctor` says the real shape takes."""
    load = Workload(RANK, switches.batch * ROW_TOKENS, 2, switches.checkpointing, on_gpu=True)
    return estimate_memory(make_shape("Qwen2.5-7B"), "lora", load) / GIB


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_product(device: str, size: int, n: int = 30) -> float:
    """Return the FLOPs a second of a plain bfloat16 matrix product: the ceiling here."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    wait(device)
    began = time.perf_counter()
    for _ in range(n):
        a @ b
    wait(device)
    return 2 * size**3 * n / (time.perf_counter() - began)


def count_flops(model, n_adapter: int, n_tokens: int) -> float:
    """Count the FLOPs a token, as the docstring of this file derives them."""
    config = model.config
    n_multiplying = (
        sum(p.numel() for p in model.parameters())
        - n_adapter
        - config.vocab_size * config.hidden_size
    )
    return (
        4 * n_multiplying
        + 6 * config.num_hidden_layers * config.hidden_size * n_tokens
        + 6 * n_adapter
    )


def measure(
    switches: Switches, n_steps: int, shape: dict[str, int], device: str, n_tokens: int
) -> tuple[float, float, float]:
    """Train a few steps through `train.stage`, as `medkd train` does; returns tokens a second, peak
    GiB and FLOPs a token."""
    import tempfile
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    from medkd.models.inspect import ModelShape
    from medkd.models.load import load_tokenizer, shipped_dir
    from medkd.train.config import Config, make_lora_config
    from medkd.train.preflight import TokenizedExample
    from medkd.train.stage import make_dataset, make_trainer, make_trainer_config

    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            Qwen2Config(**shape), dtype=torch.bfloat16, attn_implementation=switches.attention
        )
    model.config.use_cache = False
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(
        shipped_dir()
    )  # any with a pad token: the rows are numbers already
    rows = [
        TokenizedExample(row, row)
        for row in torch.randint(
            10, shape["vocab_size"], (switches.batch * n_steps, n_tokens)
        ).tolist()
    ]
    names = ModelShape(0, [], 0, 0, 0, "model.embed_tokens.weight", "lm_head.weight")
    extra = {
        "bf16": True,
        "gradient_checkpointing": switches.checkpointing,
        "use_liger_kernel": switches.liger,
        "save_strategy": "no",
        "logging_steps": 1000,
    }
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            model="made here",
            input=Path(folder),
            out=Path(folder),
            epochs=1,
            batch_size=switches.batch,
            trainer=extra,
        )
        packs = switches.attention != "sdpa"
        args = make_trainer_config(config, device, len(rows), has_val=False, packs=packs)
        trainer = make_trainer(
            model, tokenizer, make_dataset(rows), None, args, make_lora_config(RANK, names)
        )
        stamps: list[float] = []
        step = trainer.training_step

        def timed(*given, **more):
            wait(device)
            stamps.append(time.perf_counter())
            return step(*given, **more)

        trainer.training_step = timed
        trainer.train()
        wait(device)
    # The first two steps also pay for what is done once.
    spent, n = time.perf_counter() - stamps[2], len(stamps) - 2
    adapted = trainer.model
    n_adapter = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return (
        n * switches.batch * n_tokens / spent,
        torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0,
        count_flops(adapted, n_adapter, n_tokens),
    )


def main() -> None:
    """Measure every combination that fits, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument(
        "--row-tokens",
        type=int,
        default=EXAMPLE_TOKENS,
        help="mean tokens a row of the worked example",
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny shape: only whether it runs")
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.tiny:
        print("bench/sft_gpu.py: torch sees no GPU here; nothing was measured", file=sys.stderr)
        return
    device = "cuda" if has_gpu else "cpu"
    name = torch.cuda.get_device_name(0) if has_gpu else "a processor"
    shape, n_tokens = (TINY, 64) if options.tiny else (SHAPE, ROW_TOKENS)
    product = measure_product(device, 64 if options.tiny else 8192)
    print(
        f"{name}, torch {torch.__version__}; a matrix product reaches {product / 1e12:.0f} TFLOP/s\n"
    )
    print(
        "| attention | Liger | checkpointing | batch | tokens/s | peak GiB | doctor's GiB | share of the product | hours of the example |\n"
        + "|---" * 9
        + "|"
    )
    attentions = ["sdpa", *(["flash_attention_2"] if find_spec("flash_attn") else [])]
    ligers = [False, *([True] if find_spec("liger_kernel") else [])]
    for switches in itertools.starmap(
        Switches, itertools.product(attentions, ligers, (True, False), options.batches)
    ):
        try:
            rate, peak, flops = measure(switches, options.steps, shape, device, n_tokens)
        except torch.OutOfMemoryError:
            print(
                f"| {switches.attention} | {switches.liger} | {switches.checkpointing} | {switches.batch} | out of memory | | {estimate(switches):.1f} | | |",
                flush=True,
            )
            continue
        hours = N_EXAMPLE_ROWS * N_EXAMPLE_EPOCHS * options.row_tokens / rate / 3600
        print(
            f"| {switches.attention} | {switches.liger} | {switches.checkpointing} | {switches.batch} "
            f"| {rate:.0f} | {peak:.1f} | {estimate(switches):.1f} | {rate * flops / product:.1%} | {hours:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
