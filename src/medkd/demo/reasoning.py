"""How the rehearsal teacher thinks: from the findings of a record, step by step, to a diagnosis.

In: a record in the one-line form of `prepare`. Out: the reasoning as text, every finding cited as
it stands in the record. For a diagnosis the clinic does not know it argues from the abnormal
findings of the record alone, which shows the form of a rationale and teaches no medicine. Not done
here: HTTP (`demo.teacher`).
"""

import random
import re
from collections.abc import Iterator

from medkd.demo.knowledge import Disease, Distractor, Family, load_knowledge, pattern_of

_SECTION = re.compile(r"【([^【】]+)】([^【]*)")
_ABNORMAL = re.compile(
    r"[↑↓]|阳性|\d|示[：:]?|痛|肿|热|咳|呕|血|红|晕|乏力|麻木|包块|增大|增厚|异常"
)
_NEGATED = re.compile(r"^(?:无|未|否认|没有|不伴)|未见|未触及|阴性|正常")
MAX_FINDINGS = 6
"""Findings cited for a diagnosis that is not in the knowledge base."""


class Reading:
    """What stands in a record of one family: the level and text of each test, and the misleading
    findings."""

    def __init__(self, family: Family, record: str) -> None:
        self.family = family
        self.levels: dict[str, tuple[str, str]] = {}
        """Test to the level and the finding as it stands in the record."""
        for name, test in family.tests.items():
            for level_name, level in test.levels.items():
                for template in level.texts:
                    for match in pattern_of(template).finditer(record):
                        if _is_in_range(template, match.group()):
                            self.levels[name] = (level_name, match.group())
        self.distractors: list[tuple[Distractor, str]] = [
            (distractor, match.group())
            for distractor in family.distractors
            if (match := pattern_of(distractor.text).search(record))
        ]

    def diagnose(self) -> Disease | None:
        """Find the disease whose whole pattern is there."""
        found = {name: level for name, (level, _) in self.levels.items()}
        return next((d for d in self.family.diseases if d.pattern == found), None)


def _is_in_range(template: str, text: str) -> bool:
    """Tell whether the numbers of a finding lie in the ranges of its template: two levels may
    differ in number alone."""
    ranges = re.findall(r"\{(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)\}", template)
    literal = re.sub(r"\{[^{}]*\}", "\0", template)
    values = re.fullmatch(re.escape(literal).replace("\0", r"(\d+(?:\.\d+)?)"), text)
    if values is None:
        return False
    return all(
        float(low) <= float(v) <= float(high)
        for (low, high), v in zip(ranges, values.groups(), strict=True)
    )


def read_record(record: str) -> Reading | None:
    """Find the family whose tests a record shows most completely; None where it shows none."""
    readings = [Reading(family, record) for family in load_knowledge().families]
    best = max(readings, key=lambda reading: len(reading.levels))
    return best if best.levels else None


def solve(record: str) -> str | None:
    """Reach a diagnosis from the record alone, or None."""
    reading = read_record(record)
    disease = reading.diagnose() if reading else None
    return disease.name if disease else None


def explain(record: str, diagnosis: str, seed: int = 0) -> str:
    """Write the reasoning that leads from a record to a known diagnosis."""
    known = load_knowledge().find(diagnosis)
    if known is None:
        return _argue(record, diagnosis)
    family, disease = known
    reading = Reading(family, record)
    if set(reading.levels) != set(family.tests):
        return _argue(record, diagnosis)
    return explain_reading(reading, disease, random.Random(seed))


def explain_reading(
    reading: Reading, disease: Disease, rng: random.Random, weighs_distractors: bool = False
) -> str:
    """Write the reasoning over the complete reading of a record; misleading findings are passed
    over unless they are to be weighed."""
    family = reading.family
    lines = [
        rng.choice(["本例属于{}，逐项解读检查。", "表现为{}，逐项解读检查。"]).format(family.name)
    ]
    for name, test in family.tests.items():
        level, text = reading.levels[name]
        lines.append(f"{text}，提示{test.levels[level].means}。")
    if weighs_distractors:
        lines += [
            f"{text}虽可见于{distractor.suggests}，但{distractor.dismissed}。"
            for distractor, text in reading.distractors
        ]
    lines.append(f"{'、'.join(family.means(disease))}并存，{disease.because}，符合{disease.name}。")
    return "\n".join(lines)


def _argue(record: str, diagnosis: str) -> str:
    """Argue from the abnormal findings of the record for a diagnosis that is not in the knowledge
    base."""
    sections = dict(_SECTION.findall(record)) or {"": record}
    complaint = sections.get("主诉", "").strip().rstrip("。") or record[:40]
    findings: list[str] = []
    for name in ("现病史", "查体", "辅助检查", "诊治经过", ""):
        chosen = [clause for clause in _clauses(sections.get(name, "")) if clause not in complaint]
        findings += chosen[: 2 if name else MAX_FINDINGS]
    lines = [f"患者的主要问题是{complaint}，先看记录中有哪些异常。"]
    lines += [f"记录中有：{finding}，这一点需要解释。" for finding in findings[:MAX_FINDINGS]]
    lines.append("把这些表现放在一起看，它们应有共同的来源，其他可能性缺少记录中的支持。")
    lines.append(f"因此考虑{diagnosis}。")
    return "\n".join(lines)


def _clauses(text: str) -> Iterator[str]:
    """Yield the clauses of a section that state something abnormal, as they stand there."""
    for clause in re.split(r"[，。；,;\s]+", text):
        if 4 <= len(clause) <= 40 and _ABNORMAL.search(clause) and not _NEGATED.search(clause):
            yield clause
