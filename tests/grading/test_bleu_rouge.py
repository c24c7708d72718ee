"""The fast scores against the libraries that LLaMA-Factory calls."""

import jieba
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge

from medkd.grading.bleu_rouge import Overlap, score_pair

jieba.setLogLevel(60)

WORDS = [
    "急性",
    "阑尾炎",
    "患者",
    "发热",
    "3天",
    "。",
    "，",
    "？",
    "”",
    "’",
    "......",
    "……",
    " ",
    "\n",
    "\n\n",
    "\u3000",
    "the",
    "WBC",
    "12.5",
    "%",
    "a",
    "好",
]
CLINICAL = st.lists(st.sampled_from(WORDS), max_size=60).map("".join)
WILD = st.text(max_size=40)


def score_with_originals(prediction: str, label: str) -> Overlap:
    hypothesis, reference = list(jieba.cut(prediction)), list(jieba.cut(label))
    if not " ".join(hypothesis).split() or not " ".join(reference).split():
        rouge = {name: {"f": 0.0} for name in ("rouge-1", "rouge-2", "rouge-l")}
    else:
        rouge = Rouge().get_scores(" ".join(hypothesis), " ".join(reference))[0]
    bleu = sentence_bleu(
        [list(label)], list(prediction), smoothing_function=SmoothingFunction().method3
    )
    return Overlap(
        round(bleu * 100, 4),
        *(round(rouge[name]["f"] * 100, 4) for name in ("rouge-1", "rouge-2", "rouge-l")),
    )


@settings(deadline=None, max_examples=300)
@given(CLINICAL | WILD, CLINICAL | WILD)
@example("", "")
@example("", "急性阑尾炎")
@example("急性阑尾炎", "")
@example("  \n\u3000", "急性阑尾炎")
@example("好", "好")
@example("发热。\n\n \n咳嗽？”胸痛.......。", "发热。\n咳嗽")
@example("......", "………？")
def test_scores_equal_the_original_libraries(prediction, label):
    assert score_pair(prediction, label) == pytest.approx(
        score_with_originals(prediction, label), abs=1e-4
    )
