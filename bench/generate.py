"""Greedy generation against LLaMA-Factory's predict: the same student, the same rows, the same
batch size, on this machine's CPU.

`python bench/generate.py --run runs/demo --python ENV/bin/python`: RUN is a finished demo; ENV has
LLaMA-Factory (bench/README.md). Both sides generate in fp32, greedily, at most 256 tokens, under
plain ChatML. Timed is generation alone, as each side reports it, with the model open. Ours is
transformers, with what `medkd` settles before it loads torch, theirs runs in the environment this
script was started with.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from medkd.cli.app import SPINS, configure_for_torch
from medkd.completers.transformers_engine import TransformersEngine
from medkd.core.records import Sampling
from medkd.models.chat_template import find_plain_template, make_messages, render
from medkd.models.load import load_model

MAX_TOKENS = 256


def write_rows(folder: Path, questions: list[dict]) -> None:
    """Write the rows as LLaMA-Factory wants them."""
    rows = [{"instruction": "", "input": q["input"], "output": q["answer"]} for q in questions]
    (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    (folder / "dataset_info.json").write_text(
        json.dumps({"rows": {"file_name": "rows.json", "columns": columns}})
    )


def generate_ours(model: TransformersEngine, prompts: list[str]) -> tuple[float, list[str]]:
    """Generate; gives samples a second and the texts."""
    started = time.perf_counter()
    texts = dict(model.generate(prompts, Sampling(max_tokens=MAX_TOKENS)))
    seconds = time.perf_counter() - started
    return len(prompts) / seconds, [texts[i].text for i in range(len(prompts))]


def generate_theirs(
    python: Path, model: Path, folder: Path, n: int, batch_size: int
) -> tuple[float, list[str]]:
    """Have LLaMA-Factory predict; gives samples a second and the texts."""
    settings = {
        "model_name_or_path": str(model), "stage": "sft", "do_predict": True, "predict_with_generate": True, "finetuning_type": "lora",
        "dataset_dir": str(folder), "eval_dataset": "rows", "template": "qwen", "default_system": "", "cutoff_len": 4096, "max_samples": n,
        "output_dir": f"{folder}/out", "report_to": "none", "per_device_eval_batch_size": batch_size, "do_sample": False, "use_cpu": True,
        "max_new_tokens": MAX_TOKENS, "infer_dtype": "float32", "preprocessing_num_workers": 1, "overwrite_cache": True,
    }  # fmt: skip
    (folder / "predict.yaml").write_text(
        json.dumps(settings)
    )  # JSON is YAML; a .json file is read wrongly by 0.9.5
    command = [
        python,
        "-c",
        "from llamafactory.train.tuner import run_exp; run_exp()",
        folder / "predict.yaml",
    ]
    released = {key: value for key, value in os.environ.items() if key != SPINS[0]}
    done = subprocess.run(command, capture_output=True, text=True, env=released)
    if done.returncode:
        raise SystemExit(f"LLaMA-Factory failed:\n{done.stderr[-2000:]}")
    results = json.loads((folder / "out/predict_results.json").read_text())
    lines = (folder / "out/generated_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = results["predict_runtime"]
    return n / seconds, [json.loads(line)["predict"] for line in lines]


def main() -> None:
    """Generate on both sides and print."""
    configure_for_torch()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[2, 16])
    given = parser.parse_args()
    lines = (given.run / "merge/test.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines[: given.rows]]
    loaded = load_model("medkd:tiny", given.run / "train/adapter", device="cpu", dtype="float32")
    with tempfile.TemporaryDirectory() as place:
        exported = Path(place) / "model"
        loaded.model.save_pretrained(exported)
        template = find_plain_template(loaded.tokenizer)
        loaded.tokenizer.chat_template = template
        loaded.tokenizer.save_pretrained(exported)
        prompts = [render(loaded.tokenizer, make_messages(q["input"]), template) for q in questions]
        for batch_size in given.batch_sizes:
            ours, texts = generate_ours(TransformersEngine(loaded, batch_size), prompts)
            folder = Path(place) / f"rows-{batch_size}"
            folder.mkdir()
            write_rows(folder, questions)
            theirs, their_texts = generate_theirs(
                given.python, exported, folder, len(questions), batch_size
            )
            pairs = zip(texts, their_texts, strict=True)
            same = sum(text.split() == their_text.split() for text, their_text in pairs)
            print(
                f"batch {batch_size}, {len(prompts)} rows: ours {ours:.2f} samples/s, "
                f"LLaMA-Factory {theirs:.2f}: {ours / theirs:.1f} times as fast; "
                f"{same} of {len(prompts)} texts equal"
            )
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
