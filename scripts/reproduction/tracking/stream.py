"""The trainer's end of the stream: it starts the process that follows its metrics, and tells it how it ended."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from reproduction.tracking.description import RunDescription
from reproduction.tracking.store import Store

log = logging.getLogger(__name__)

_FOLLOWER = Path(__file__).with_name("follower.py")


class RunStream:
    """Follows a training's metrics file and sends it to MLflow, from a process of its own; a context manager.

    ::

        with RunStream(store, description, state / "metrics.jsonl", run_folder):
            train()

    Leaving the block sends the rest, uploads ``config.yaml`` and ``manifest.json`` of ``run_folder``, and
    closes the run as FINISHED (or what the manifest says), FAILED after an exception, KILLED after an
    interrupt. The run of a trainer that dies without leaving the block is closed as KILLED too.

    Nothing that goes wrong with MLflow is raised here: it is counted, warned of once when the stream closes,
    and repaired by :func:`ingest`. MLflow's own words go to ``mlflow.log`` beside the metrics file.

    Args:
        metrics_file: one JSON object per line, ``{"step": 3, "<metric>": 0.5, ...}``; need not exist yet, may
            shrink when a training resumes.
        delay_s: seconds until the first batch. A training that has finished by then is left to :func:`ingest`.
        interval_s: seconds between two batches.
        close_timeout_s: the longest that closing may take; after that the stream is stopped.
    """

    def __init__(
        self,
        store: Store,
        description: RunDescription,
        metrics_file: Path,
        run_folder: Path,
        *,
        delay_s: float = 0.0,
        interval_s: float = 10.0,
        close_timeout_s: float = 60.0,
    ) -> None:
        self._run = description.run
        self._close_timeout_s = close_timeout_s
        self._process: subprocess.Popen | None = None
        self._log_file = metrics_file.with_name("mlflow.log")
        order = {
            "store": {
                "tracking_uri": store.tracking_uri,
                "artifact_root": store.artifact_root and str(store.artifact_root),
                "lock_folder": store.lock_folder and str(store.lock_folder),
            },
            "description": description.to_dict(),
            "metrics_file": str(metrics_file.absolute()),
            "run_folder": str(run_folder.absolute()),
            "started": time.time(),
            "delay_s": delay_s,
            "interval_s": interval_s,
            "parent": os.getpid(),
        }
        try:
            metrics_file.parent.mkdir(parents=True, exist_ok=True)
            with self._log_file.open("wb") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(_FOLLOWER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    start_new_session=True,  # an interrupt in the terminal is the trainer's to handle
                )
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            self._warn(f"the stream did not start: {error}")

    def __enter__(self) -> "RunStream":
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is None:
            self.close("FINISHED")
        elif issubclass(exception_type, Exception):
            self.close("FAILED")
        else:
            self.close("KILLED")

    def close(self, status: str = "FINISHED") -> None:
        """Send what is left and close the run; once."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            answer, _ = process.communicate(status + "\n", timeout=self._close_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self._warn(f"the stream was stopped after {self._close_timeout_s:g} s")
            return
        try:
            result = json.loads(answer)
        except ValueError:
            self._warn(f"the stream ended with exit status {process.returncode} (see {self._log_file})")
            return
        if result["errors"]:
            self._warn(f"{result['errors']} errors, the last: {result['last_error']} (see {self._log_file})")

    def _warn(self, what: str) -> None:
        log.warning("MLflow lacks a part of %s: %s. Ingestion adds it from the files.", self._run, what)
