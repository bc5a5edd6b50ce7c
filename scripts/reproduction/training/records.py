"""Append-only records of a training: one JSON object per line, one line per step."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def append(path: Path, values: Mapping[str, Any]) -> None:
    """Add one record; it is with the operating system when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole records of ``path``; a last line that a kill cut short is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def truncate(path: Path, step: int) -> None:
    """Cut the file after the records of the first ``step`` steps; those that follow are made again."""
    if not path.exists():
        return
    kept = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            kept += len(line)
    os.truncate(path, kept)


def flush(path: Path) -> None:
    """Return when the records are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
