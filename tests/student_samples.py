"""Models and examples for tests that load, train and ask: made on the spot, small, and real."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medkd.core.records import Example, Lineage

TURN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_random_model(
    folder: Path, hidden_size: int = 64, merges: Sequence[tuple[str, str]] = ()
) -> Path:
    """Make a random Qwen2 of 0.2 M parameters with a byte-level tokenizer: it knows nothing, and
    every part of it is real.

    With merges it has another tokenizer.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    from medkd.models.chat_template import PLAIN_CHATML

    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=list(merges))
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in TURN_TOKENS])
    tokenizer.add_tokens(
        [AddedToken("<think>", special=False), AddedToken("</think>", special=False)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    fast.chat_template = PLAIN_CHATML
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(fast),
            hidden_size=hidden_size,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.1,
            tie_word_embeddings=True,
        )
    )
    model.generation_config = GenerationConfig(
        eos_token_id=fast.convert_tokens_to_ids("<|endoftext|>")
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def make_example(number: int, **changes: object) -> Example:
    """Make one short example; its diagnosis follows from its last finding."""
    answer = ("flu", "mumps", "croup")[number % 3]
    values: dict[str, object] = {
        "id": f"made:{number}",
        "source": "made",
        "style": "bare",
        "department": ("内科",),
        "input": f"case {number}: sign {'abc'[number % 3]}",
        "reasoning": f"sign {'abc'[number % 3]} means {answer}",
        "answer": answer,
        "reference": answer,
        "lineage": Lineage(origin="made", licence="Apache-2.0", teacher="rehearsal"),
    }
    return Example.model_validate(values | changes)


def write_examples(path: Path, numbers: range, **changes: object) -> Path:
    """Write examples as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(make_example(n, **changes).model_dump_json() + "\n" for n in numbers),
        encoding="utf-8",
    )
    return path


def read_lines(path: Path) -> list[dict]:
    """Read JSON Lines as plain mappings."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_losses(out: Path) -> dict[int, float]:
    """Read the training loss of each logged step."""
    return {
        line["step"]: line["loss"] for line in read_lines(out / "metrics.jsonl") if "loss" in line
    }


def read_adapter(out: Path) -> dict[str, Any]:
    """Read the weights of the adapter that a training left."""
    from safetensors.torch import load_file

    return load_file(out / "adapter/adapter_model.safetensors")


def have_equal_weights(one: Path, other: Path) -> bool:
    """Tell whether two trainings came to the same adapter, to the bit."""
    import torch

    first, second = read_adapter(one), read_adapter(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def save_base(loaded: Any, folder: Path) -> Path:
    """Save a loaded model and its tokenizer as a base of its own."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def undo_last_steps(out: Path, last_step: int | None) -> None:
    """Make of a finished training what a kill behind an earlier checkpoint leaves, or for None
    behind its last."""
    shutil.rmtree(out / "adapter")
    if last_step is not None:
        shutil.rmtree(out / f"checkpoints/checkpoint-{last_step}")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    killed = json.dumps(manifest | {"state": "running"})
    (out / "manifest.json").write_text(killed, encoding="utf-8")
