"""Files of a data set: found in a local folder or fetched from a hub, checked, then read row by row."""

import codecs
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reproduction.data.adapters import BadRow
from reproduction.data.schema import DatasetError
from reproduction.data.table import HubFiles, LocalSource
from reproduction.files import sha256_of_file


@dataclass(frozen=True)
class SourceFile:
    """A file whose checksum is known; ``name`` is its name at the source.

    ``verified_by`` is what the checksum was compared with: ``table``, or what the hub states for the pinned revision,
    ``hub sha256`` (of large files) or ``hub git-sha1`` (of others); None where nothing pins the file.
    """

    path: Path
    name: str
    sha256: str
    verified_by: str | None


def find_local_copy(source: LocalSource, folder: str | Path) -> Path:
    """Return the file of ``source`` in ``folder``. Raises ``DatasetError`` if it is missing."""
    path = Path(folder) / source.file
    if not path.is_file():
        raise DatasetError(
            f"{path}: no such file. Copy it there from {source.origin}, or set paths.real_data to null "
            "to use the hub"
        )
    return path


def local_files(source: LocalSource, folder: str | Path) -> list[SourceFile]:
    """Return the file of ``source`` in ``folder``. Raises ``DatasetError`` if it is missing or changed."""
    path = find_local_copy(source, folder)
    found = sha256_of_file(path)
    if found != source.sha256:
        raise DatasetError(
            f"{path}: the checksum does not match\n  expected {source.sha256}\n  found    {found}\n"
            f"Replace the file by the one from {source.origin}; nothing was written"
        )
    return [SourceFile(path, source.file, found, "table")]


def hub_files(
    source: HubFiles,
    *,
    cache: str | Path | None = None,
    accept_unpinned: bool = False,
    kind: str = "dataset",
) -> tuple[str, list[SourceFile]]:
    """Fetch the files of ``source`` and return the commit they are of, and the files.

    A pinned revision fixes the content: the hub states a SHA-256 for large files and git's SHA-1 of a blob for the
    others. Each file is compared with the table's checksum, or with the hub's where the table has none. Files already
    in ``cache`` (default: the hub client's own cache) are not fetched again, and neither they nor those that a
    connection cut short are asked for twice. Raises ``DatasetError`` if a file cannot be had or its checksum differs.
    Without a pinned revision it says so before anything is fetched, unless ``accept_unpinned``.
    """
    if source.revision is None and (source.files is None or not accept_unpinned):
        raise _unpinned(source, kind)
    files = [_verified(source, name, cache, kind) for name in source.files]
    # The client stores a file below snapshots/{commit}/.
    parts = files[0].path.parts
    return parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1], files


def obtainable(source: HubFiles, *, cache: str | Path | None = None, kind: str = "dataset") -> str:
    """Say where the files of ``source`` would come from. Nothing is fetched.

    Raises ``DatasetError`` as ``hub_files`` would: without a pinned revision, and for a file that is neither in the
    cache nor to be had from the hub (no connection, no such revision, a licence that was not accepted).
    """
    from huggingface_hub import try_to_load_from_cache

    if source.revision is None:
        raise _unpinned(source, kind)
    where = dict(repo_type=kind, revision=source.revision, cache_dir=cache)
    absent = [
        name
        for name in source.files
        if not isinstance(try_to_load_from_cache(source.repository, name, **where), str)
    ]
    for name in absent:
        _stated(source, name, kind)
    cached = len(source.files) - len(absent)
    return f"{cached} files in the hub client's cache" + (f", {len(absent)} on the hub" if absent else "")


def _unpinned(source: HubFiles, kind: str) -> DatasetError:
    revision, names = _current(source, kind)
    pins = [f"  revision: {revision}", "  files:", *(f"    {name}: null" for name in names)]
    return DatasetError(
        f"{source.repository}: the table pins no revision, so nothing was fetched. It is now\n"
        + "\n".join(pins)
        + "\nCompare the revision with a source you trust and write it into the table with the files you want"
        + (" and their number of rows" if kind == "dataset" else "")
        + ("" if source.files is None else ", or pass --accept-unpinned")
    )


def describe(source: HubFiles, revision: str, files: Sequence[SourceFile]) -> dict[str, Any]:
    """What a manifest says of files from a hub."""
    return {
        "kind": "hub",
        "repository": source.repository,
        "revision": revision,
        "pinned": all(file.verified_by for file in files),
        "files": [
            {"name": file.name, "sha256": file.sha256, "verified_by": file.verified_by} for file in files
        ],
    }


def _verified(source: HubFiles, name: str, cache: str | Path | None, kind: str) -> SourceFile:
    """Fetch one file and compare it with the table, or with what the hub states for the pinned revision."""
    from huggingface_hub import try_to_load_from_cache

    expected, stated = source.files[name], None
    where = dict(repo_type=kind, revision=source.revision, cache_dir=cache)
    if source.revision and not isinstance(try_to_load_from_cache(source.repository, name, **where), str):
        stated, _ = _stated(source, name, kind)
        if expected and _is_sha256(stated) and stated != expected:  # before gigabytes are fetched in vain
            raise _mismatch(source, name, expected, stated, "correct the table; nothing was fetched")
    path = _download(source, name, cache, kind)
    found = sha256_of_file(path)
    if expected:
        if found != expected:
            raise _mismatch(source, name, expected, found, _fetch_again(path))
        return SourceFile(path, name, found, "table")
    if source.revision is None:
        return SourceFile(path, name, found, None)
    # The client names a file of its cache by what the hub stated, where the file system has links.
    blob = path.resolve()
    stated = blob.name if blob.parent.name == "blobs" else stated or _stated(source, name, kind)[0]
    sha256 = _is_sha256(stated)
    computed = found if sha256 else _git_sha1(path)
    if computed != stated:
        raise _mismatch(source, name, stated, computed, _fetch_again(path))
    return SourceFile(path, name, found, "hub sha256" if sha256 else "hub git-sha1")


