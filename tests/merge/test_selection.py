"""Which rows stay: copies, benchmarks, shares of sources, and the same choice on every machine."""

import json
import random

import pytest

from medkd.core.errors import InputError
from medkd.core.records import Example
from medkd.merge.decontamination import NgramIndex, find_question
from medkd.merge.stage import Config, run
from medkd.text.normalize import make_plain
from medkd.text.similarity import hash_grams, propose_pairs, sign, similarity

ORDER = [3, 8, 7, 9, 6, 4, 1, 0, 5, 2]


def make_question(rng, n=60):
    return "".join(chr(0x4E00 + rng.randrange(2500)) for _ in range(n)) + "？"


def make_rows(n, seed=0, **fields):
    rng = random.Random(seed)
    return [
        {
            "question": make_question(rng),
            "think": f"想一想第{k}个问题该怎么办才好。",
            "answer": "答。",
            **fields,
        }
        for k in range(n)
    ]


def write(path, rows):
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def read(out, split="train"):
    return [
        Example.model_validate_json(line)
        for line in (out / f"{split}.jsonl").open(encoding="utf-8")
    ]


def test_planted_copies_are_found_and_nothing_else(tmp_path):
    rng = random.Random(3)
    rows = make_rows(600)
    exact = [{**row, "question": " " + row["question"].replace("？", "?")} for row in rows[:30]]
    near = []
    for row in rows[30:60]:
        place = rng.randrange(5, 50)
        near.append(
            {
                **row,
                "question": row["question"][:place] + "某" + row["question"][place + 1 :],
                "think": row["think"] + "再想一想。",
            }
        )
    manifest = run(
        Config(
            input=(write(tmp_path / "a.jsonl", rows + exact), write(tmp_path / "b.jsonl", near)),
            out=tmp_path / "out",
        )
    )
    assert manifest.counts.dropped == {"exact_duplicate": 30, "near_duplicate": 30}
    repeats = json.loads((tmp_path / "out" / "duplicates.json").read_text())
    assert all(
        repeat["of"].startswith("b:") for repeat in repeats if not repeat["exact"]
    )  # the longer reasoning stays


def test_of_two_copies_the_one_that_goes_in_circles_falls(tmp_path):
    (row,) = make_rows(1)
    rows = [
        {**row, "think": "先看病史，再看检查，符合偏头痛的特点，没有危险的征象。"},
        {**row, "think": "我再想一想，" * 60},
    ]
    run(
        Config(
            input=(write(tmp_path / "a.jsonl", rows),),
            out=tmp_path / "out",
            val_share=0,
            test_share=0,
        )
    )
    (example,) = read(tmp_path / "out")
    assert example.reasoning == rows[0]["think"]


def test_a_crowd_of_copies_leaves_one(tmp_path):
    (row,) = make_rows(1)
    rows = [
        {**row, "question": row["question"] + f"第{n}" * (n % 3), "think": f"想{n}" * 4}
        for n in range(500)
    ]
    manifest = run(Config(input=(write(tmp_path / "a.jsonl", rows),), out=tmp_path / "out"))
    assert manifest.counts.kept == 1


def test_signatures_say_how_alike_two_texts_are():
    rng = random.Random(1)
    texts = [make_question(rng, 200) for _ in range(50)]
    changed = [text[:60] + "某" + text[61:120] + "种" + text[121:] for text in texts]
    pairs = propose_pairs(sign(texts + changed), 0.7)
    assert {tuple(pair) for pair in pairs.tolist()} == {(n, n + 50) for n in range(50)}
    assert similarity(texts[0], changed[0]) > 0.9
    assert len(propose_pairs(sign([]), 0.7)) == len(propose_pairs(sign(["一"]), 0.7)) == 0


def test_grams_of_many_texts_are_those_of_each_alone():
    texts = ["发热咳嗽三天", "", "热", "发热咳嗽三天", "a𠮷b𠮷c𠮷"]
    grams = hash_grams(texts, 3)
    alone = [hash_grams([text], 3).hashes.tolist() for text in texts]
    assert [
        grams.hashes[a:b].tolist()
        for a, b in zip(grams.offsets[:-1], grams.offsets[1:], strict=True)
    ] == alone
    assert alone[0] == alone[3]
    assert [len(one) for one in alone] == [4, 1, 1, 4, 4]


