"""The fast scores against the libraries that LLaMA-Factory calls."""

import jieba
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_chinese import Rouge

from medkd.grading.bleu_rouge import Overlap, mean_overlap, open_pool, score_pair, score_pairs

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


def test_the_mean_of_nothing_is_zero():
    assert mean_overlap([]) == Overlap(0.0, 0.0, 0.0, 0.0)
    assert mean_overlap([Overlap(100, 50, 0, 20), Overlap(0, 50, 0, 40)]) == Overlap(50, 50, 0, 30)


def test_every_process_loads_the_dictionary_first_and_scores_as_one_does():
    with open_pool(2) as pool:
        assert pool.submit(eval, "__import__('jieba').dt.initialized").result()
    pairs = [(f"患者{n}岁，诊断为急性阑尾炎。", "考虑急性阑尾炎；2型糖尿病") for n in range(8)]
    assert score_pairs(pairs, n_processes=2) == [score_pair(*pair) for pair in pairs]
