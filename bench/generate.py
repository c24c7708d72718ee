"""Greedy generation of one exported model, on one device, every side in one run: MedKD's engine
on the folder, plain `generate` of transformers in the order of the rows, llama.cpp on the GGUF file
in it, and LLaMA-Factory's predict where its environment is given.

`python bench/generate.py --export runs/demo/export --input runs/demo/merge`; for a file,
`medkd export --gguf f16`; LLaMA-Factory by `--python ENV/bin/python` (bench/README.md). At most 256
tokens an answer; float32 on a processor, but for the file. Timed is generation alone, with the model open.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from medkd.cli.app import SPINS, configure_for_torch
from medkd.completers.llamacpp_engine import LlamaCppEngine
from medkd.completers.transformers_engine import TransformersEngine
from medkd.core.records import Sampling
from medkd.models.chat_template import encode, make_messages, render
from medkd.models.load import LoadedModel, load_model

MAX_TOKENS = 256


def generate_ours(
    engine: TransformersEngine | LlamaCppEngine, prompts: list[str]
) -> tuple[float, list[str]]:
    """Generate with an engine of MedKD; returns seconds and the texts."""
    started = time.perf_counter()
    made = dict(engine.generate(prompts, Sampling(max_tokens=MAX_TOKENS)))
    seconds = time.perf_counter() - started
    return seconds, [made[at].text for at in range(len(prompts))]


def generate_plainly(
    loaded: LoadedModel, prompts: list[str], batch_size: int
) -> tuple[float, list[str]]:
    """Generate as the model card shows, a batch at a time."""
    model, tokenizer = loaded
    tokenizer.padding_side = "left"
    texts: list[str] = []
    started = time.perf_counter()
    for at in range(0, len(prompts), batch_size):
        inputs = tokenizer(
            prompts[at : at + batch_size],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        ).to(model.device)
        written = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        behind = written[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(behind, skip_special_tokens=True)
    return time.perf_counter() - started, texts


def generate_theirs(
    python: Path, model: Path, questions: list[dict], batch_size: int
) -> tuple[float, list[str]]:
    """Have LLaMA-Factory predict; its prompt does not open the thought."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = [{"instruction": "", "input": q["input"], "output": q["answer"]} for q in questions]
        (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        registry = {"rows": {"file_name": "rows.json", "columns": columns}}
        (folder / "dataset_info.json").write_text(json.dumps(registry))
        settings = {
            "model_name_or_path": str(model), "stage": "sft", "do_predict": True, "predict_with_generate": True, "finetuning_type": "lora",
            "dataset_dir": str(folder), "eval_dataset": "rows", "template": "qwen", "default_system": "", "cutoff_len": 4096,
            "output_dir": f"{folder}/out", "report_to": "none", "per_device_eval_batch_size": batch_size, "do_sample": False, "use_cpu": True,
            "max_new_tokens": MAX_TOKENS, "infer_dtype": "float32", "preprocessing_num_workers": 1, "overwrite_cache": True,
        }  # fmt: skip
        # JSON is YAML; a .json file is read wrongly by 0.9.5.
        (folder / "predict.yaml").write_text(json.dumps(settings))
        script = "from llamafactory.train.tuner import run_exp; run_exp()"
        command = [python, "-c", script, folder / "predict.yaml"]
        released = {k: v for k, v in os.environ.items() if k not in (SPINS[0], "PYTHONPATH")}
        done = subprocess.run(command, capture_output=True, text=True, env=released)
        if done.returncode:
            raise SystemExit(f"LLaMA-Factory failed:\n{done.stderr[-2000:]}")
        results = json.loads((folder / "out/predict_results.json").read_text())
        lines = (folder / "out/generated_predictions.jsonl").read_text(encoding="utf-8")
        texts = [json.loads(line)["predict"] for line in lines.splitlines()]
    return results["predict_runtime"], texts


def main() -> None:
    """Generate on every side and print."""
    configure_for_torch()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", type=Path, default=Path("runs/demo/export"))
    parser.add_argument("--input", type=Path, default=Path("runs/demo/merge"))
    parser.add_argument("--python", type=Path)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    lines = (given.input / "test.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines[: given.rows]]
    dtype = "float32" if given.device == "cpu" else "auto"
    loaded = load_model(str(given.export), device=given.device, dtype=dtype)
    tokenizer = loaded.tokenizer
    prompts = [render(tokenizer, make_messages(q["input"])) for q in questions]
    generate_plainly(loaded, prompts[:1], 1)  # what is done once is not timed
    engine = TransformersEngine(loaded, given.batch_size)
    sides: dict[str, Callable[[], tuple[float, list[str]]]] = {
        "MedKD, transformers": lambda: generate_ours(engine, prompts),
        "plain `generate`": lambda: generate_plainly(loaded, prompts, given.batch_size),
    }
    for path in sorted(given.export.glob("*.gguf")):
        longest = max(len(encode(tokenizer, prompt)) for prompt in prompts) + MAX_TOKENS
        file = LlamaCppEngine(path, longest)
        sides[f"llama.cpp, {path.name}"] = lambda file=file: generate_ours(file, prompts)
    if given.python:
        sides["LLaMA-Factory's predict"] = lambda: generate_theirs(
            given.python, given.export, questions, given.batch_size
        )
    print(f"{len(prompts)} rows, batch {given.batch_size}, {given.device}")
    print("| | s | answers/s | texts as MedKD's |\n|---|---|---|---|")
    ours: list[str] = []
    for name, side in sides.items():
        seconds, texts = side()
        ours = ours or texts
        # A prompt that does not open the thought leaves the tag to the answer.
        pairs = zip(texts, ours, strict=True)
        n_same = sum(a.removeprefix("<think>").split() == b.split() for a, b in pairs)
        rate = len(texts) / seconds
        print(f"| {name} | {seconds:.1f} | {rate:.2f} | {n_same} |", flush=True)


if __name__ == "__main__":
    main()
