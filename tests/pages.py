"""The committed pages, and what they tell a reader to write and to run."""

import re
from pathlib import Path

from ead.pipeline.config import REPOSITORY

EXTEND = REPOSITORY / "docs" / "extend.md"


def blocks(page: Path, language: str = "") -> list[str]:
    """Return the fenced blocks of a page in ``language``; the empty language is a block that names none."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def extensions() -> dict[str, str]:
    """Return table (a file of workflow/) -> the entry that docs/extend.md adds to it."""
    entries = {}
    for block in blocks(EXTEND, "yaml"):
        comment, _, entry = block.partition("\n")
        if found := re.fullmatch(r"# workflow/(\w+)\.yaml", comment):
            entries[found[1]] = entry
    return entries
