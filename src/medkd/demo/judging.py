"""What the rehearsal teacher says as a judge and as a writer of rubrics: by likeness of words.

In: the turns of a request. Out: the JSON object that it asks for, or None where it asks for none.
It shows that the machinery runs and knows nothing of medicine. Not done here: explaining cases.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medkd.text.normalize import make_plain
from medkd.text.similarity import similarity

ALIKE = 0.5
"""Likeness from which two texts count as the same."""
N_FINDINGS = 5
_CRITERION = re.compile(r"(?m)^- (\w+): .*?One of: ([^\n]+)\.$")
_QUOTED = re.compile(r"[「\"]([^」\"]+)[」\"]")
_CLAUSE = re.compile(r"[^，。；、,;\n：:【】]{3,24}")


def answer_json(turns: Sequence[tuple[str, str]]) -> str | None:
    """Answer a judge's question or write a rubric, if that is what is asked."""
    if not turns or turns[0][0] != "system":
        return None
    system, user = turns[0][1], turns[-1][1]
    if "<reference>" in user and '"criteria"' in system:
        return _write_rubric(user)
    labels = {name: said.split(", ") for name, said in _CRITERION.findall(system)}
    if not labels or "JSON object" not in system:
        return None
    try:
        material = json.loads(user)
    except ValueError:
        return None
    said = {name: _choose(name, choices, material) for name, choices in labels.items()}
    return json.dumps({**said, "why": "by likeness of the words"}, ensure_ascii=False)


def _choose(name: str, labels: Sequence[str], material: Mapping[str, Any]) -> str:
    """Choose a label: by likeness where there is something to compare, else the middle one."""
    texts = {key: make_plain(str(text)) for key, text in material.items()}
    if name == "verdict":
        return "right" if similarity(texts["answer"], texts["reference"], 2) >= ALIKE else "wrong"
    if name == "better":
        one, two = (
            similarity(texts[key], texts["reference"], 2) for key in ("answer_1", "answer_2")
        )
        return "tie" if one == two else "first" if one > two else "second"
    if name == "met":
        quoted = _QUOTED.findall(str(material["criterion"]))
        return "yes" if any(make_plain(q) in texts["answer"] for q in quoted) else "no"
    return labels[len(labels) // 2]


def _write_rubric(user: str) -> str:
    """Write a rubric: the known answer, findings of the record, and one fault."""
    reference = user.partition("<reference>")[2].partition("</reference>")[0]
    record = user.partition("<record>")[2].rpartition("</record>")[0]
    known = re.split("[；;]", reference)[0].strip()
    found = [clause.strip() for clause in _CLAUSE.findall(record) if clause.strip()]
    criteria = [{"criterion": f"说出「{known}」", "points": 10, "quote": known}]
    criteria += [
        {"criterion": f"提到「{clause}」", "points": 2, "quote": clause}
        for clause in list(dict.fromkeys(found))[:N_FINDINGS]
    ]
    criteria.append({"criterion": f"称「排除{known}」", "points": -8, "quote": known})
    return json.dumps({"criteria": criteria}, ensure_ascii=False)
