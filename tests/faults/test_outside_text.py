"""Readers of outside text, given damaged text: each reads it or says one line, and never breaks.

`make fuzz FUZZ_S=60` repeats this for so many seconds, shared by the readers, from a new seed each
round; Hypothesis makes what it finds small. A finding becomes an `@example` here, or a test of its
reader.
"""

import json
import os
import random
import struct
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from openpyxl import Workbook

from medkd.collect.login import read_cookies
from medkd.collect.parser import (
    is_login,
    is_verification,
    parse_departments,
    parse_list,
    read_saved_page,
)
from medkd.collect.sections import load_names
from medkd.completers.stream import EventReader, StreamedText
from medkd.core import thinking
from medkd.core.config import read_recipe
from medkd.core.errors import MedkdError
from medkd.core.jsonl import RecordReader
from medkd.core.records import RawCase
from medkd.core.reviews import read_reviews
from medkd.core.stage_output import read_manifest
from medkd.core.task import load_task, read_shipped_task
from medkd.models.inspect import read_headers
from medkd.text.question_rows import find_question
from medkd.text.tables import read_rows

FUZZ_S = float(os.environ.get("FUZZ_S", 0))
ROW = {"instruction": "头痛怎么办？", "input": "", "output": "<think>\n想\n</think>\n\n休息。"}
PIECES = [b"", b"\0", b"\n", b"\r", b'"', b"'", b"{", b"}", b"[" * 200, b"]", b":", b",", b"\\", b"\\ud800", b"\xff\xfe",
          b"\xef\xbb\xbf", b"NaN", b"1e999", b"-", b"9" * 30, b"null", b"<", b"</p>", b"<div>" * 200, b"&a;", b"<!--", b"---\n",
          b"&a *a", b"!!python/object", b"{{", b"{% for", b"\xf0\x9f\x98\x80", "诊断：".encode(), b"data: ", b"\xd0\xcf\x11\xe0"]  # fmt: skip


def make_workbook() -> bytes:
    book, file = Workbook(), BytesIO()
    book.active.append(list(ROW))  # pyright: ignore[reportOptionalMemberAccess]
    book.active.append(list(ROW.values()))  # pyright: ignore[reportOptionalMemberAccess]
    book.save(file)
    return file.getvalue()


def make_parquet() -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = BytesIO()
    pq.write_table(pa.Table.from_pylist([ROW]), file)
    return file.getvalue()


def make_safetensors() -> bytes:
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 4


def read_table(path: Path) -> None:
    for row in read_rows(path):
        if isinstance(row.content, dict):
            find_question(row.content)


def read_stream(path: Path) -> None:
    reader, answer = EventReader(), StreamedText(lambda *_: None, key="sk-12345678")
    content = path.read_bytes()
    for start in range(0, len(content), 7):
        for event in reader.feed(content[start : start + 7]):
            answer.take(event)
    for event in reader.finish():
        answer.take(event)
    answer.finish()


def read_page(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    for read in (is_login, is_verification, parse_list, parse_departments):
        read(text)
    read_saved_page(path, path.read_bytes(), load_names())


def read_thought(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    thinking.read(text)
    thinking.strip_tags(text)


def make_case() -> bytes:
    case = RawCase(id="a:1", source="a", sections={"主诉": "头痛3天"})
    return case.model_dump_json().encode() + b"\n"


PAGE = "<html><head><title>病例</title></head><body><div class='s_wz'><a>内科</a></div><p>【主诉】头痛3天</p><p>【诊断】偏头痛</p></body></html>"  # fmt: skip
EVENTS = b'data: {"choices":[{"delta":{"reasoning_content":"a"}}]}\n\ndata: {"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}\n\ndata: [DONE]\n\n'
Reader = tuple[str, Callable[[], bytes], Callable[[Path], Any]]
READERS: dict[str, Reader] = {
    "JSON": ("a.json", lambda: json.dumps([ROW, ROW], ensure_ascii=False).encode(), read_table),
    "JSON Lines": ("a.jsonl", lambda: json.dumps(ROW, ensure_ascii=False).encode() * 2, read_table),
    "CSV": ("a.csv", lambda: 'instruction,output\n"头,痛",休息\n'.encode("gb18030"), read_table),
    "Excel": ("a.xlsx", make_workbook, read_table),
    "Parquet": ("a.parquet", make_parquet, read_table),
    "records": ("raw_cases.jsonl", make_case, lambda p: [*RecordReader(p, RawCase, "collect")]),
    "reviews": ("reviews.jsonl", lambda: b'{"id":"a","reviewer":"b","decision":"edit"}\n', lambda p: read_reviews(p.parent)),
    "manifest": ("manifest.json", lambda: b'{"stage":"merge","identity":"a","config":{}}', lambda p: read_manifest(p.parent)),
    "page": ("a.html", PAGE.encode, read_page),
    "stream": ("a.sse", lambda: EVENTS, read_stream),
    "cookies": ("cookies.txt", lambda: b".iiyi.com\tTRUE\t/\tFALSE\t0\tname\tvalue\n", lambda p: read_cookies(p, "iiyi.com")),
    "cookies as JSON": ("cookies.json", lambda: b'[{"name": "a", "value": "b", "domain": "iiyi.com"}]', lambda p: read_cookies(p, "iiyi.com")),
    "recipe": ("a.yaml", lambda: b"out: runs/a\ncollect: {source: files}\nmerge:\n  near: 0.7\n", read_recipe),
    "task": ("task.yaml", lambda: read_shipped_task("diagnosis").encode(), lambda p: load_task(str(p))),
    "section names": ("names.yaml", lambda: "主诉: [Complaint]\n".encode(), load_names.__wrapped__),
    "safetensors": ("model.safetensors", make_safetensors, lambda p: read_headers(p.parent)),
    "thinking": ("a.txt", lambda: "<think>\n想\n</think>\n\n休息。".encode(), read_thought),
}  # fmt: skip

Edit = tuple[float, int, bytes]
"""Place as a share of the length, bytes that go, bytes that come."""
edits: st.SearchStrategy[list[Edit]] = st.lists(
    st.tuples(
        st.floats(0, 1), st.sampled_from([0, 1, 2, 8, 64]), st.sampled_from(PIECES) | st.binary(max_size=8)
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


def apply(content: bytes, wanted: list[Edit]) -> bytes:
    for share, n_gone, new in wanted:
        at = int(share * len(content))
        content = content[:at] + new + content[at + n_gone :]
    return content


@pytest.mark.parametrize("name", READERS)
def test_damaged_text_is_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file, make, read = READERS[name]
    path, whole = tmp_path / file, make()

    def check(wanted: list[Edit]) -> None:
        path.write_bytes(apply(whole, wanted))
        try:
            read(path)
        except MedkdError as error:
            assert "\n" not in str(error).strip()

    rounds = settings(suppress_health_check=list(HealthCheck), database=None)
    until = time.monotonic() + FUZZ_S / len(READERS)
    while True:
        number = random.randrange(2**32) if FUZZ_S else 0
        print(f"{name}: seed {number}")
        seed(number)(rounds(given(edits)(check)))()
        if time.monotonic() >= until:
            return
