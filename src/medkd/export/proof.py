"""Ask an exported model bare questions with plain `transformers`, or a GGUF file with llama.cpp:
run as a script of its own, without MedKD.

In: `proof.py MODEL QUESTIONS_JSON MAX_TOKENS OUT_JSON`. Out: for each question the text, its number
of tokens and whether the model ended it. Not done here: judging (`export.stage`).
"""

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

OPENED = "<think>\n"
"""A tag that the template opens belongs to what the model says."""


def main(model: str, questions_path: str, max_tokens: str, out_path: str) -> None:
    """Ask all questions and write down what came back."""
    questions: list[str] = json.loads(Path(questions_path).read_text(encoding="utf-8"))
    ask = ask_gguf if Path(model).is_file() else ask_folder
    answers = [
        {"question": question, "text": text, "stopped": stopped, "n_tokens": n_tokens}
        for question, (text, stopped, n_tokens) in zip(
            questions, ask(model, questions, int(max_tokens)), strict=True
        )
    ]
    Path(out_path).write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")


def ask_folder(
    model_dir: str, questions: Sequence[str], max_tokens: int
) -> list[tuple[str, bool, int]]:
    """Ask a folder all questions in one batch: text, whether it stopped, tokens."""
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
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in questions
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs = inputs.to(device)
    written = cast(Any, model).generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops)
    answers: list[tuple[str, bool, int]] = []
    for prompt, ids in zip(
        prompts, written[:, inputs["input_ids"].shape[1] :].tolist(), strict=True
    ):
        end = next((at for at, token in enumerate(ids) if token in stops), None)
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        opened = OPENED if prompt.endswith(OPENED) else ""
        answers.append((opened + text, end is not None, len(ids) if end is None else end + 1))
    return answers


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


def ask_gguf(path: str, questions: Sequence[str], max_tokens: int) -> list[tuple[str, bool, int]]:
    """Ask a GGUF file one question after the other, by its own chat template: text, whether it
    stopped, tokens."""
    llama_cpp: Any = import_module("xllamacpp")
    parameters: Any = llama_cpp.CommonParams()
    parameters.model.path = path
    parameters.n_parallel = 1
    parameters.n_ctx = max_tokens + max((len(each) for each in questions), default=0) + 256
    parameters.verbosity = 0
    parameters.use_jinja = True
    parameters.reasoning_format = llama_cpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    server: Any = llama_cpp.Server(parameters)
    answers: list[tuple[str, bool, int]] = []
    for question in questions:
        turns = [{"role": "user", "content": question}]
        asked = {"messages": turns, "max_tokens": max_tokens, "temperature": 0}
        reply = server.handle_chat_completions(asked)
        choice = reply["choices"][0]
        text = str(choice["message"]["content"])
        opened = "" if text.lstrip().startswith("<think>") else OPENED
        stopped = choice["finish_reason"] == "stop"
        answers.append((opened + text, stopped, reply["usage"]["completion_tokens"]))
    return answers


if __name__ == "__main__":
    main(*sys.argv[1:])
