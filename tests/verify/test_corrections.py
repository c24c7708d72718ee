"""A correction must stand by itself: its reader sees neither the attempt nor the known answer."""

import pytest

from medkd.grading.checks import check_hint


@pytest.mark.parametrize(
    "reasoning",
    [
        "该学生的推理忽略了血压，实际上血压升高。",
        "患者头痛。学生的诊断没有考虑颅内压。",
        "上述错误判断源于只看体温。",
        "之前的分析忽略了脑膜刺激征。",
        "改正后的推理如下：头痛、呕吐。",
        "Fever and neck stiffness. The student overlooked the neck.",
        "The previous reasoning takes the fever for a cold.",
    ],
)
def test_a_correction_that_speaks_of_the_attempt_is_rejected(reasoning: str) -> None:
    assert check_hint(reasoning, is_correction=True).reason == "hint_leak"
    assert check_hint(reasoning).passed, "a reasoning of another mode has seen no attempt"


@pytest.mark.parametrize(
    "reasoning",
    [
        "患者为学生，19岁，学生宿舍内起病，伴发热。",
        "之前的检查提示血糖升高，上述表现支持感染。",
        "患者先前的诊断为高血压，予药物治疗后好转。",
        "纠正后血钾恢复正常，考虑肾小管酸中毒。",
        "A 20-year-old student with fever; the student health service referred her.",
        "The previous examination was normal, and the original lesion has grown.",
    ],
)
def test_words_of_a_record_are_no_betrayal(reasoning: str) -> None:
    assert check_hint(reasoning, is_correction=True).passed
