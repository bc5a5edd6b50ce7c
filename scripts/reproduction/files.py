"""Files that are either whole or absent, and their checksums.

A killed job must never leave half a file behind: everything is written beside its target under a temporary
name, flushed to the disk, then renamed, which the operating system does at once or not at all.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on an error it is removed.

    The caller writes and closes the temporary file inside the ``with`` block. Missing folders are made. The
    temporary name keeps the suffix, since some writers add one of their own where it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; on success it replaces the whole folder ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _temporary_name(path), _temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _flush(file)
        _flush(temporary)
        if path.exists():
            path.replace(old)
        temporary.replace(path)
        _flush(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON in the order given, atomically.

    NumPy scalars and arrays are written as numbers and lists. NaN and infinity have no JSON form and raise
    ``ValueError``.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    write_text(path, text + "\n")


def put_between(page: str, name: str, command: str, text: str) -> str:
    """Return ``page`` with ``text`` between the two comments that mark the place that ``command`` writes.

    Raises ValueError where the page lacks one of them.
    """
    first, last = f"<!-- {name}, by `{command}` -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(first)
    _, ended, after = rest.partition(last)
    if not (found and ended):
        raise ValueError(f"the page lacks {first!r} ... {last!r}, between which `{command}` writes")
    return f"{before}{first}\n\n{text}\n\n{last}{after}"


def load_json(path: str | Path) -> Any:
    """Return what a file in UTF-8 holds as JSON."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def checksums(folder: Path) -> dict[str, str]:
    """Return {name: SHA-256} of the files in ``folder``, sorted by name."""
    return {file.name: sha256_of_file(file) for file in sorted(folder.iterdir())}


def write_parquet(frame: pd.DataFrame, path: str | Path) -> None:
    """Write ``frame`` without its index, atomically."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def link(source: Path, target: Path) -> None:
    """Hard link, or copy where the file systems of the two differ."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP):
            raise
        shutil.copy2(source, target)


def sha256_of_file(path: str | Path) -> str:
    """Return the SHA-256 of the bytes of ``path`` in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_model(folder: str | Path) -> str:
    """Return one checksum for a model's weights: of its file, or of the checksums of its shards.

    Raises FileNotFoundError for a folder without weights in safetensors format.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder}: no weights in safetensors format")
    if len(files) == 1:
        return sha256_of_file(files[0])
    shards = "".join(f"{file.name} {sha256_of_file(file)}\n" for file in files)
    return hashlib.sha256(shards.encode()).hexdigest()


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp{path.suffix}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")
