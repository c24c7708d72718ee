"""Ask an exported GGUF file bare questions with llama.cpp alone: run as a script of its own.

In: `proof_gguf.py FILE QUESTIONS_JSON MAX_TOKENS OUT_JSON`. Out: as `export.proof` writes it, the
prompt being the file's own chat template. Not done here: judging (`export.stage`).
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main(model_path: str, questions_path: str, max_tokens: str, out_path: str) -> None:
    """Load, ask one question after the other, write down what came back."""
    llama_cpp: Any = import_module("xllamacpp")
    questions = json.loads(Path(questions_path).read_text(encoding="utf-8"))
    parameters: Any = llama_cpp.CommonParams()
    parameters.model.path = model_path
    parameters.n_parallel = 1
    parameters.n_ctx = int(max_tokens) + max((len(each) for each in questions), default=0) + 256
    parameters.verbosity = 0
    parameters.use_jinja = True
    parameters.reasoning_format = llama_cpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    server: Any = llama_cpp.Server(parameters)
    answers: list[dict[str, object]] = []
    for question in questions:
        reply = server.handle_chat_completions(
            {
                "messages": [{"role": "user", "content": question}],
                "max_tokens": int(max_tokens),
                "temperature": 0,
            }
        )
        choice = reply["choices"][0]
        text = str(choice["message"]["content"])
        # The template begins the thought; what it wrote belongs to what the model says.
        opened = "" if text.lstrip().startswith("<think>") else "<think>\n"
        answers.append(
            {
                "question": question,
                "text": opened + text,
                "stopped": choice["finish_reason"] == "stop",
                "n_tokens": reply["usage"]["completion_tokens"],
            }
        )
    Path(out_path).write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