def _mismatch(source: HubFiles, name: str, expected: str, found: str, remedy: str) -> DatasetError:
    return DatasetError(
        f"{source.repository}: {name}: the checksum does not match\n  expected {expected}\n  found    {found}\n{remedy}"
    )


def _fetch_again(path: Path) -> str:
    return f"Delete {path.resolve()} to fetch it again; nothing was written"


def _is_sha256(checksum: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", checksum) is not None


def _git_sha1(path: Path) -> str:
    """The name that git gives a file's content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _stated(source: HubFiles, name: str, kind: str) -> tuple[str, str]:
    """Return what the hub states of a file: its checksum, and the commit it is of. Nothing is fetched."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    where = dict(repo_type=kind, revision=source.revision)
    with _explained(source, name, kind) as endpoint:
        found = get_hf_file_metadata(hf_hub_url(source.repository, name, endpoint=endpoint, **where))
    if not found.etag or not found.commit_hash:
        raise DatasetError(f"{source.repository}: {name}: {endpoint} states no checksum or no commit of it")
    return found.etag, found.commit_hash


def _current(source: HubFiles, kind: str) -> tuple[str, list[str]]:
    """Return the commit that the hub's main branch is at, and its data files. Nothing is fetched."""
    from huggingface_hub import HfApi

    with _explained(source, "the list of files", kind) as endpoint:
        found = HfApi(endpoint=endpoint).repo_info(source.repository, repo_type=kind)
    names = [file.rfilename for file in found.siblings]
    return found.sha, [name for name in names if name != ".gitattributes" and not name.endswith(".md")]


def _download(source: HubFiles, name: str, cache: str | Path | None, kind: str) -> Path:
    from huggingface_hub import hf_hub_download

    where = dict(repo_type=kind, revision=source.revision, cache_dir=cache)
    with _explained(source, name, kind) as endpoint:
        return Path(hf_hub_download(source.repository, name, endpoint=endpoint, **where))


@contextlib.contextmanager
def _explained(source: HubFiles, name: str, kind: str) -> Iterator[str]:
    """Yield the hub's address; what goes wrong there says what to do."""
    import httpx  # the hub client's own HTTP library; imported here since local files do not need it
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # As it is now, not when the client was loaded.
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    where = f"{source.repository}@{source.revision or 'main'}"
    elsewhere = {
        "dataset": ", or set paths.real_data to a folder with local copies",
        "model": ", or take a model that workflow/models.yaml finds elsewhere",
    }
    unreachable = (
        f"{where}: {name}: {endpoint} cannot be reached and the file is not in the cache. Try "
        f"again with a connection{elsewhere[kind]}"
    )
    try:
        yield endpoint
    except (LocalEntryNotFoundError, httpx.ConnectError) as error:  # the hub did not answer at all
        raise DatasetError(unreachable) from error
    except EntryNotFoundError as error:
        raise DatasetError(f"{where}: the repository has no file {name!r}; correct the table") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DatasetError(
            f"{where}: {endpoint} has no such {kind} or revision, or it is not open to you"
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise DatasetError(
            f"{where}: {name}: the download from {endpoint} broke off ({error}); run it again: whole files stay"
        ) from error


@dataclass(frozen=True)
class SourceRow:
    """Row ``index`` of a source (all files together), or the reason why it could not be read."""

    index: int
    place: str
    value: dict[str, Any] | BadRow


def read_rows(files: Sequence[SourceFile], columns: Sequence[str]) -> Iterator[SourceRow]:
    """Yield every row of ``files`` in order; ``columns`` are the ones needed.

    A row that cannot be read is yielded as ``BadRow``. Raises ``DatasetError`` for an unreadable file.
    """
    index = 0
    for file in files:
        reader = _read_parquet if file.path.suffix == ".parquet" else _read_jsonl
        for place, value in reader(file, columns):
            yield SourceRow(index, f"{file.name}: {place}", value)
            index += 1


def _read_jsonl(file: SourceFile, columns: Sequence[str]) -> Iterator[tuple[str, dict | BadRow]]:
    lines = file.path.read_bytes().split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines):
        yield f"row {number} (line {number + 1})", _parse(line)


def _parse(line: bytes) -> dict | BadRow:
    try:
        # Some programs put a byte order mark before a file's first line; files that were joined have more of them.
        value = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        return BadRow("not_utf8", f"not UTF-8 text ({error})")
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", f"not JSON ({error}): {line[:60]!r}")
    if not isinstance(value, dict):
        return BadRow("not_an_object", f"expected a JSON object, found {value!r:.60}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a repeated key win silently; nobody knows which of two answers is right."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.80} appears twice")
    return values


def _read_parquet(file: SourceFile, columns: Sequence[str]) -> Iterator[tuple[str, dict | BadRow]]:
    number = 0
    try:
        with pq.ParquetFile(file.path) as parquet:
            present = [name for name in columns if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=4096, columns=present):
                for value in _to_rows(batch):
                    yield f"row {number}", value
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"{file.path}: not a readable Parquet file after row {number} ({error}); it may be truncated: "
            "fetch it again"
        ) from error


def _to_rows(batch: pa.RecordBatch) -> list[dict | BadRow]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # Arrow does not say in which row
        rows: list[dict | BadRow] = []
        for place in range(batch.num_rows):
            try:
                rows += batch.slice(place, 1).to_pylist()
            except UnicodeDecodeError as error:
                rows.append(BadRow("not_utf8", f"not UTF-8 text ({error})"))
        return rows
