"""What MLflow is told of a run beside its metrics."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# The manifest's word -> MLflow's. A diverged training is a result (Figure 13); its tag `outcome` tells.
STATUSES = {"finished": "FINISHED", "diverged": "FINISHED"}


@dataclass(frozen=True)
class RunDescription:
    """What MLflow shows of a run before its first metric.

    Args:
        experiment: MLflow experiment: one per group of figures.
        cell: the run's name without its seed; ``run`` is the whole name. See :func:`display_name`.
        configuration_hash: what the run is found by again.
        parameters: name in the paper -> value; nested mappings are flattened with dots.
        tags: for instance ``git_commit`` and ``figures``.
        note: what the experiment shows, for a reader of its page.

    Raises:
        ValueError: an empty name, or a hash that is not made of letters, digits, ``_`` and ``-``.
    """

    experiment: str
    cell: str
    run: str
    configuration_hash: str
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    note: str = ""

    def __post_init__(self) -> None:
        for key in ("experiment", "cell", "run"):
            if not getattr(self, key):
                raise ValueError(f"run description: {key} is empty")
        if not re.fullmatch(r"[\w-]+", self.configuration_hash, re.ASCII):
            raise ValueError(
                f"run description: configuration_hash {self.configuration_hash!r} may hold letters, digits, "
                "_ and -"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> "RunDescription":
        """Return the description in ``values``; a ValueError names ``source`` and the wrong key."""
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"{source}: {error}") from None


@dataclass(frozen=True)
class DataSet:
    """A data set that a run used; ``context`` is ``training`` or ``evaluation``."""

    name: str
    context: str
    source: str
    rows: int
    sha256: str

    @property
    def digest(self) -> str:
        """As MLflow shows it."""
        return self.sha256[:16]


@dataclass(frozen=True)
class FinishedRun:
    """A run folder as :func:`ingest` needs it; times are Unix seconds."""

    folder: Path
    description: RunDescription
    outcome: str
    started: float
    ended: float
    steps: tuple[int, ...]  # of the published checkpoints

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Step -> folder of each published checkpoint whose weights have not been deleted since."""
        folders = {step: self.folder / "checkpoints" / f"step_{step}" for step in self.steps}
        return {step: folder for step, folder in folders.items() if (folder / "config.json").exists()}

    @classmethod
    def read(cls, folder: Path) -> "FinishedRun":
        """Read ``manifest.json``: ``status``, ``started``, ``ended``, ``checkpoints``, ``tracking`` (a RunDescription).

        Raises:
            ValueError: no manifest, or one that lacks a key or has an unknown status; names the file.
        """
        path = folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file, so this run has not finished") from None
        except ValueError as error:
            raise ValueError(f"{path}: not valid JSON: {error}") from None
        for key in ("tracking", "status", "started", "ended", "checkpoints"):
            if key not in manifest:
                raise ValueError(f"{path}: the key {key!r} is missing")
        if manifest["status"] not in STATUSES:
            raise ValueError(f"{path}: status {manifest['status']!r} is not one of {', '.join(STATUSES)}")
        description = RunDescription.from_dict(manifest["tracking"], f"{path}: tracking")
        times = manifest["started"], manifest["ended"]
        return cls(folder, description, manifest["status"], *times, tuple(manifest["checkpoints"]))
