"""What work took, in seconds: kept beside the artefacts, never part of what they are or of their identities."""

import contextlib
import time
from pathlib import Path

import pandas as pd
import psutil

from reproduction.files import write_parquet

_KEYS = ["step", "decoder", "dataset"]


def cpu_seconds() -> float:
    """Return the CPU seconds that this process and its descendants have used, ended ones that were waited for too."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


class FileTimings:
    """What each sample file of an evaluation took, in ``timings.parquet`` beside the manifest.

    The file outlives the process: an evaluation that only makes what is missing keeps the times of the rest. The first
    file of a process bears the process's start, imports and loading included; what follows the last is not counted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = pd.read_parquet(path).to_dict("records") if path.exists() else []
        self._wall, self._cpu = psutil.Process().create_time(), 0.0

    def record(self, **keys: str | int) -> None:
        """Charge what was used since the last call to a file; its former times, if any, are replaced."""
        wall, cpu = time.time(), cpu_seconds()
        row = {**keys, "seconds": wall - self._wall, "cpu_seconds": cpu - self._cpu}
        self._wall, self._cpu = wall, cpu
        self._rows = [other for other in self._rows if any(other[key] != row[key] for key in _KEYS)]
        self._rows.append(row)
        write_parquet(pd.DataFrame(self._rows), self._path)
