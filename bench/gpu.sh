#!/usr/bin/env bash
# What a machine with an NVIDIA GPU does with this project, in at most 8 minutes and without network.
# Run in the repository's root: bench/gpu.sh [OUT]. Each part is on its own: one that fails is
# reported, and the next one runs. Out: OUT/NAME.txt of each part, OUT/parts.jsonl (name, exit code,
# seconds), and a table for docs at the end. No figure of it has been measured by the project yet.
set -u
out=${1:-runs/gpu}
python=${PYTHON:-python3}
export HF_HUB_OFFLINE=1 PYTHONPATH=${PYTHONPATH:-src}
mkdir -p "$out"
: >"$out/parts.jsonl"

part() { # NAME SECONDS COMMAND…
    local name=$1 limit=$2 started code
    shift 2
    started=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.txt" 2>&1
    code=$?
    printf '{"part": "%s", "exit_code": %d, "seconds": %d}\n' \
        "$name" "$code" "$(($(date +%s) - started))" | tee -a "$out/parts.jsonl"
}

part versions 20 "$python" -c '
import importlib.metadata as m, torch
for name in ("torch", "transformers", "trl", "peft", "accelerate", "vllm", "flash_attn", "bitsandbytes"):
    try: print(name, m.version(name))
    except m.PackageNotFoundError: print(name, "-")
print("GPUs", [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])'
part train_7b 160 "$python" bench/sft_gpu.py --batches 4 --steps 6
part doctor 10 "$python" -m medkd doctor --gpu 80 --batch-size 4 --max-length 2048
part demo 140 "$python" -m medkd demo --out "$out/demo" --overwrite
part generate 50 "$python" bench/generate.py --device cuda --batch-size 64 --rows 128 \
    --export "$out/demo/export" --input "$out/demo/merge"
part grpo_step 50 "$python" -m medkd reinforce --model medkd:tiny --adapter "$out/demo/train" \
    --input "$out/demo/merge" --steps 1 --max-tokens 256 --out "$out/grpo" --overwrite
part qlora 40 "$python" -m medkd train --model medkd:tiny --method qlora --epochs 0.1 \
    --input "$out/demo/merge" --out "$out/qlora" --overwrite

echo "| part | exit code | seconds |"
echo "|---|---|---|"
sed -E 's/.*"part": "([^"]+)", "exit_code": ([0-9]+), "seconds": ([0-9]+).*/| \1 | \2 | \3 |/' \
    "$out/parts.jsonl"
cat "$out/train_7b.txt" "$out/generate.txt" 2>/dev/null
