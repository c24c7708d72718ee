"""Words and reading grade of README beside those of other projects.

`python bench/readme.py [FILE …]`: README.md of this checkout, then each FILE, a README that was
downloaded. Prose alone is read: code, tables, headings, pictures, markup and addresses are left
out. The grade is Flesch and Kincaid's; syllables are counted as groups of vowels.
"""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
BREAK = re.compile(r"[.!?:;](?:\s|$)|\n\s*\n|\n\s*[-*] ")
WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")


def read_prose(text: str) -> str:
    """Return the prose of a Markdown text.

    >>> read_prose("# Head\\n\\nRead [this](a.md) first.\\n\\n```bash\\nls\\n```\\n").strip()
    'Read this first.'
    """
    fenced = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = re.sub(r"\*\*|`", "", LINK.sub(r"\1", re.sub(r"!\[[^\]]*\]\([^)]*\)", "", fenced)))
    return re.sub(r"(?m)<[^>]+>|^\s*[|#>].*$|https?://\S+", "", lines)


def count_syllables(word: str) -> int:
    """Count groups of vowels, a silent e at the end left out."""
    groups = len(re.findall(r"[aeiouy]+", word.lower()))
    return max(1, groups - (word.lower().endswith("e") and not word.lower().endswith("le")))


def main() -> None:
    own = Path(__file__).parents[1] / "README.md"
    for path in (own, *map(Path, sys.argv[1:])):
        prose = read_prose(path.read_text(encoding="utf-8"))
        sentences = [words for part in BREAK.split(prose) if len(words := WORD.findall(part)) > 2]
        words = [word for sentence in sentences for word in sentence]
        syllables = sum(map(count_syllables, words)) / len(words)
        grade = 0.39 * len(words) / len(sentences) + 11.8 * syllables - 15.59
        print(
            f"{path}: {len(words):,} words of prose, {len(words) / len(sentences):.1f} a sentence, "
            f"grade {grade:.1f}"
        )


if __name__ == "__main__":
    main()
