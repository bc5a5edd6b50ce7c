"""Files of a data set: found in a local folder or fetched from a hub, checked, then read row by row."""

import json
import os
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
    """A file whose checksum is known; ``name`` is its name at the source."""

    path: Path
    name: str
    sha256: str


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
    return [SourceFile(path, source.file, found)]


def hub_files(
    source: HubFiles,
    *,
    cache: str | Path | None = None,
    accept_unpinned: bool = False,
    kind: str = "dataset",
) -> tuple[str, list[SourceFile]]:
    """Fetch the files of ``source`` and return the commit they are of, and the files.

    Files already in ``cache`` (default: the hub client's own cache) are not fetched again. Raises
    ``DatasetError`` if a file cannot be had, if its checksum differs, or, unless ``accept_unpinned``, if the
    table has no revision or checksum for it; that message prints what to write there.
    """
    files = []
    for name in source.files:
        path = _download(source, name, cache, kind)
        files.append(SourceFile(path, name, sha256_of_file(path)))
    # The client stores a file below snapshots/{commit}/.
    parts = files[0].path.parts
    revision = parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1]

    for file in files:
        expected = source.files[file.name]
        if expected is not None and file.sha256 != expected:
            raise DatasetError(
                f"{source.repository}: {file.name}: the checksum does not match\n  expected {expected}\n"
                f"  found    {file.sha256}\nDelete {file.path} to fetch it again; nothing was written"
            )
    missing = [file for file in files if source.files[file.name] is None]
    if (missing or source.revision is None) and not accept_unpinned:
        pins = [f"  revision: {revision}", "  files:", *(f"    {file.name}: {file.sha256}" for file in files)]
        raise DatasetError(
            f"{source.repository}: the table has no verified revision or checksum for this source, so it was "
            "fetched but not used. It is now\n" + "\n".join(pins) + "\nCompare these with a source you trust "
            "and write them into the table, or pass --accept-unpinned"
        )
    return revision, files


def _download(source: HubFiles, name: str, cache: str | Path | None, kind: str) -> Path:
    import httpx  # the hub client's own HTTP library; imported here since local files do not need it
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    endpoint = os.environ.get(
        "HF_ENDPOINT", constants.ENDPOINT
    )  # as it is now, not when the client was loaded
    where = f"{source.repository}@{source.revision or 'main'}"
    elsewhere = {
        "dataset": ", or set paths.real_data to a folder with local copies",
        "model": ", or take a model that workflow/models.yaml finds elsewhere",
    }
    try:
        path = hf_hub_download(
            source.repository,
            name,
            repo_type=kind,
            revision=source.revision,
            cache_dir=cache,
            endpoint=endpoint,
        )
    except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError: the hub did not answer at all
        raise DatasetError(
            f"{where}: {name}: {endpoint} cannot be reached and the file is not in the cache. Try "
            f"again with a connection{elsewhere[kind]}"
        ) from error
    except EntryNotFoundError as error:
        raise DatasetError(f"{where}: the repository has no file {name!r}; correct the table") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DatasetError(
            f"{where}: {endpoint} has no such {kind} or revision, or it is not open to you"
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise DatasetError(
            f"{where}: {name}: the download from {endpoint} broke off ({error}); run it again"
        ) from error
    return Path(path)


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
    if not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines):
        yield f"row {number} (line {number + 1})", _parse(line)


def _parse(line: bytes) -> dict | BadRow:
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        return BadRow("not_utf8", f"not UTF-8 text ({error})")
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", f"not JSON ({error}): {line[:60]!r}")
    if not isinstance(value, dict):
        return BadRow("not_an_object", f"wanted a JSON object, found {value!r:.60}")
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
