"""Reading evaluation samples; no torch, so that analyses start at once."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from ead.pipeline.files import sha256_of_file


def read_samples(
    manifest: Path,
    *,
    decoders: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
    last_step: bool = False,
) -> pd.DataFrame:
    """Return the samples of an evaluation with columns ``step`` and ``decoder`` added.

    Args:
        manifest: of the evaluation; the sample files lie below its folder.
        decoders: only these; None takes all.
        columns: only these of the files' columns; None takes all.
        last_step: only the last checkpoint.

    Raises ValueError naming the file if one is missing or is not the one the manifest describes.
    """
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    last = max(record["step"] for record in files)
    parts = []
    for record in files:
        if decoders is not None and record["decoder"] not in decoders:
            continue
        if last_step and record["step"] != last:
            continue
        path = manifest.parent / record["file"]
        if not path.exists() or sha256_of_file(path) != record["sha256"]:
            raise ValueError(
                f"{path}: missing or changed since {manifest} was written; delete the manifest to evaluate again"
            )
        frame = pq.ParquetFile(path).read(None if columns is None else list(columns)).to_pandas()
        parts.append(frame.assign(step=record["step"], decoder=record["decoder"]))
    if not parts:
        raise ValueError(f"{manifest}: no samples of the decoders {sorted(decoders or [])}")
    return pd.concat(parts, ignore_index=True)
