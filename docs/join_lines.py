"""A hook of MkDocs for the Chinese site: a line break within Chinese text is no space."""

import re
from typing import Any

FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
WIDE = r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]"
BREAK = re.compile(rf"(?<={WIDE})\n[ >]*(?={WIDE})(?!\n)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Join the lines of Chinese paragraphs; code blocks stay as they are."""
    parts = FENCE.split(markdown)
    return "".join(part if at % 2 else BREAK.sub("", part) for at, part in enumerate(parts))
