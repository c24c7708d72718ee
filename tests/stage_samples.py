"""Records for the stages over records, enough of them to be shared among workers."""

from pathlib import Path
from typing import Any

from medkd.core.jsonl import write_records
from medkd.core.records import Cost, Question, Rationale, Usage
from medkd.demo.synthetic_cases import generate_cases
from medkd.stages import STAGES

N = 300
REASONING = (
    "患者腹痛{}天，起病较急，年龄尚轻。腹痛位于右下腹时首先考虑阑尾受累，需与胆囊炎、肠梗阻、"
    "输尿管结石相鉴别：胆囊炎压痛多在右上腹，结石多为绞痛并向会阴部放射，肠梗阻有停止排气，"
    "均与本例不符。综合病史与症状，诊断指向急性阑尾炎。"
)


def write_cases(folder: Path) -> Path:
    cases = generate_cases(N, seed=5)
    write_records(folder / "raw_cases.jsonl", (case.to_raw_case() for case in cases))
    return folder


def write_rationales(folder: Path) -> Path:
    def make(number: int) -> Rationale:
        text = f"【主诉】腹痛{number}天，伴第{number * 7919}号症状，{number % 50}岁。"
        question = Question(
            id=f"q:{number}", case_id=f"q:{number}", source="site", system="S", instruction="I", input=text, reference="急性阑尾炎",
            split="train", deidentified_by="rules 1",
        )  # fmt: skip
        return Rationale(
            id=f"q:{number}", question=question, reasoning=REASONING.format(number), sample=0,
            answer="急性阑尾炎", finish_reason="stop", complete=True, model="teacher",
            mode="rationalize", attempts=1, usage=Usage(), cost=Cost(),
        )  # fmt: skip

    write_records(folder / "rationales.jsonl", map(make, range(N)))
    return folder


def run_stage(stage: str, given: Path, out: Path, **fields: Any) -> Path:
    module = STAGES[stage].load()
    module.run(module.Config(input=(given,) if stage == "merge" else given, out=out, **fields))
    return out
