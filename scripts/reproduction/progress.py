"""How far a job is: a tiny status file that the job writes and the terminal view reads.

A job writes its own file, at most twice a second and atomically, so a reader never sees half of one::

    with Progress(path, "tiny dapo ead seed 0", total=60, unit="step") as progress:
        for step in range(60):
            ...
            progress.update(step + 1, message="Pass@1 0.31")

A job that was killed cannot say so; its file still says ``running`` and is recognised by its process, which
no longer exists (``Status.state == "stale"``).
"""

import contextlib
import json
import os
import socket
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

MIN_INTERVAL_S = 0.5
# A process's start time comes from the boot time and may be off by a clock correction since then.
_CLOCK_SLACK_S = 60.0


@dataclass(frozen=True)
class Status:
    """What a job last said about itself; times are Unix seconds.

    ``first`` is the amount that was done when the job started, larger than 0 for a resumed training.
    ``outcome`` is ``running`` until the job ends, then ``finished`` or ``failed``.
    """

    label: str
    done: float
    total: float
    unit: str
    first: float
    started: float
    updated: float
    message: str
    outcome: str
    pid: int
    host: str

    @property
    def fraction(self) -> float:
        """Share done, in [0, 1]."""
        return min(1.0, max(0.0, self.done / self.total))

    @property
    def remaining_s(self) -> float | None:
        """Seconds left at the pace since the job (re)started; None before the first unit is done."""
        gained = self.done - self.first
        if gained <= 0:
            return None
        return max(0.0, (self.total - self.done) * (self.updated - self.started) / gained)

    @property
    def state(self) -> str:
        """``running``, ``finished``, ``failed``, or ``stale``: it says running, but its process is gone.

        The process of another host cannot be asked; there the file is believed.
        """
        if self.outcome != "running" or self.host != socket.gethostname():
            return self.outcome
        try:
            same = psutil.Process(self.pid).create_time() <= self.started + _CLOCK_SLACK_S
        except psutil.NoSuchProcess:
            same = False
        return "running" if same else "stale"


class Progress:
    """Writes the status file of one job; a context manager.

    Args:
        path: the status file; its folder is made. None reports to nobody (a script started by hand).
        label: what the job works on, for a reader.
        total: the amount of work, > 0, in ``unit`` (a singular noun: ``step``, ``problem``).
        done: what is done already, for a resumed job.

    A file that cannot be written (full disk, read-only folder) is warned of once and does not stop the job.

    Raises:
        ValueError: total is not positive.
    """

    def __init__(self, path: Path | str | None, label: str, total: float, unit: str, done: float = 0) -> None:
        if not total > 0:
            raise ValueError(f"progress of {label!r}: total must be positive, got {total!r}")
        self._path = None if path is None else Path(path)
        self._last_write = float("-inf")
        self._writable = True
        now = time.time()
        self._fields = asdict(
            Status(label, done, total, unit, done, now, now, "", "running", os.getpid(), socket.gethostname())
        )

    def __enter__(self) -> "Progress":
        self._write()
        return self

    def update(self, done: float, message: str = "") -> None:
        """Record that ``done`` units are finished; ``message`` is one short line about the latest of them."""
        self._fields.update(done=done, message=message)
        if time.monotonic() - self._last_write >= MIN_INTERVAL_S:
            self._write()

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        self._fields["outcome"] = "finished" if exception_type is None else "failed"
        self._write()

    def _write(self) -> None:
        self._last_write = time.monotonic()
        if self._path is None or not self._writable:
            return
        self._fields["updated"] = time.time()
        temporary = self._path.with_name(f".{self._path.name}.{self._fields['pid']}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._fields, default=float), encoding="utf-8")
            temporary.replace(self._path)
        except OSError as error:
            self._writable = False
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            warnings.warn(f"progress is no longer reported: {error}", stacklevel=3)


def read(path: Path) -> Status | None:
    """Return the status in ``path``, or None where there is none yet.

    Raises:
        ValueError: the file is not a status file; names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return Status(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a progress file: {error}") from error
