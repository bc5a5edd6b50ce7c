"""What the process beside a training does: one metrics file to MLflow, round by round."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from reproduction.tracking.description import RunDescription
from reproduction.tracking.ingestion import ARTIFACTS
from reproduction.tracking.record import RunRecord
from reproduction.tracking.store import Store
from reproduction.tracking.values import read_metrics


class Sender:
    """Sends what ``RunStream`` orders: ``round`` by round."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._store = Store(**order["store"])
        self._description = RunDescription(**order["description"])
        self._metrics_file, self._run_folder = Path(order["metrics_file"]), Path(order["run_folder"])
        self._lock = self._store.run_lock(self._description.configuration_hash)
        self._started = order["started"]
        self._client = self._record = self._seen = self._trainer = None
        self._parent = order["parent"]  # may be gone already

    def round(self, outcome: str | None) -> None:
        """Send what is new; with an outcome, also the artifacts, and close the run.

        After an exception the next round looks up again what MLflow has.
        """
        record, self._record = self._record, None
        if record is None:
            self._seen = None
            self._client = self._client or self._store.connect()
            if not self._lock.is_locked:
                self._lock.acquire()
            record = RunRecord(self._store, self._client, self._description, self._started)
            record.reopen()
        stat = self._metrics_file.stat() if self._metrics_file.exists() else None
        change = stat and (stat.st_mtime_ns, stat.st_size)
        if change != self._seen:
            record.add_points(read_metrics(self._metrics_file))
            self._seen = change
        if outcome is None:
            self._trainer = self._trainer or psutil.Process(self._parent)
            record.add_usage(self._trainer)
        else:
            record.add_artifacts(path for name in ARTIFACTS if (path := self._run_folder / name).exists())
            manifest = self._run_folder / "manifest.json"
            if outcome == "FINISHED" and manifest.exists():
                outcome = json.loads(manifest.read_text(encoding="utf-8"))["status"]
            record.close(outcome, time.time())
        self._record = record
