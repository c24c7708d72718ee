"""Prints what a training needs on one GPU, by size of model and method, as `medkd doctor` says it.

In: public configs of Qwen2.5 and Qwen3, written down here; no weights. Out: a Markdown table.
Not done here: measuring (`train_memory.py` holds the formula against a processor).
"""

from medkd.models.inspect import ModelShape, measure_shape
from medkd.train.memory import GIB, METHODS, Workload, estimate_memory

ROWS_A_STEP, TOKENS_A_ROW = 2, 4096
# name: (kind, hidden, layers, heads, key-value heads, intermediate, vocabulary, tied)
SHAPES = {
    "Qwen2.5-0.5B": ("qwen2", 896, 24, 14, 2, 4864, 151936, True),
    "Qwen2.5-1.5B": ("qwen2", 1536, 28, 12, 2, 8960, 151936, True),
    "Qwen2.5-3B": ("qwen2", 2048, 36, 16, 2, 11008, 151936, True),
    "Qwen3-4B": ("qwen3", 2560, 36, 32, 8, 9728, 151936, True),
    "Qwen2.5-7B": ("qwen2", 3584, 28, 28, 4, 18944, 152064, False),
    "Qwen3-8B": ("qwen3", 4096, 36, 32, 8, 12288, 151936, False),
    "Qwen2.5-14B": ("qwen2", 5120, 48, 40, 8, 13824, 152064, False),
    "Qwen2.5-32B": ("qwen2", 5120, 64, 40, 8, 27648, 152064, False),
}


def read_shape(name: str) -> ModelShape:
    """Build one of `SHAPES` without weights and measure it as `doctor` measures a model folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, hidden, layers, heads, kv_heads, inner, vocabulary, tied = SHAPES[name]
    config = AutoConfig.for_model(
        kind,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        **({"head_dim": 128} if kind == "qwen3" else {}),
    )
    with torch.device("meta"):
        return measure_shape(AutoModelForCausalLM.from_config(config))


def main() -> None:
    load = Workload(16, ROWS_A_STEP * TOKENS_A_ROW, 2, is_checkpointed=True, on_gpu=True)
    print("| model | parameters | " + " | ".join(METHODS) + " | full, 8 GPUs, FSDP2 |")
    print("|---|---|---|---|---|---|")
    for name in SHAPES:
        shape = read_shape(name)
        needs = [estimate_memory(shape, method, load) for method in METHODS]
        needs.append(estimate_memory(shape, "full", load._replace(n_devices=8), "zero3 / fsdp2"))
        cells = " | ".join(f"{need / GIB:.0f}" for need in needs)
        print(f"| {name} | {shape.n_parameters / 1e9:.1f} B | {cells} |")


if __name__ == "__main__":
    main()
