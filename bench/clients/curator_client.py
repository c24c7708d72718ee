"""The same questions through Bespoke Curator, its own retries and cache at work.

Run by `bench/teacher.py` with the Python of an environment that holds `bespokelabs-curator`:
questions, base URL, answers, folder, at once. Its token counter wants a download; a count of
characters stands in, which only its own rate limiting sees.
"""

import json
import os
import sys
from pathlib import Path

questions_path, base_url, answers_path, folder, concurrency = sys.argv[1:6]
os.environ.update(
    OPENAI_API_KEY="none", TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1", CURATOR_CACHE_DIR=folder
)
os.environ.update(
    CURATOR_VIEWER="0", CURATOR_DISABLE_RICH_DISPLAY="1", LITELLM_LOCAL_MODEL_COST_MAP="True"
)

import tiktoken  # noqa: E402

characters = type("Characters", (), {"encode": staticmethod(lambda text, **_: list(text))})
tiktoken.get_encoding = tiktoken.encoding_for_model = lambda name: characters

from bespokelabs import curator  # noqa: E402


class Teacher(curator.LLM):
    """Asks the messages as they are and keeps the answer as it is."""

    def prompt(self, row: dict) -> list:
        return json.loads(row["messages"])

    def parse(self, row: dict, response: str) -> dict:
        return {"id": row["id"], "text": response}


with Path(questions_path).open(encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
limits = {
    "max_requests_per_minute": 1_000_000,
    "max_tokens_per_minute": 1_000_000_000,
    "max_concurrent_requests": int(concurrency),
}
teacher = Teacher(
    model_name="rehearsal",
    backend="openai",
    backend_params={"base_url": base_url, "request_timeout": 60, **limits},
    generation_params={"max_tokens": 4096},
)
answered = teacher(
    [{"id": row["id"], "messages": json.dumps(row["messages"], ensure_ascii=False)} for row in rows]
)
with Path(answers_path).open("w", encoding="utf-8") as file:
    for row in getattr(answered, "dataset", answered):
        file.write(json.dumps({"id": row["id"], "text": row["text"]}, ensure_ascii=False) + "\n")
