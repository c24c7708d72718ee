"""Make `grading/tables/rarity.yaml`: how rarely Chinese texts hold a character, in nats.

In: the frequencies of jieba's dictionary (MIT). Out: the table, characters by half a nat.

    PYTHONPATH=src python tools/make_rarity.py
"""

import math
from collections import Counter
from pathlib import Path

import medkd.grading
from medkd.text.normalize import load_jieba

RARITY = Path(medkd.grading.__file__).parent / "tables" / "rarity.yaml"

SMOOTHING = 50
"""Times that a character counts as seen at the least."""
HEAD = "# Made by tools/make_rarity.py: how rarely Chinese texts hold a character, in nats.\n"


def main() -> None:
    counts = Counter[str]()
    total = 0
    with load_jieba().get_dict_file() as file:
        for line in file.read().decode("utf-8").splitlines():
            word, frequency, *_ = line.split(" ")
            total += int(frequency)
            for character in word:
                counts[character] += int(frequency)
    bands: dict[float, list[str]] = {}
    for character, n in sorted(counts.items()):
        if "一" <= character <= "鿿":
            nats = round(2 * math.log(total / (n + SMOOTHING))) / 2
            bands.setdefault(nats, []).append(character)
    lines = [f"{nats}: {''.join(found)}\n" for nats, found in sorted(bands.items())]
    RARITY.write_text(HEAD + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
