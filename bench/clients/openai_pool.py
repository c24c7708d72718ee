"""The same questions through a thread pool over the plain `openai` client, its defaults at work:
what most people write first.

Run by `bench/teacher.py` with the Python of an environment that holds `openai`: questions, base
URL, answers, folder, at once.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openai import OpenAI

questions_path, base_url, answers_path, _, concurrency = sys.argv[1:6]
client = OpenAI(base_url=base_url, api_key="none")


def ask(row: dict) -> dict | None:
    try:
        answer = client.chat.completions.create(
            model="rehearsal", messages=row["messages"], max_tokens=4096
        )
        return {"id": row["id"], "text": answer.choices[0].message.content}
    except Exception as error:  # noqa: BLE001 - a row that fails is a row that is missing, as in such scripts
        print(row["id"], type(error).__name__, file=sys.stderr)
        return None


with Path(questions_path).open(encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
with ThreadPoolExecutor(int(concurrency)) as pool:
    answered = list(pool.map(ask, rows))
with Path(answers_path).open("w", encoding="utf-8") as file:
    for row in answered:
        if row:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
