import json
import os

import jieba
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge

from medkd.core.errors import InputError
from medkd.evaluate.llamafactory import is_diagnosis_task, read_predictions
from medkd.evaluate.stage import Config, run

jieba.setLogLevel(60)
PROMPT = "<|im_start|>user\n请给出诊断。\n【主诉】发热<|im_end|>\n<|im_start|>assistant\n"
PAIRS = [
    (
        "<think>\n发热咳嗽，双肺湿啰音。\n</think>\n\n肺炎",
        "<think>\n发热三天，咳嗽。\n</think>\n\n大叶性肺炎",
    ),
    ("急性阑尾炎", "<think>转移性右下腹痛。</think>急性阑尾炎；2型糖尿病"),
    ("", "急性胆囊炎"),
    ("<script>alert(1)</script>" + "咳" * 20_000, "<think>a</think>**右侧输尿管结石**"),
]


def write(path, rows):
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def rows(pairs=PAIRS):
    return [{"prompt": PROMPT, "predict": predict, "label": label} for predict, label in pairs]


def score_as_llamafactory(predict, label):
    hypothesis, reference = list(jieba.cut(predict)), list(jieba.cut(label))
    if not " ".join(hypothesis).split() or not " ".join(reference).split():
        rouge = dict.fromkeys(("rouge-1", "rouge-2", "rouge-l"), 0.0)
    else:
        rouge = {
            name: found["f"]
            for name, found in Rouge()
            .get_scores(" ".join(hypothesis), " ".join(reference))[0]
            .items()
        }
    bleu = sentence_bleu(
        [list(label)], list(predict), smoothing_function=SmoothingFunction().method3
    )
    return {name: round(value * 100, 4) for name, value in {"bleu-4": bleu, **rouge}.items()}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_file_of_llamafactory_is_scored_as_it_scores_it(tmp_path):
    pairs = [*PAIRS[:3], ("  ", "急性阑尾炎"), ("急性阑尾炎", " ")]
    path = write(tmp_path / "generated_predictions.jsonl", rows(pairs))
    run(Config(predictions=path, out=tmp_path / "out"))
    theirs = [score_as_llamafactory(predict, label) for predict, label in pairs]
    results, scores = (
        read(tmp_path / "out/predict_results.json"),
        read(tmp_path / "out/scores.json"),
    )
    for name in theirs[0]:
        expected = sum(found[name] for found in theirs) / len(pairs)
        assert results[f"predict_{name}"] == pytest.approx(expected, abs=1e-4)
        assert scores[name] == results[f"predict_{name}"]
    assert results["predict_samples_per_second"] > 0


def test_the_runtime_is_that_of_the_generation_where_its_file_lies_beside(tmp_path):
    path = write(tmp_path / "generated_predictions.jsonl", rows())
    (tmp_path / "predict_results.json").write_text(
        json.dumps({"predict_runtime": 8.0, "predict_steps_per_second": 0.25})
    )
    manifest = run(Config(predictions=path, out=tmp_path / "out"))
    assert read(tmp_path / "out/predict_results.json")["predict_samples_per_second"] == 0.5
    assert manifest.facts["runtime_is_of"] == "generation"


def test_diagnoses_are_read_from_labels_markup_and_all(tmp_path):
    path = write(tmp_path / "p.jsonl", rows())
    run(Config(predictions=path, out=tmp_path / "out"))
    scores = read(tmp_path / "out/scores.json")
    lines = [
        json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    ]
    assert [line["reference"] for line in lines] == [
        "大叶性肺炎",
        "急性阑尾炎；2型糖尿病",
        "急性胆囊炎",
        "右侧输尿管结石",
    ]
    assert (scores["diagnosis_accuracy"], scores["empty_rate"], scores["loop_rate"]) == (
        0.25,
        0.25,
        0.25,
    )
    assert "stop_rate" not in scores
    page = (tmp_path / "out/report.html").read_text()
    assert (
        "<script" not in page and "&lt;script&gt;alert(1)" in page and "How answers ended" in page
    )


def test_open_answers_get_no_diagnosis_score(tmp_path):
    answer = "失眠时可以先调整作息，睡前减少使用电子产品，必要时就医。"
    path = write(
        tmp_path / "p.jsonl", [{"prompt": "睡不着怎么办？", "predict": answer, "label": answer}]
    )
    run(Config(predictions=path, out=tmp_path / "out"))
    assert not any(name.startswith("diagnosis") for name in read(tmp_path / "out/scores.json"))
    assert not is_diagnosis_task("最近总是睡不着，怎么办？", "多休息")
    assert not is_diagnosis_task("这味药有什么功效？", "清热解毒")
    assert is_diagnosis_task(PROMPT, "急性阑尾炎；2型糖尿病")


def test_predictions_without_labels_are_measured_as_far_as_they_go(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        [{"predict": "<think>a</think>肺炎"}, {"predict": "肺炎", "label": None}],
    )
    run(Config(predictions=path, out=tmp_path / "out"))
    scores = read(tmp_path / "out/scores.json")
    assert scores["think_format_rate"] == 0.5 and "bleu-4" not in scores
    assert "they have no label" in (tmp_path / "out/report.html").read_text()


