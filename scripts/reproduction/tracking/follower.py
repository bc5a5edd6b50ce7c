"""The process that follows a training's metrics file and sends it to MLflow (``python -m``)."""

import contextlib
import json
import logging
import math
import os
import select
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from reproduction.tracking.description import RunDescription
from reproduction.tracking.ingestion import ARTIFACTS
from reproduction.tracking.record import Record
from reproduction.tracking.store import Store
from reproduction.tracking.values import read_metrics

log = logging.getLogger(__name__)


class _Follower:
    """Sends one metrics file to MLflow, round by round."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._store = Store(**order["store"])
        self._description = RunDescription(**order["description"])
        self._metrics_file, self._run_folder = Path(order["metrics_file"]), Path(order["run_folder"])
        self._lock = self._store.run_lock(self._description.configuration_hash)
        self._started = order["started"]
        self._client = self._record = self._seen = None
        self._trainer = psutil.Process(order["parent"])

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
            record = Record(self._store, self._client, self._description, self._started)
            record.reopen()
        stat = self._metrics_file.stat() if self._metrics_file.exists() else None
        change = stat and (stat.st_mtime_ns, stat.st_size)
        if change != self._seen:
            record.add_points(read_metrics(self._metrics_file))
            self._seen = change
        if outcome is None:
            record.add_usage(self._trainer)
        else:
            record.add_artifacts(path for name in ARTIFACTS if (path := self._run_folder / name).exists())
            manifest = self._run_folder / "manifest.json"
            if outcome == "FINISHED" and manifest.exists():
                outcome = json.loads(manifest.read_text(encoding="utf-8"))["status"]
            record.close(outcome, time.time())
        self._record = record


def _follow() -> None:
    """Read the order from standard input, follow it until told the outcome, answer with the errors met."""
    _give_way()
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what MLflow prints is no answer
    inbox = _Inbox()
    order = json.loads(inbox.wait(math.inf, parent=None))
    follower = _Follower(order)
    errors, last_error = 0, None
    outcome = inbox.wait(order["delay_s"], order["parent"])
    # MLflow takes seconds to start: a training that has ended by now is left to the ingestion, which adds it whole.
    follows = outcome != "FINISHED" or not order["delay_s"]
    while follows:
        try:
            follower.round(outcome)
        except Exception as error:  # whatever MLflow or its server throws
            log.exception("a round failed")
            errors, last_error = errors + 1, f"{type(error).__name__}: {error}"[:300]
        follows = outcome is None
        if follows:
            outcome = inbox.wait(order["interval_s"], order["parent"])
    with answer:
        json.dump({"errors": errors, "last_error": last_error}, answer)


def _give_way() -> None:
    """Take what processor time the training leaves."""
    os.nice(19)
    # Linux shares processors among sessions first, and this process has a session of its own.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")


class _Inbox:
    """Lines from standard input, waited for without missing the parent's death."""

    def __init__(self) -> None:
        self._buffer = b""

    def wait(self, timeout_s: float, parent: int | None) -> str | None:
        """Return the next line; None after ``timeout_s``; ``KILLED`` when the parent is gone."""
        deadline = time.monotonic() + timeout_s
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                return line.decode()
            # A forked child of the trainer may keep the pipe open after the trainer died.
            if parent is not None and os.getppid() != parent:
                return "KILLED"
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([sys.stdin.fileno()], [], [], min(left, 1.0))
            if ready:
                data = os.read(sys.stdin.fileno(), 65536)
                if not data:
                    return "KILLED"
                self._buffer += data
            elif left == 0:
                return None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _follow()
