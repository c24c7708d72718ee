"""Long files of records, paged and searched; what their rows show, marked."""

import json
import time
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medkd.studio.jsonl_index import JsonlIndex, open_index, take_page
from medkd.studio.routes.data import PAGE_SIZE, find_rows
from medkd.studio.rows import find_facets, find_replaced, mark_reasoning, mark_record

N_LONG = 100_000


def write(path: Path, rows: list) -> Path:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def read_all(index: JsonlIndex, facets) -> dict[str, dict]:
    """Wait until the whole file is read for its values."""
    deadline = time.monotonic() + 60
    while index.values(facets) is None or not index.is_read:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return index.values(facets)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=20),
    st.text(min_size=1, max_size=2),
)
def test_rows_come_back_as_they_were_and_are_found_by_what_they_hold(
    tmp_path_factory, rows: list, text: str
) -> None:
    index = JsonlIndex(write(tmp_path_factory.mktemp("index") / "a.jsonl", rows))
    assert [index.row(number) for number in range(len(index))] == rows
    needle = json.dumps(text, ensure_ascii=False)[1:-1]
    assert list(index.find(text)) == [
        number for number, row in enumerate(rows) if needle in json.dumps(row, ensure_ascii=False)
    ]


def test_a_torn_line_and_one_that_is_no_record_are_shown_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n[1]\n{"id": "b')
    index = JsonlIndex(path)
    assert [index.row(number) for number in range(len(index))] == [
        {"id": "a"},
        {"line": "[1]"},
        {"line": '{"id": "b'},
    ]
    path.write_bytes(b"")
    assert len(JsonlIndex(path)) == 0
    assert list(JsonlIndex(path).find("a")) == []


def test_a_file_whose_values_are_still_read_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("medkd.studio.jsonl_index.N_AT_ONCE", 0)
    index = JsonlIndex(write(tmp_path / "a.jsonl", [{"split": "val"}, {"split": "test"}]))
    leave = Event()

    def find(row: dict) -> dict[str, str]:
        leave.wait(20)
        return {"split": row["split"]}

    assert index.values(find) == {}
    assert not index.is_read
    leave.set()
    assert {name: list(found) for name, found in read_all(index, find)["split"].items()} == {
        "val": [0],
        "test": [1],
    }


def test_a_file_that_grew_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": "a"}])
    assert open_index(path) is open_index(path)
    assert len(open_index(path)) == 1
    write(path, [{"id": "a"}, {"id": "b"}])
    assert len(open_index(path)) == 2


@pytest.mark.parametrize(
    ("page", "expected"),
    [(1, ([0, 1], 1, 3)), (3, ([4], 3, 3)), (99, ([4], 3, 3)), (-1, ([0, 1], 1, 3))],
)
def test_a_page_that_is_not_there_becomes_the_nearest(page: int, expected: tuple) -> None:
    numbers, at, n_pages = take_page(range(5), page, 2)
    assert (list(numbers), at, n_pages) == expected
    assert take_page([], 1, 2)[1:] == (1, 1)


def test_a_hundred_thousand_records_are_paged_and_searched(tmp_path: Path) -> None:
    record = "患者三天前受凉后发热，伴咳嗽、咳黄痰，右下肺可闻及湿啰音。" * 20
    rows = (
        {
            "id": f"c:{n}",
            "input": record,
            "answer": "肺炎" if n % 9 else "肺结核",
            "split": "test" if n % 5 else "val",
        }
        for n in range(N_LONG)
    )
    path = tmp_path / "long.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    index = open_index(path)
    splits = read_all(index, find_facets)["split"]
    assert {name: len(numbers) for name, numbers in splits.items()} == {
        "test": 80_000,
        "val": 20_000,
    }
    for text, tag, n in (
        ("", "", N_LONG),
        ("c:99999", "", 1),
        ("肺结核", "", 11_112),
        ("肺结核", "val", 2_223),
        ("没有", "", 0),
    ):
        found = find_rows(open_index(path), text, {"split": tag} if tag else {})
        shown = [index.row(number) for number in take_page(found, 7, PAGE_SIZE)[0]]
        assert (len(found), len(shown)) == (n, min(n, PAGE_SIZE))


@pytest.mark.parametrize(
    ("record", "reasoning", "cited", "unfounded"),
    [
        (
            "体温38.5℃，右下肺可闻及湿啰音。血压120/80mmHg，否认胸痛。",
            "体温38.5℃提示发热，右下肺可闻及湿啰音；白细胞15.2提示感染，无胸痛。",
            "体温38.5℃|右下肺可闻及湿啰音",
            "15.2",
        ),
        (
            "血壓１２０/８０mmHg，雙側​肺部聞及濕囉音。",
            "血压120/80mmHg，双侧肺部闻及湿啰音，心率 ９９ 次。",
            "血壓１２０/８０mmHg|雙側​肺部聞及濕囉音",
            "９９",
        ),
    ],
)
def test_what_is_cited_is_marked_in_the_record_and_what_is_not_there_in_the_reasoning(
    record: str, reasoning: str, cited: str, unfounded: str
) -> None:
    of_record, of_reasoning = mark_record(record, reasoning), mark_reasoning(reasoning, record)
    assert "|".join(piece.text for piece in of_record if piece.mark == "cited") == cited
    assert "|".join(piece.text for piece in of_reasoning if piece.mark) == unfounded
    assert "".join(piece.text for piece in of_record) == record
    assert "".join(piece.text for piece in of_reasoning) == reasoning


def test_a_part_of_a_latin_word_is_no_citation() -> None:
    pieces = mark_record("Appendix there; acute abdominal pain.", "Abdominal: appendicitis. 38.5")
    assert [piece.text for piece in pieces if piece.mark] == ["abdominal"]


def test_a_long_text_that_is_not_the_one_before_is_told_at_once() -> None:
    before = "张三，" * 40 + "其余正文，" * 60
    spans = [(3 * at, 3 * at + 2) for at in range(40)]
    after = "[姓名]，" * 40 + "其余正文，" * 60
    assert find_replaced(before, after + "改", spans) == []
    assert find_replaced(before, after, spans) == [
        (5 * at, 5 * at + 4, "masked") for at in range(40)
    ]
    assert find_replaced("甲乙丙", "甲", [(1, 2)]) == find_replaced("甲", "甲", []) == []
    assert find_replaced("王五李四", "[1][2]", [(0, 2), (2, 4)]) == [
        (0, 0, "masked"),
        (0, 6, "masked"),
    ]
