"""Loads a merged dataset with LLaMA-Factory itself and compares its token ids with those `medkd
train` trains on, row by row.

`python bench/llamafactory_tokens.py --merged runs/demo/merge --python ENV/bin/python`, where ENV is
the environment of bench/README.md. Compared are the first 200 training rows under one of
LLaMA-Factory's templates, up to the end of the turn; other differences are counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from medkd.core import thinking
from medkd.core.records import Example
from medkd.models.chat_template import (
    encode_rows,
    find_end_of_turn,
    find_plain_template,
    make_messages,
)
from medkd.models.load import load_tokenizer, shipped_dir

LOAD = """
import json, sys
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
settings, out = json.loads(sys.argv[1]), sys.argv[2]
model_args, data_args, training_args, _, _ = get_train_args(settings)
module = load_tokenizer(model_args)
template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
with open(out, "w") as file:
    json.dump([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows], file)
"""
IGNORED = -100


def load_theirs(
    python: Path, merged: Path, model: Path, template: str, default_system: str, n_rows: int
) -> list[dict]:
    """Have LLaMA-Factory encode the rows."""
    with tempfile.TemporaryDirectory() as place:
        settings = {
            "model_name_or_path": str(model), "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_target": "all",
            "dataset_dir": str(merged / "llamafactory"), "dataset": "medkd_train", "template": template, "default_system": default_system,
            "cutoff_len": 100_000, "max_samples": n_rows, "output_dir": f"{place}/out", "overwrite_cache": True, "report_to": "none",
            "preprocessing_num_workers": 1, "use_cpu": True,
        }  # fmt: skip
        out = Path(place) / "rows.json"
        done = subprocess.run(
            [python, "-c", LOAD, json.dumps(settings), out],
            capture_output=True,
            text=True,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
        if done.returncode:
            raise SystemExit(f"LLaMA-Factory failed:\n{done.stderr[-2000:]}")
        return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merged", type=Path, default=Path("runs/demo/merge"))
    parser.add_argument("--python", type=Path, help="python of an environment with LLaMA-Factory")
    parser.add_argument(
        "--model", type=Path, default=shipped_dir(), help="folder whose tokenizer is used"
    )
    parser.add_argument("--template", default="qwen", help="LLaMA-Factory's: qwen, qwen3, qwen3_5")
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    if options.python is None or not (options.merged / "train.jsonl").exists():
        print(
            "skipped: needs --python of LLaMA-Factory's environment (bench/README.md) and --merged, a directory of medkd merge"
        )
        return
    tokenizer = load_tokenizer(options.model)
    template, end = find_plain_template(tokenizer), find_end_of_turn(tokenizer)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    default_system = rendered.partition("<|im_start|>system\n")[2].partition("<|im_end|>")[0]
    theirs = load_theirs(
        options.python,
        options.merged,
        options.model,
        options.template,
        default_system,
        options.rows,
    )
    lines = (
        (options.merged / "train.jsonl").read_text(encoding="utf-8").splitlines()[: options.rows]
    )
    found: Counter[str] = Counter()
    for line, their in zip(lines, theirs, strict=True):
        row = Example.model_validate_json(line)
        messages = make_messages(row.input, row.instruction, row.system)
        (ours,) = encode_rows(
            tokenizer, [(messages, thinking.write(row.reasoning, row.answer))], template, end
        )
        ids = [*ours.prompt, *ours.completion]
        found["ids equal up to the end of the turn"] += their["input_ids"][: len(ids)] == ids
        found["rows with a system turn"] += bool(row.system)
        found[
            "behind the end of the turn: " + repr(tokenizer.decode(their["input_ids"][len(ids) :]))
        ] += 1
        labels = [IGNORED] * len(ours.prompt) + ours.completion
        found["loss on the same tokens up to there"] += their["labels"][: len(ids)] == labels
        found["loss on what stands behind it too"] += any(
            label != IGNORED for label in their["labels"][len(ids) :]
        )
    print(f"{len(lines)} rows, default system of both: {default_system or 'none'!r}")
    for name, n in found.items():
        print(f"{n:5} {name}")
    sys.exit(found["ids equal up to the end of the turn"] != len(lines))


if __name__ == "__main__":
    main()
