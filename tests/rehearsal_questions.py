"""Questions that the rehearsal teacher can solve, for tests of several rooms."""

from medkd.core.records import Question
from medkd.demo.synthetic_cases import generate_cases

SECTIONS = ("基本信息", "主诉", "现病史", "既往史", "查体", "辅助检查")


def make_questions(n: int, n_val: int = 0) -> list[Question]:
    """Make `n` questions for training, the first `n_val` of them for validation."""
    return [
        Question(
            id=f"case:{case.number}",
            case_id=f"case:{case.number}",
            source="test",
            department=case.department,
            system="",
            instruction="",
            input=" ".join(f"【{s}】{case.sections[s]}" for s in SECTIONS if s in case.sections),
            reference=case.diagnosis[0],
            split="val" if at < n_val else "train",
            deidentified_by="rules 1",
        )
        for at, case in enumerate(generate_cases(n, seed=7))
    ]
