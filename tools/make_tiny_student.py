"""Make `medkd:tiny`, the shipped student: a Qwen2-shaped base of a few MB that knows the clinic and
does not think.

`python tools/make_tiny_student.py` makes it again: tokenizer, base model, template, card; about
half an hour on two cores. `--language en` makes `medkd:tiny-en`, which reads English instead. With
`--like medkd:tiny`, `--width` and `--layers` it makes a relative of another size that shares its
vocabulary.
In: `tiny_corpus`. Out: a model folder that plain `transformers` loads. Not done here: LoRA (`medkd
train`).
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medkd.core.jsonl import write_json, write_text
from medkd.core.progress import Bar
from medkd.core.records import Language
from medkd.core.thinking import CLOSE, OPEN
from medkd.models.chat_template import PLAIN_CHATML, TEXT_END, TURN_END, TURN_START
from medkd.models.load import SHIPPED_STUDENTS, shipped_dir
from tiny_corpus import Document, common_hanzi, make_documents

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Tokenizer

CONTEXT = 4096
VOCABULARY: dict[Language, int] = {"zh": 6142, "en": 2558}
MAX_TOKEN_BYTES: dict[Language, int] = {"zh": 12, "en": 16}
"""Longer tokens would swallow whole template phrases; a Chinese character takes three."""
SPECIAL_TOKENS = (TEXT_END, TURN_END, TURN_START)
"""In the order in which the tokenizer itself numbers them: in another one, its saved file would
give two of them each other's number."""
HANZI_WEIGHT = 400
"""Times the list of common hanzi is read for the tokenizer, so that each becomes a token before
rare phrases do."""
N_DOCUMENTS = 36_000
N_CASES = 4_000
WIDTH, HEAD_WIDTH, N_LAYERS = 128, 32, 5
SEQUENCE: dict[Language, int] = {"zh": 384, "en": 512}
BATCH = 8
ROPE_BASE = 1_000_000.0
PEAK_LR = 3e-3
PREVIOUS_SHARPNESS, PREVIOUS_GAIN, MATCH_SHARPNESS, COPY_GAIN = 8.0, 0.05, 2.5, 0.5
"""Scales of the copying circuit's start."""


def train_tokenizer(documents: list[str], language: Language = "zh") -> "Qwen2Tokenizer":
    """Train a byte-level BPE in Qwen2's own form on the corpus, the tags tokens of their own, and
    in Chinese every common hanzi a token."""
    from tokenizers import AddedToken as Added
    from tokenizers import pre_tokenizers, trainers
    from transformers import AddedToken, Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(
        eos_token=TURN_END, pad_token=TEXT_END, model_max_length=CONTEXT, padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [TURN_START]})
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY[language],
        max_token_length=MAX_TOKEN_BYTES[language],
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hanzi = ["\n".join(common_hanzi())] * HANZI_WEIGHT if language == "zh" else []
    tokenizer.backend_tokenizer.train_from_iterator([*documents, *hanzi], trainer)
    # Training drops the special tokens from the added vocabulary; without this they would be cut up
    # like text.
    tokenizer.backend_tokenizer.add_special_tokens(
        [Added(token, special=True) for token in SPECIAL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(OPEN, special=False), AddedToken(CLOSE, special=False)])
    tokenizer.chat_template = PLAIN_CHATML
    return tokenizer


def build_model(
    tokenizer: "PreTrainedTokenizerBase", seed: int, width: int = WIDTH, n_layers: int = N_LAYERS
) -> "PreTrainedModel":
    """Build the untrained base; `width` is a multiple of the heads' 32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=math.ceil(len(tokenizer) / 64) * 64,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=n_layers,
            num_attention_heads=width // HEAD_WIDTH,
            num_key_value_heads=width // HEAD_WIDTH,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
            pad_token_id=cast(int, tokenizer.pad_token_id),
        )
    )
    seed_copying(model)
    return model


def seed_copying(model: Any) -> None:
    """Start the first two layers as an induction circuit, so that copying from the prompt need not
    be discovered.

    Layer 0, head 0 attends to the token before (its biases alone, turned by one position under
    rotary embedding) and writes that token's projection; in layer 1, heads 0 and 1 look for places
    whose predecessor is the current token and write what stands there. Training goes on from this
    start with every weight free. The circuit is that of Olsson et al. 2022, "In-context learning
    and induction heads"; placed by hand it saves the many steps in which a model this small would
    find it.
    """
    import torch

    size, width = (
        model.config.hidden_size,
        model.config.hidden_size // model.config.num_attention_heads,
    )
    half = width // 2
    turn = ROPE_BASE ** (-torch.arange(half) / half)
    slow = torch.cat([torch.arange(half)[turn < 0.01], torch.arange(half)[turn < 0.01] + half])
    basis = torch.linalg.qr(torch.randn(size, size))[0]
    own, written = basis[: len(slow)], basis[len(slow) : 2 * len(slow)]
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    with torch.no_grad():
        for projection in (first.q_proj, first.k_proj):
            projection.weight[:width] = 0
        first.k_proj.bias[:width] = PREVIOUS_SHARPNESS * torch.cat(
            [torch.ones(half), torch.zeros(half)]
        )
        first.q_proj.bias[:width] = PREVIOUS_SHARPNESS * torch.cat([turn.cos(), -turn.sin()])
        first.v_proj.weight[: len(slow)] = own
        first.o_proj.weight[:, : len(slow)] = PREVIOUS_GAIN * written.T
        for head in range(2):
            rows = slice(head * width, (head + 1) * width)
            second.q_proj.weight[rows] = 0
            second.k_proj.weight[rows] = 0
            second.q_proj.weight[head * width + slow] = MATCH_SHARPNESS * own
            second.k_proj.weight[head * width + slow] = MATCH_SHARPNESS * written
            copied = basis[head * size // 2 : head * size // 2 + width]
            second.v_proj.weight[rows] = copied
            second.o_proj.weight[:, rows] = COPY_GAIN * copied.T


def pack(
    documents: list[Document], tokenizer: "PreTrainedTokenizerBase", length: int
) -> "torch.Tensor":
    """Lay the documents end to end, each closed by the end-of-text token.

    Shape [2, n, length + 1]: token ids, and the same as labels with -100 where a text is only read.
    """
    import torch

    end = tokenizer.convert_tokens_to_ids(TEXT_END)
    read = tokenizer([d.context for d in documents])["input_ids"]
    learnt = tokenizer([d.learnt for d in documents])["input_ids"]
    ids = [i for r, x in zip(read, learnt, strict=True) for i in (*r, *x, end)]
    labels = [i for r, x in zip(read, learnt, strict=True) for i in (*(-100 for _ in r), *x, end)]
    n = len(ids) // (length + 1)
    return torch.tensor([ids, labels])[:, : n * (length + 1)].view(2, n, length + 1)


def train(model: "PreTrainedModel", rows: "torch.Tensor", seed: int) -> list[dict[str, float]]:
    """Train next-token prediction once over the rows: AdamW, warm-up, then linear decay."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.01
    )
    batches = list(
        torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(seed)).split(BATCH)
    )[:-1]

    history: list[dict[str, float]] = []
    model.train()
    with Bar("pre-training", len(batches), "steps") as bar:
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = (
                    PEAK_LR * min(1.0, (step + 1) / 100) * min(1.0, (1 - step / len(batches)) / 0.6)
                )
            loss = _loss(model, rows[0, batch], rows[1, batch])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            history.append({"step": step, "loss": round(float(loss.detach()), 4)})
            bar.advance(note=f"loss {history[-1]['loss']:.3f}")
    return history


