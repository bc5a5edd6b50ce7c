"""The rows of wrong_configurations.yaml, and how one is laid over a checkout."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reproduction.config import REPOSITORY, dump_yaml, merge, read_yaml

# What is right in the copy before a mistake is laid over it: one figure at the smallest scale.
CHOICES = {"scale": "mini", "experiments": ["fig04"], "tracking": {"stream": False}}


@dataclass(frozen=True)
class Wrong:
    """One wrong configuration, and the words that its message must hold."""

    name: str
    words: list[str]
    file: str = "config.yaml"
    change: dict[str, Any] = field(default_factory=dict)
    text: str | None = None
    times: int = 1
    config: list[str] = field(default_factory=list)

    @contextmanager
    def laid_over(self, checkout: Path) -> Iterator[None]:
        """Change the file in ``checkout``, and put it back."""
        path = checkout / self.file
        before = path.read_bytes()
        if self.text is not None:
            path.write_bytes(self.text.encode("latin-1") * self.times)
        else:
            values = merge(read_yaml(path), self.change)
            path.write_text(dump_yaml(values), encoding="utf-8")
        try:
            yield
        finally:
            path.write_bytes(before)


def copy_checkout(folder: Path) -> Path:
    """Copy what a user edits, and the code that reads it, to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("workflow", "scripts", "envs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "config.yaml").write_text(yaml.safe_dump(CHOICES), encoding="utf-8")
    return folder


def load_table() -> list[Wrong]:
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return [Wrong(**row) for row in yaml.safe_load(text)]
