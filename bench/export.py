"""In which number format should an adapter be merged: bfloat16, as it is served, or float32,
rounded once at the end?

The reference is the base with its adapter beside it, unmerged, all in float32. Both merges are
rounded to bfloat16, as they are served, and asked in float32 arithmetic, so that nothing but the
merge differs.

In: the run directory of a finished demo. Out: a table: how far each merge is from the reference on
the test rows (mean Kullback-Leibler divergence of the next token, validation loss), how many greedy
answers differ, seconds and the merge's own error of the weights.
Run: `.venv/bin/python bench/export.py --run runs/demo`
"""

import argparse
import copy
import time
from pathlib import Path

import torch
from peft import PeftModel

from medkd.completers.transformers_engine import TransformersEngine
from medkd.core.records import Example, Sampling
from medkd.models.chat_template import make_messages, render
from medkd.models.load import LoadedModel, find_base, load_tokenizer, load_weights, resolve_model
from medkd.train.preflight import IGNORED, tokenize

N_ROWS = 64


def adapt(folder: Path, adapter: Path, dtype: torch.dtype):
    """Load the base in a number format and put the adapter beside it."""
    return PeftModel.from_pretrained(load_weights(folder, str(folder), dtype=dtype), str(adapter))


def score(model, rows) -> tuple[list[torch.Tensor], float]:
    """Return the log probabilities at the learnt tokens of each row, and the mean loss."""
    found, losses = [], []
    with torch.inference_mode():
        for row in rows:
            labels = torch.tensor(row.labels[1:])
            logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1].float()
            chosen = labels != IGNORED
            found.append(logits[chosen].log_softmax(-1))
            losses.append(-found[-1].gather(1, labels[chosen][:, None]).mean())
    return found, float(torch.stack(losses).mean())


def main() -> None:
    """Measure both merges against the unmerged model and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    adapter = options.run / "train" / "adapter"
    folder = resolve_model(find_base(adapter))
    tokenizer = load_tokenizer(folder, adapter)
    examples = [
        Example.model_validate_json(line) for line in (options.run / "merge" / "test.jsonl").open()
    ][:N_ROWS]
    plain = str(load_tokenizer(folder).chat_template)
    rows, _ = tokenize(
        examples,
        tokenizer,
        "reasoned",
        4096,
        plain,
        int(tokenizer.convert_tokens_to_ids("<|im_end|>")),
    )
    prompts = [render(tokenizer, make_messages(example.input)) for example in examples]

    def answer(model) -> dict[int, str]:
        local = TransformersEngine(LoadedModel(model, tokenizer), batch_size=N_ROWS)
        return {
            at: generation.text
            for at, generation in local.generate(prompts, Sampling(max_tokens=256))
        }

    reference = adapt(folder, adapter, torch.float32).eval()
    wanted, loss = score(reference, rows)
    said = answer(reference)
    exact = adapt(folder, adapter, torch.float32).merge_and_unload().state_dict()
    print(f"{len(rows)} unseen rows; unmerged in float32: loss {loss:.5f}\n")
    print(
        "| merged in | weights' error | KL to unmerged | loss | answers that differ | seconds |\n|---|---|---|---|---|---|"
    )
    rounded: dict[torch.dtype, dict[str, torch.Tensor]] = {}
    for dtype in (torch.bfloat16, torch.float32):
        began = time.perf_counter()
        merged = adapt(folder, adapter, dtype).merge_and_unload().to(torch.bfloat16)
        seconds = time.perf_counter() - began
        rounded[dtype] = merged.state_dict()
        merged = copy.deepcopy(merged).float().eval()
        state = merged.state_dict()
        error = sum(float((state[name] - exact[name]).norm() ** 2) for name in exact) ** 0.5
        error /= sum(float(tensor.norm() ** 2) for tensor in exact.values()) ** 0.5
        got, loss = score(merged, rows)
        pairs = zip(wanted, got, strict=True)
        kl = torch.cat([(one.exp() * (one - other)).sum(-1) for one, other in pairs]).mean()
        now = answer(merged)
        n = sum(now[at] != said[at] for at in said)
        print(
            f"| {str(dtype).removeprefix('torch.')} | {error:.2e} | {float(kl):.2e} | {loss:.5f} | {n} of {len(said)} | {seconds:.2f} |"
        )
    differing = [
        name
        for name, tensor in rounded[torch.bfloat16].items()
        if not torch.equal(tensor, rounded[torch.float32][name])
    ]
    print(f"\n{len(differing)} of {len(exact)} tensors differ between the two merges")


if __name__ == "__main__":
    main()