def test_a_row_that_holds_half_of_a_benchmark_question_falls_and_is_listed(tmp_path):
    rows = make_rows(20)
    rng = random.Random(9)
    inside = {**rows[3], "question": make_question(rng) + rows[0]["question"] + make_question(rng)}
    half = {**rows[4], "question": rows[1]["question"][:40] + make_question(rng)}
    little = {**rows[5], "question": rows[2]["question"][:20] + make_question(rng)}
    benchmark = write(
        tmp_path / "exam.jsonl",
        [{"id": n, "question": rows[n]["question"], "options": {"A": "x"}} for n in range(3)],
    )
    source = write(tmp_path / "a.jsonl", [inside, half, little, *rows[6:]])
    manifest = run(
        Config(
            input=(source,), out=tmp_path / "out", against=(benchmark,), val_share=0, test_share=0
        )
    )
    assert manifest.counts.dropped == {"contaminated": 2}
    listed = json.loads((tmp_path / "out" / "contaminated.json").read_text())
    assert {entry["holds"] for entry in listed} == {"exam.jsonl:1", "exam.jsonl:2"}
    assert max(entry["share"] for entry in listed) == 1.0
    again = Config(
        input=(source,),
        out=tmp_path / "b",
        against=(benchmark,),
        contained=0.9,
        val_share=0,
        test_share=0,
    )
    assert run(again).counts.dropped == {"contaminated": 1}


def test_a_benchmark_that_takes_everything_stops_the_stage(tmp_path):
    source = write(tmp_path / "a.jsonl", make_rows(5))
    with pytest.raises(InputError, match="every row to train on holds one of its questions"):
        run(Config(input=(source,), out=tmp_path / "out", against=(source,)))
    assert not (tmp_path / "out" / "train.jsonl").exists()
    with pytest.raises(InputError, match="no question found in this benchmark; found fields: a, b"):
        run(
            Config(
                input=(source,),
                out=tmp_path / "c",
                against=(write(tmp_path / "exam.jsonl", [{"a": 1, "b": 2}]),),
            )
        )


def test_short_questions_are_held_when_they_are_the_same():
    benchmark = NgramIndex([make_plain("头痛？"), make_plain("高血压患者能不能喝咖啡？")])
    hits = list(
        benchmark.find(
            [
                make_plain(text)
                for text in ("头痛", "头痛怎么办", "请问高血压患者能不能喝咖啡呢", "咖啡")
            ],
            0.5,
        )
    )
    assert [(hit.place, hit.question) for hit in hits] == [(0, 0), (2, 1)]
    assert list(NgramIndex([]).find(["头痛"], 0.5)) == []


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ("头痛？", "头痛？"),
        ({"Question": "头痛？", "answer": "A"}, "头痛？"),
        (
            {
                "messages": [
                    {"role": "user", "content": "头痛？"},
                    {"role": "assistant", "content": "A"},
                ]
            },
            "头痛？",
        ),
        ({"rationale": {"question": {"input": "头痛？"}}}, "头痛？"),
        ({"question": 3}, ""),
        (None, ""),
    ],
)
def test_the_question_of_a_benchmark_is_found_in_any_form(row, question):
    assert find_question(row) == question


def test_a_source_gives_as_much_as_is_wanted(tmp_path):
    files = (
        write(tmp_path / "a.jsonl", make_rows(100, 1)),
        write(tmp_path / "b.jsonl", make_rows(100, 2)),
    )
    manifest = run(Config(input=files, out=tmp_path / "out", take=("a=30", "b=0.5")))
    assert manifest.facts["sources"] == {"a": 30, "b": 50}
    assert manifest.counts.dropped == {"over_cap": 120}
    for wrong, message in (
        ("c=3", "no row comes from 'c'"),
        ("a=x", "'x' is no share"),
        ("a=-1", "'-1' is no share"),
        ("a=nan", "'nan' is no share"),
    ):
        with pytest.raises(InputError, match=message):
            run(Config(input=files, out=tmp_path / "c", take=(wrong,)))


def test_the_order_of_the_files_changes_nothing(tmp_path):
    a, b = (
        write(tmp_path / "a.jsonl", make_rows(60, 1)),
        write(tmp_path / "b.jsonl", make_rows(60, 2) + make_rows(9, 1)),
    )
    run(Config(input=(a, b), out=tmp_path / "one"))
    run(Config(input=(b, a), out=tmp_path / "two"))
    for split in ("train", "val", "test"):
        assert [e.input for e in read(tmp_path / "one", split)] == [
            e.input for e in read(tmp_path / "two", split)
        ]


def test_the_shuffle_is_the_same_on_every_machine(tmp_path):
    rows = [
        {
            "question": f"第{n}个问题{'甲乙丙丁戊己庚辛壬癸'[n]}{n * 7919}",
            "think": "想",
            "answer": "答",
        }
        for n in range(10)
    ]
    run(
        Config(
            input=(write(tmp_path / "a.jsonl", rows),),
            out=tmp_path / "out",
            near=1,
            val_share=0,
            test_share=0,
        )
    )
    assert [int(example.input[1]) for example in read(tmp_path / "out")] == ORDER


