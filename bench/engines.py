"""Which engine writes faster on this machine's processor, by the size of the model: transformers in
fp32 or bf16, or CTranslate2 in fp32.

`python bench/engines.py`: Qwen2-shaped models of random weights, 32 prompts of about 200 tokens, 32
tokens each, greedily. Prints seconds, and CTranslate2's as a share of the faster other's; where
that passes 1, `completers.ctranslate2_engine.MOST_PARAMETERS` stands.
"""

import random
import time
from typing import Any

from medkd.cli import settle_for_torch
from medkd.completers import ctranslate2_engine
from medkd.completers.transformers_engine import TransformersEngine
from medkd.core.completer import Sampling
from medkd.models.load import LoadedModel, load_model, load_tokenizer, resolve_model

SHAPES = (
    (128, 5, 384, 4),
    (256, 6, 768, 4),
    (320, 8, 960, 5),
    (384, 8, 1152, 6),
    (512, 8, 1408, 8),
)
"""Hidden size, layers, inner size and heads."""
SAMPLING = Sampling(max_tokens=32)


def make_model(
    hidden_size: int, n_layers: int, inner_size: int, n_heads: int, n_tokens: int
) -> Any:
    """Make a model of random weights that never ends its turn within so few tokens, or hardly
    ever."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": hidden_size,
        "num_hidden_layers": n_layers,
        "intermediate_size": inner_size,
        "num_attention_heads": n_heads,
    }
    config = Qwen2Config(
        vocab_size=n_tokens,
        num_key_value_heads=n_heads,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        **sizes,
    )
    return Qwen2ForCausalLM(config).eval()


def measure(model: Any, prompts: list[str]) -> float:
    """Give the seconds that all prompts take, the second time."""
    for _ in range(2):
        started = time.perf_counter()
        list(model.generate(prompts, SAMPLING))
    return time.perf_counter() - started


def main() -> None:
    """Measure every size and print."""
    settle_for_torch()
    import torch

    ctranslate2_engine.MOST_PARAMETERS = 10**12
    tokenizer = load_tokenizer(resolve_model("medkd:tiny"))
    n_tokens = load_model("medkd:tiny").model.config.vocab_size
    words = list("发热咳嗽胸痛气短头晕恶心呕吐腹泻乏力")
    draw = random.Random(0)
    prompts = ["".join(draw.choices(words, k=draw.randint(150, 250))) for _ in range(32)]
    for shape in SHAPES:
        model = make_model(*shape, n_tokens)
        for batch_size in (2, 8, 32):
            other = measure(
                ctranslate2_engine.open_ctranslate2(LoadedModel(model, tokenizer), batch_size),
                prompts,
            )
            full = measure(TransformersEngine(LoadedModel(model, tokenizer), batch_size), prompts)
            half = measure(
                TransformersEngine(LoadedModel(model.to(torch.bfloat16), tokenizer), batch_size),
                prompts,
            )
            model.float()
            print(
                f"{model.num_parameters() / 1e6:.1f} M parameters, batch {batch_size}: transformers fp32 {full:.2f} s, bf16 {half:.2f} s, "
                f"CTranslate2 fp32 {other:.2f} s; {other / min(full, half):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
