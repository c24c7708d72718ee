"""Ask an exported model bare questions with plain `transformers`: run as a script of its own.

In: `proof.py MODEL_DIR QUESTIONS_JSON MAX_TOKENS OUT_JSON`. Out: for each question the
text, its number of tokens and whether the model ended it. Not done here: judging (`export.stage`).
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, cast


def main(model_dir: str, questions_path: str, max_tokens: str, out_path: str) -> None:
    """Load, ask all questions in one batch, write down what came back."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        model_dir, padding_side="left", trust_remote_code=False
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if is_float32_faster(Path(model_dir), device) else "auto"
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=dtype, trust_remote_code=False
    ).eval()
    cast(Any, model).to(device)
    questions = json.loads(Path(questions_path).read_text(encoding="utf-8"))
    chats = [[{"role": "user", "content": question}] for question in questions]
    prompts = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs = inputs.to(device)
    written = cast(Any, model).generate(**inputs, max_new_tokens=int(max_tokens), do_sample=False)[
        :, inputs["input_ids"].shape[1] :
    ]

    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops)
    answers: list[dict[str, object]] = []
    for question, prompt, ids in zip(questions, prompts, written.tolist(), strict=True):
        ends = [at for at, token in enumerate(ids) if token in stops]
        text = tokenizer.decode(ids[: ends[0]] if ends else ids, skip_special_tokens=True)
        # A tag that the template opens belongs to what the model says.
        opened = "<think>\n" if prompt.endswith("<think>\n") else ""
        n_tokens = ends[0] + 1 if ends else len(ids)
        answers.append(
            {
                "question": question,
                "text": opened + text,
                "stopped": bool(ends),
                "n_tokens": n_tokens,
            }
        )
    Path(out_path).write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")


def is_float32_faster(model_dir: Path, device: str) -> bool:
    """Tell whether a processor emulates bfloat16, which takes three to seven times as long as
    float32, and the weights fit into half of its memory in float32."""
    import torch

    if device != "cpu":
        return False
    capable = torch.cpu.get_capabilities()
    n_bytes = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    emulates = not (capable.get("avx512_bf16") or capable.get("amx_bf16"))
    return emulates and 2 * n_bytes < memory / 2


if __name__ == "__main__":
    main(*sys.argv[1:])