def test_traditional_characters_are_simplified_where_wanted(tmp_path):
    (row,) = make_rows(1)
    source = write(tmp_path / "a.jsonl", [{**row, "think": "這個患者發熱，頭髮乾燥。"}])
    manifest = run(
        Config(input=(source,), out=tmp_path / "out", simplify=True, val_share=0, test_share=0)
    )
    assert read(tmp_path / "out")[0].reasoning == "这个患者发热，头发干燥。"
    assert manifest.facts["repairs"]["simplified"] == 1


THOUGHTS = (
    "先看疼痛的部位，再看体温和血象，麦氏点压痛最要紧。",
    "青年男性起病急，转移性疼痛是典型的过程，其他原因少见。",
    "白细胞升高提示感染，超声见管腔增粗，两者相互印证。",
    "排除结石和肠梗阻之后，只剩下一个解释符合全部发现。",
)


def make_traces(question, thoughts=THOUGHTS):
    return [{**question, "think": thought} for thought in thoughts]


def test_every_differing_trace_of_a_question_is_kept_up_to_the_number_asked(tmp_path):
    one, other = make_rows(2)
    rows = [
        *make_traces(one),
        {**one, "think": THOUGHTS[0] + "对。"},
        {**one, "think": "我再想一想，" * 60},
        *make_traces(other, THOUGHTS[:2]),
    ]
    source = write(tmp_path / "a.jsonl", rows)
    fields = {"input": (source,), "val_share": 0, "test_share": 0}
    for traces, kept, over in ((1, 2, 4), (3, 5, 1), (9, 6, 0)):
        out = tmp_path / f"out{traces}"
        manifest = run(Config(out=out, traces=traces, **fields))
        assert manifest.counts.kept == kept
        assert manifest.counts.dropped.get("over_traces", 0) == over
        assert manifest.counts.dropped["exact_duplicate"] == 2
        assert manifest.facts["questions"]["train"] == 2
        assert len({example.id for example in read(out)}) == kept
    card = (tmp_path / "out9" / "DATACARD.md").read_text(encoding="utf-8")
    assert "6 rows of 2 questions" in card


def test_traces_stand_in_one_split_and_what_is_measured_holds_each_question_once(tmp_path):
    rows = [trace for row in make_rows(60) for trace in make_traces(row)]
    source = write(tmp_path / "a.jsonl", rows)
    out = tmp_path / "out"
    manifest = run(Config(input=(source,), out=out, traces=4, val_share=0.2, test_share=0.2))
    inputs = {split: [e.input for e in read(out, split)] for split in ("train", "val", "test")}
    assert not {*inputs["train"]} & {*inputs["val"], *inputs["test"]}
    assert len(inputs["train"]) == 4 * len({*inputs["train"]})
    assert len(inputs["test"]) == len({*inputs["test"]}) == manifest.facts["questions"]["test"]
    assert len(inputs["val"]) == len({*inputs["val"]})
    assert sum(manifest.facts["questions"].values()) == 60
    again = Config(input=(out,), out=tmp_path / "again", traces=4)
    assert run(again).facts["splits"] == manifest.facts["splits"]


def test_a_question_that_falls_takes_its_traces_with_it(tmp_path):
    (row,) = make_rows(1)
    near = {**row, "question": row["question"] + "吗"}
    longer = [thought + "此外没有别的解释可以同时说明这些发现。" for thought in THOUGHTS]
    source = write(tmp_path / "a.jsonl", [*make_traces(row), *make_traces(near, longer)])
    config = Config(input=(source,), out=tmp_path / "out", traces=4, val_share=0, test_share=0)
    assert run(config).counts.dropped == {"near_duplicate": 4}
    assert {example.input for example in read(tmp_path / "out")} == {near["question"]}


def test_a_source_gives_whole_questions_where_fewer_rows_are_wanted(tmp_path):
    rows = [trace for row in make_rows(10) for trace in make_traces(row)]
    source = write(tmp_path / "a.jsonl", rows)
    fields = {"val_share": 0, "test_share": 0, "traces": 4, "take": ("a=20",)}
    run(Config(input=(source,), out=tmp_path / "out", **fields))
    inputs = [example.input for example in read(tmp_path / "out")]
    assert len(inputs) == 20 and len({*inputs}) == 5


def test_a_benchmark_may_come_as_a_folder_of_parts(tmp_path):
    rows = make_rows(5)
    source = write(tmp_path / "a.jsonl", rows)
    (tmp_path / "parts").mkdir()
    for n in range(2):
        write(tmp_path / "parts" / f"part-0000{n}.jsonl", [rows[n]])
    config = Config(
        input=(source,),
        out=tmp_path / "out",
        against=(tmp_path / "parts",),
        val_share=0,
        test_share=0,
    )
    assert run(config).counts.dropped == {"contaminated": 2}
