"""How many statements of the answer does `prepare` take out of English records, and how much that
must stay?

In: `english_leaks/*.jsonl`, invented records that were written without knowing the rules: sections,
diagnoses, the phrases that state the principal one (`leaks`), and those that only look like it or
lead to it (`must_stay`). `first` was met by rules that knew names as listed; the rules by words
came of it. `second` was met by these for the first time. Out: a table on the screen.
Run: `.venv/bin/python bench/leaks.py [--show]`
"""

import argparse
import json
from pathlib import Path
from typing import Any

from medkd.prepare.aliases import collect_aliases
from medkd.prepare.leakage import remove_answer

FOLDER = Path(__file__).parent / "english_leaks"
SECTIONS = {
    "Chief complaint": "主诉",
    "History of present illness": "现病史",
    "Past history": "既往史",
    "Family history": "家族史",
    "Examination": "查体",
    "Investigations": "辅助检查",
    "Course": "诊治经过",
}


def find_faults(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """List the statements that are left in a record, and what was lost of what must stay."""
    aliases = collect_aliases(record["diagnosis"])
    after = {
        section: remove_answer(text, aliases, SECTIONS[section]).lower()
        for section, text in record["sections"].items()
    }
    left = [phrase for section, phrase in record["leaks"] if phrase.lower() in after[section]]
    kept = record["must_stay"]
    return left, [phrase for section, phrase in kept if phrase.lower() not in after[section]]


def main() -> None:
    """Measure each set and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="list each fault")
    options = parser.parse_args()
    print(
        "| set | records | statements | taken out | must stay | lost |\n|---|---|---|---|---|---|"
    )
    shown: list[str] = []
    for path in sorted(FOLDER.glob("*.jsonl")):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        faults = [find_faults(record) for record in records]
        n_leaks, n_stay = (sum(len(r[key]) for r in records) for key in ("leaks", "must_stay"))
        n_left, n_lost = (sum(len(fault[side]) for fault in faults) for side in (0, 1))
        print(
            f"| {path.stem} | {len(records)} | {n_leaks} | {1 - n_left / n_leaks:.2f} "
            f"| {n_stay} | {n_lost / n_stay:.3f} |"
        )
        for record, (left, lost) in zip(records, faults, strict=True):
            shown += [f"{record['id']} left: {phrase}" for phrase in left]
            shown += [f"{record['id']} lost: {phrase}" for phrase in lost]
    if options.show:
        print("\n".join(["", *shown]))


if __name__ == "__main__":
    main()
