"""Which code made a result: the commit, and the checksums of the sources that were loaded."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from reproduction.config import REPOSITORY
from reproduction.files import sha256_of_file


@cache
def code_version() -> dict[str, str | bool]:
    """Return the commit of the checkout and whether tracked files differ from it; recorded, never hashed.

    Raises RuntimeError where git was killed: a record must not depend on that.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode < 0:  # no answer at all is not the answer of a folder that is no checkout
            raise RuntimeError(f"{' '.join(command)} was ended by signal {-done.returncode}")
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return {
        "commit": commit or "unknown",
        "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
    }


def loaded_sources(also: Iterable[Path] = ()) -> dict[str, str]:
    """Return file below scripts/ -> SHA-256 of what this process has loaded of the project, and of the files ``also``.

    It is recorded, never hashed: edited code makes a run stale, not another run.
    """
    folder = REPOSITORY / "scripts"
    files = {
        Path(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None)
    }
    ours = sorted(file for file in files | set(also) if file.is_relative_to(folder))
    return {file.relative_to(folder).as_posix(): sha256_of_file(file) for file in ours}


def changed_sources(recorded: Mapping[str, str]) -> list[str]:
    """Return those of the recorded files (:func:`loaded_sources`) that differ now or are gone."""
    folder = REPOSITORY / "scripts"
    return [
        name
        for name, checksum in recorded.items()
        if not (folder / name).is_file() or sha256_of_file(folder / name) != checksum
    ]
