"""Reading evaluation samples; no torch, so that analyses start at once."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reproduction.files import load_json, sha256_of_file


def read_samples(
    manifest: Path,
    *,
    decoders: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
    last_step: bool = False,
) -> pd.DataFrame:
    """Return the samples of an evaluation with columns ``step`` and ``decoder`` added.

    No rows where there are no files: a run diverged before its first checkpoint.

    Args:
        manifest: of the evaluation; the sample files lie below its folder.
        decoders: only these; None takes all.
        columns: only these of the files' columns; None takes all.
        last_step: only the last checkpoint.

    Raises ValueError naming the file if one is missing or is not the one the manifest describes.
    """
    parts = [
        table.to_pandas().assign(step=record["step"], decoder=record["decoder"])
        for record, table in _tables(manifest, decoders, columns, last_step)
    ]
    if not parts:
        return pd.DataFrame({column: [] for column in (*(columns or ()), "step", "decoder")})
    return pd.concat(parts, ignore_index=True)


def correct_counts(
    manifest: Path, decoders: Collection[str] | None = None, *, last_step: bool = False
) -> pd.DataFrame:
    """Return ``responses`` and ``correct`` of an evaluation by ``step``, ``decoder`` and ``problem``, sorted.

    Otherwise as :func:`read_samples`, but one sample file is held at a time.
    """
    keys = ["step", "decoder", "problem"]
    columns = [*keys, "responses", "correct"]
    parts = []
    for record, table in _tables(manifest, decoders, ["problem", "correct"], last_step):
        counts = table.group_by("problem", use_threads=False).aggregate(
            [("correct", "count"), ("correct", "sum")]
        )
        part = counts.to_pandas().rename(columns={"correct_count": "responses", "correct_sum": "correct"})
        parts.append(part.assign(step=record["step"], decoder=record["decoder"]))
    if not parts:
        parts = [pd.DataFrame({column: [] for column in columns}, dtype=object)]
    counts = pd.concat(parts, ignore_index=True)[columns]
    counts = counts.astype({"step": "int64", "responses": "int64", "correct": "int64"})
    return counts.sort_values(keys, ignore_index=True)


def _tables(
    manifest: Path, decoders: Collection[str] | None, columns: Sequence[str] | None, last_step: bool
) -> Iterator[tuple[dict, pa.Table]]:
    """Yield the manifest's record of each sample file asked for, and what the file holds."""
    files = load_json(manifest)["files"]
    if not files:
        return
    last = max(record["step"] for record in files)
    chosen = [
        record
        for record in files
        if (decoders is None or record["decoder"] in decoders) and (not last_step or record["step"] == last)
    ]
    if not chosen:
        raise ValueError(f"{manifest}: no samples of the decoders {sorted(decoders or [])}")
    for record in chosen:
        path = manifest.parent / record["file"]
        if not path.exists() or sha256_of_file(path) != record["sha256"]:
            raise ValueError(
                f"{path}: missing or changed since {manifest} was written; delete the manifest to evaluate again"
            )
        yield record, pq.ParquetFile(path).read(None if columns is None else list(columns))
