"""Values and names on their way from a run's files to MLflow."""

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LARGEST = sys.float_info.max  # what MLflow's SQL store writes for infinity
DISPLAY_ORDER = ("sampler", "n", "seed", "algorithm", "model")


def metric_name(name: str) -> str:
    """Return ``name`` as MLflow accepts it: ``Pass@16`` becomes ``Pass_at_16``, other characters ``_``."""
    return re.sub(r"[^/\w.\- ]", "_", name.replace("@", "_at_"))


def display_name(name: str) -> str:
    """Return a run's or cell's name for a narrow column: what tells runs apart comes first.

    ``model~tiny/algorithm~dapo/sampler~ead/n~8/seed~0`` becomes ``ead n8 seed0 dapo tiny``. A name of another
    form stays as it is. The whole name is in the tag ``run_name``.
    """
    axes = dict(part.split("~", 1) for part in name.split("/") if "~" in part)
    if len(axes) != len(name.split("/")):
        return name
    order = [axis for axis in DISPLAY_ORDER if axis in axes]
    order += [axis for axis in axes if axis not in DISPLAY_ORDER]
    return " ".join(axis + axes[axis] if axes[axis].isdigit() else axes[axis] for axis in order)


def model_name(name: str) -> str:
    """Return ``name`` as MLflow accepts it for a logged model: ``tau0.6 n4 step 40`` becomes ``tau0_6 n4 step 40``."""
    return re.sub(r"[/:.%\"']", "_", name)


def read_metrics(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the steps in a metrics file, in order; none where it does not exist yet.

    A last line without its newline is still being written and left out, null is no value, and of two lines
    for one step the last counts.

    Raises:
        ValueError: a line is not a JSON object of numbers with a step; names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            break
        try:
            values = json.loads(line)
            rows[int(values["step"])] = _numbers(values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error!r} in {line[:80]!r}") from None
    return sorted(rows.items())


def read_table(path: Path) -> list[tuple[int, dict[str, float]]]:
    """The same from ``metrics.parquet``: a column ``step`` and one per metric."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(path).to_pylist()
    try:
        return [(row["step"], _numbers(row)) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}; expected a column 'step' and columns of numbers") from None


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if name != "step" and value is not None}


def same(recorded: float, value: float) -> bool:
    if math.isnan(value):
        return math.isnan(recorded)
    return recorded == max(-_LARGEST, min(value, _LARGEST))


def short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