def _loss(model: Any, ids: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """Compute the mean loss of the learnt tokens, whose positions alone meet the vocabulary."""
    import torch

    wanted = labels[:, 1:]
    is_learnt = wanted != -100
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[is_learnt]), wanted[is_learnt])


def make_student(
    out: Path,
    n_documents: int,
    seed: int,
    width: int = WIDTH,
    n_layers: int = N_LAYERS,
    like: str = "",
    language: Language = "zh",
) -> None:
    """Make the whole model folder; `like` names a model whose tokenizer is taken, instead of one
    trained on the documents."""
    import torch
    from transformers import GenerationConfig

    from medkd.models.load import load_tokenizer, resolve_model

    started = time.monotonic()
    documents = make_documents(n_documents, N_CASES, seed, language)
    tokenizer = (
        load_tokenizer(resolve_model(like))
        if like
        else train_tokenizer([d.context + d.learnt for d in documents], language)
    )
    model = build_model(tokenizer, seed, width, n_layers)
    rows = pack(documents, tokenizer, SEQUENCE[language])
    history = train(model, rows, seed)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in (TURN_END, TEXT_END)]
    model.generation_config = GenerationConfig(
        eos_token_id=stops, pad_token_id=cast(int, tokenizer.pad_token_id), do_sample=False
    )
    cast(Any, model).to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "documents": n_documents,
        "cases_answered": N_CASES,
        "tokens": rows[0].numel(),
        "seconds": round(time.monotonic() - started),
        "last_loss": history[-1]["loss"],
        "seed": seed,
    }
    write_json(out / "training.json", facts)
    name = out.name if like else SHIPPED_STUDENTS[language]
    write_text(out / "README.md", _card(facts, name, language))
    print(json.dumps(facts))


def _card(facts: dict[str, Any], name: str, language: Language) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    n_diseases = len(set(_diseases(language)))
    return f"""---
license: apache-2.0
language: [{language}]
library_name: transformers
---
# {name}

A base student of MedKD's rehearsal world: Qwen2-shaped, made from scratch by
`python tools/make_tiny_student.py` on text that the project generates itself from its own
hand-written knowledge base. No real patient, no outside text, no outside weights.

It reads {"Chinese" if language == "zh" else "English"}. It read facts of {n_diseases} diseases,
copied findings out of synthetic records, and answered synthetic cases at once. It thinks only when
told to, over short lists of findings; it never saw the reasoning for a whole record. The seed of
its cases is not one that a demo uses.

It knows no medicine beyond that toy world. Use it to try the pipeline on a laptop; never to answer
a question about health.

| | |
|---|---|
{rows}
"""


def _diseases(language: Language) -> Iterator[str]:
    from medkd.demo.knowledge import load_knowledge

    for family in load_knowledge(language).families:
        yield from (disease.name for disease in family.diseases)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--language", choices=list(SHIPPED_STUDENTS), default="zh")
    parser.add_argument(
        "--out", type=Path, help="model folder to write; else that of the shipped student"
    )
    parser.add_argument("--documents", type=int, default=N_DOCUMENTS, help="documents to read")
    parser.add_argument(
        "--seed", type=int, default=11, help="seed of the corpus and of the weights"
    )
    parser.add_argument("--width", type=int, default=WIDTH, help="hidden size, a multiple of 32")
    parser.add_argument("--layers", type=int, default=N_LAYERS, help="number of layers")
    parser.add_argument(
        "--like", default="", help="model whose tokenizer is taken, so that one can teach the other"
    )
    options = parser.parse_args()
    language: Language = options.language
    make_student(
        options.out or shipped_dir(SHIPPED_STUDENTS[language]),
        options.documents,
        options.seed,
        options.width,
        options.layers,
        options.like,
        language,
    )


if __name__ == "__main__":
    main()
