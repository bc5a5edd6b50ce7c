"""From a source to results/data/{dataset}.parquet and its data card."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reproduction.data.adapters import Adapter, BadRow, Skip, SourceProblem
from reproduction.data.prompts import PROMPTS
from reproduction.data.schema import SCHEMA, DatasetError, make_row, write_dataset
from reproduction.data.sources import SourceFile, SourceRow, describe, hub_files, local_files, read_rows
from reproduction.data.table import DatasetEntry, HubSource, LocalSource
from reproduction.files import sha256_of_file, write_json


class Dropped:
    """Rows left out, by reason."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}

    def add(self, reason: str, row: int) -> None:
        self.rows.setdefault(reason, []).append(row)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return reason -> count and row numbers (from 0; ``3-5`` is 3, 4 and 5)."""
        return {
            reason: {"count": len(rows), "rows": _ranges(sorted(rows))}
            for reason, rows in sorted(self.rows.items())
        }


def prepare_dataset(
    name: str,
    entry: DatasetEntry,
    output: str | Path,
    card: str | Path,
    *,
    real_data: str | Path | None = None,
    cache: str | Path | None = None,
    tokenizer: str | Path | None = None,
    any_length: bool = False,
    accept_unpinned: bool = False,
) -> dict[str, Any]:
    """Write the data set ``name`` to ``output`` and what was done to ``card``; return the card.

    The source is the local copy in ``real_data`` where that is given and the entry has one, else the hub
    (``cache`` is the hub client's folder). ``tokenizer`` is a folder with a tokenizer.json, or that file; an entry
    that limits the length of its problems wants one, unless ``any_length`` leaves that limit out. The same inputs
    give the same bytes. Raises ``DatasetError``, and then writes nothing, if a checksum or a
    number of rows is not as the table says, or for the first broken row unless the entry drops those.
    """
    if entry.max_problem_tokens is not None and tokenizer is None and not any_length:
        raise DatasetError(
            f"{name}: problems of more than {entry.max_problem_tokens} tokens are left out, which needs a tokenizer: "
            f"give that of {entry.tokenizer} (--tokenizer), or keep problems of any length (--any-length)"
        )
    source, files, origin = _source(name, entry, real_data, cache, accept_unpinned)
    reader, dropped = source.reader, Dropped()
    problems, read = _select(name, entry, read_rows(files, reader.columns), reader, dropped)
    if source.rows is not None and read != source.rows:
        raise DatasetError(f"{name}: {_names(files)}: read {read} rows, the table says {source.rows}")
    length_filter = _drop_long(entry, problems, tokenizer, dropped)
    if not problems:
        reasons = {reason: found["count"] for reason, found in dropped.summary().items()}
        raise DatasetError(f"{name}: {_names(files)}: no row is left; dropped {reasons}")

    template = PROMPTS[entry.prompt]
    rows = [
        make_row(
            data_source=name,
            prompt=template.messages(problem.asked),
            ground_truth=problem.answer,
            id=f"{name}/{index if problem.id is None else problem.id}",
            index=index,
            split=entry.split,
            ability=entry.ability,
            details=_details(problem),
        )
        for index, problem in sorted(problems.items())
    ]
    facts = {
        "name": name,
        "title": entry.title,
        "licence": entry.licence,
        "role": entry.role,
        "split": entry.split,
        "source": {
            **origin,
            "adapter": source.adapter or source.columns.model_dump(),
        },
        "prompt": {"template": entry.prompt, **vars(template)},
        "rows": {"read": read, "kept": len(rows), "dropped": read - len(rows)},
        "dropped": dropped.summary(),
        "answers_rewritten": sum(problem.published_answer is not None for problem in problems.values()),
        "on_bad_row": entry.on_bad_row,
        "unique": entry.unique,
        "length_filter": length_filter,
        "columns": {field.name: str(field.type) for field in SCHEMA},
        "content_sha256": _digest(rows),
        "example": rows[0],
    }
    write_dataset(rows, output)
    write_json(card, facts)
    return facts


def _source(
    name: str,
    entry: DatasetEntry,
    real_data: str | Path | None,
    cache: str | Path | None,
    accept_unpinned: bool,
) -> tuple[LocalSource | HubSource, Sequence[SourceFile], dict[str, Any]]:
    """Return the source that is used, its files, and what the card says of it."""
    if real_data is not None and entry.local is not None:
        local = local_files(entry.local, real_data)
        named = [{"name": file.name, "sha256": file.sha256} for file in local]
        return entry.local, local, {"kind": "local", "origin": entry.local.origin, "files": named}
    if entry.hub is not None:
        revision, files = hub_files(entry.hub, cache=cache, accept_unpinned=accept_unpinned)
        return entry.hub, files, describe(entry.hub, revision, files)
    raise DatasetError(
        f"{name}: the table has only a local copy ({entry.local.file}); set paths.real_data to its folder"
    )


def check_local_copy(name: str, entry: DatasetEntry, real_data: str | Path) -> None:
    """Read the local copy of the data set ``name`` and write nothing: the check before any job starts.

    Raises ``DatasetError`` for what :func:`prepare_dataset` would refuse: a checksum or a number of rows that the
    table does not state, a broken row. A copy that is not there passes: what needs it will say so.
    """
    if entry.local is None or not (Path(real_data) / entry.local.file).is_file():
        return
    files = local_files(entry.local, real_data)
    reader = entry.local.reader
    _, read = _select(name, entry, read_rows(files, reader.columns), reader, Dropped())
    if read != entry.local.rows:
        raise DatasetError(f"{name}: {_names(files)}: read {read} rows, the table says {entry.local.rows}")


def _select(
    name: str, entry: DatasetEntry, rows: Iterable[SourceRow], reader: Adapter, dropped: Dropped
) -> tuple[dict[int, SourceProblem], int]:
    """Return the problems to keep by row number, and how many rows were read."""
    problems: dict[int, SourceProblem] = {}
    first_row: dict[str, int] = {}  # problem -> row, where the entry wants each problem once
    row_of_id: dict[str | None, int] = {}
    contradicted: set[int] = set()
    read = 0
    for row in rows:
        read += 1
        try:
            if isinstance(row.value, BadRow):
                raise row.value
            problem = reader(row.value)
            if (first := row_of_id.setdefault(problem.id, row.index)) != row.index and problem.id is not None:
                raise BadRow("duplicate_id", f"the id {problem.id!r:.80} is that of row {first} already")
        except Skip as skip:
            dropped.add(skip.reason, row.index)
            continue
        except BadRow as bad:
            if entry.on_bad_row == "error":
                raise DatasetError(
                    f"{name}: {row.place}: {bad}. Repair the source, or let the table say "
                    "`on_bad_row: drop` to leave such rows out and count them"
                ) from bad
            dropped.add(bad.reason, row.index)
            continue
        if entry.unique:
            first = first_row.setdefault(problem.asked, row.index)
            if first != row.index:
                if problem.answer == problems[first].answer:
                    dropped.add("duplicate_problem", row.index)
                else:  # nobody knows which of the answers is right
                    dropped.add("contradictory_answers", row.index)
                    contradicted.add(first)
                continue
        problems[row.index] = problem
    for index in contradicted:
        dropped.add("contradictory_answers", index)
        del problems[index]
    return problems, read


def _drop_long(
    entry: DatasetEntry, problems: dict[int, SourceProblem], tokenizer: str | Path | None, dropped: Dropped
) -> dict[str, Any]:
    """Remove problems of more tokens than the entry allows; return what was done, for the card."""
    limit = entry.max_problem_tokens
    if limit is None or tokenizer is None:
        why = "the table sets no limit" if limit is None else "problems of any length were asked for"
        return {"applied": False, "reason": why, "max_problem_tokens": limit}
    from tokenizers import Tokenizer

    path = Path(tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise DatasetError(f"{path}: no such tokenizer; give a folder with a tokenizer.json, or that file")
    encoder = Tokenizer.from_file(str(path))
    encoder.no_truncation()
    encoder.no_padding()
    indices = sorted(problems)
    for encoding, index in zip(
        encoder.encode_batch_fast([problems[index].asked for index in indices], add_special_tokens=False),
        indices,
        strict=True,
    ):
        if len(encoding.ids) > limit:
            dropped.add("too_long", index)
            del problems[index]
    return {
        "applied": True,
        "max_problem_tokens": limit,
        "tokenizer": entry.tokenizer,
        "tokenizer_sha256": sha256_of_file(path),
        "left_out": len(indices) - len(problems),
    }


def _details(problem: SourceProblem) -> dict[str, Any]:
    details = {"problem": problem.text, **problem.details}
    if problem.published_answer is not None:
        details["published_answer"] = problem.published_answer
    return details


def _ranges(rows: Sequence[int]) -> str:
    ranges: list[list[int]] = []
    for row in rows:
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)


def _names(files: Sequence[SourceFile]) -> str:
    return ", ".join(file.name for file in files)


def _digest(rows: Sequence[dict[str, Any]]) -> str:
    """SHA-256 of the rows as JSON lines: the content, whatever version of Parquet holds it."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