def test_broken_lines_are_counted_and_a_foreign_file_is_refused(tmp_path):
    path = write(tmp_path / "p.jsonl", rows())
    path.write_text(path.read_text() + '{"predict": 3}\n[]\n{torn\n')
    assert run(Config(predictions=path, out=tmp_path / "out")).counts.dropped == {"broken_line": 3}
    other = write(tmp_path / "other.jsonl", [{"text": "x"}])
    with pytest.raises(InputError, match=r"other.jsonl:1: no 'predict'"):
        run(Config(predictions=other, out=tmp_path / "refused"))
    with pytest.raises(InputError, match="no such file; check --predictions"):
        run(Config(predictions=tmp_path / "none.jsonl", out=tmp_path / "refused"))


def test_predictions_of_another_evaluation_are_scored_again(tmp_path):
    run(Config(predictions=write(tmp_path / "p.jsonl", rows()), out=tmp_path / "first"))
    run(Config(predictions=tmp_path / "first", out=tmp_path / "again"))
    first, again = (read(tmp_path / name / "scores.json") for name in ("first", "again"))
    assert first == again


def test_a_label_in_the_markup_of_a_page_is_the_diagnosis_in_it(tmp_path):
    labels = [
        "<script>alert(1)</script>肺炎",
        "肺炎&nbsp;",
        "&lt;b&gt;肺炎&lt;/b&gt;",
        "$\\text{肺炎}$",
        f'<p style="{"margin: 0; " * 9}">肺炎</p>',
    ]
    path = write(
        tmp_path / "p.jsonl",
        [{"prompt": PROMPT, "predict": "肺炎", "label": label} for label in labels],
    )
    run(Config(predictions=path, out=tmp_path / "out"))
    lines = [
        json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    ]
    assert [line["reference"] for line in lines] == ["肺炎"] * 5
    assert read(tmp_path / "out/scores.json")["diagnosis_exact"] == 1.0


def test_empty_labels_are_warned_of(tmp_path, capsys):
    path = write(
        tmp_path / "p.jsonl",
        [{"prompt": PROMPT, "predict": "肺炎", "label": label} for label in ("", "肺炎", " ")],
    )
    run(Config(predictions=path, out=tmp_path / "out"))
    assert (
        "warning: 2 of 3 labels are empty: as in LLaMA-Factory, their overlap counts as 0"
        in capsys.readouterr().err
    )
    assert "2 of 3 labels are empty" in (tmp_path / "out/report.html").read_text()


def test_null_is_an_empty_answer_with_a_reason_and_no_broken_line(tmp_path, capsys):
    lines = [{"predict": None, "label": "肺炎"}, {"predict": "肺炎", "label": "肺炎"}]
    path = tmp_path / "p.jsonl"
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"predict": NaN, "label": NaN}\n'
    )
    manifest = run(Config(predictions=path, task="diagnosis", out=tmp_path / "out"))
    assert manifest.counts.kept == 3 and not manifest.counts.dropped
    made = [
        json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    ]
    assert [line["finish_reason"] for line in made] == ["no_answer", "", "no_answer"]
    scores = read(tmp_path / "out/scores.json")
    assert (scores["diagnosis_accuracy"], scores["n"]) == (0.5, 3) and "stop_rate" not in scores
    assert scores["empty_rate"] == pytest.approx(2 / 3, abs=1e-5)
    assert "2 of 3 predictions are null: they count as empty" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16", "big5"])
def test_a_file_in_another_encoding_is_read_as_it_was_written(tmp_path, encoding):
    answer, label = (
        ("急性闌尾炎", "急性闌尾炎") if encoding == "big5" else ("急性阑尾炎", "急性阑尾炎")
    )
    prompt = "請給出診斷。病人發熱三天，咳嗽，右下腹疼痛。" if encoding == "big5" else PROMPT
    line = json.dumps({"prompt": prompt, "predict": answer, "label": label}, ensure_ascii=False)
    path = tmp_path / "p.jsonl"
    path.write_bytes(
        (line + "\n").encode(encoding) * 3
        if encoding not in ("utf-16", "utf-8-sig")
        else ((line + "\n") * 3).encode(encoding)
    )
    run(Config(predictions=path, task="diagnosis", out=tmp_path / "out"))
    assert read(tmp_path / "out/scores.json")["diagnosis_accuracy"] == 1.0
    assert "\ufffd" not in (tmp_path / "out/predictions.jsonl").read_text()


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.write_bytes(b"\x81\x20\xff\xfe" * 50),
        lambda path: path.write_text('{"predict":' + "[" * 200_000 + "\n"),
        lambda path: path.write_bytes(b"\0" * 10_000),
        lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 500),
    ],
)
def test_what_is_no_file_of_predictions_is_refused_in_one_line(tmp_path, make):
    path = tmp_path / "p.jsonl"
    make(path)
    with pytest.raises(InputError, match=r"^[^\n]*p.jsonl[^\n]*$"):
        read_predictions(path)


def test_half_a_character_is_no_trace(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"predict": "a\\ud800b", "label": "c"}\n')
    assert run(Config(predictions=path, out=tmp_path / "out")).counts.kept == 1


def test_flags_that_ask_nobody_are_refused_beside_a_file_of_answers(tmp_path):
    path = write(tmp_path / "p.jsonl", rows())
    given = {"general": ("builtin",), "faithfulness": 5, "samples": 3, "temperature": 0.5}
    with pytest.raises(InputError, match="leave --general, --faithfulness, --samples out"):
        run(Config(predictions=path, out=tmp_path / "out", **given))
    assert not (tmp_path / "out").exists()
