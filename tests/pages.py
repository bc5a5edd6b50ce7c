"""The committed pages, and what they tell a reader to write and to run."""

import re
import shlex
import subprocess
from pathlib import Path

from reproduction.config import REPOSITORY

EXTEND = REPOSITORY / "docs" / "extend.md"
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"


def pages() -> list[Path]:
    """Return every committed Markdown page."""
    listed = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [REPOSITORY / name for name in listed.stdout.splitlines()]


def all_blocks(page: Path) -> list[tuple[str, str]]:
    """Return the fenced blocks of a page in order, each as its language (empty where it names none) and its text."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str = "") -> list[str]:
    """Return the fenced blocks of a page in ``language``; the empty language is a block that names none."""
    return [block for name, block in all_blocks(page) if name == language]


def extensions(page: Path = EXTEND) -> dict[str, str]:
    """Return table (a file of workflow/) -> the entry that a page adds to it."""
    entries = {}
    for block in blocks(page, "yaml"):
        comment, _, entry = block.partition("\n")
        if found := re.fullmatch(r"# workflow/(\w+)\.yaml", comment):
            entries[found[1]] = entry
    return entries


def additions(page: Path = EXTEND) -> list[tuple[str, str]]:
    """Return what a page adds to the project, in order: path, and the text that ends or is that file.

    A block's first line is a comment with the path, as ``# workflow/samplers.yaml``; a remark may follow a comma.
    """
    found = []
    for language, block in all_blocks(page):
        comment, _, text = block.partition("\n")
        path = re.fullmatch(r"# ((?:scripts|workflow)/[\w/]+\.(?:py|yaml))(?:,.*)?", comment)
        if language in ("python", "yaml") and path:
            found.append((path[1], text))
    return found


def commands(page: Path) -> list[list[str]]:
    """Return the commands of a page's blocks as words, without remarks (after # or two spaces) and without paths."""
    return [words for block in blocks(page) for words in commands_of(block)]


def commands_of(block: str) -> list[list[str]]:
    """Return the commands of one block, as :func:`commands`."""
    found = []
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        said = re.split(r"\s#\s|\s{2,}", line.strip())[0]
        for part in said.split(" && "):
            words = shlex.split(part) if re.match(r"[\w./]*(snakemake|make|python)\s", part + " ") else []
            if words:
                found.append([words[0].rsplit("/", 1)[-1], *words[1:]])
    return found
