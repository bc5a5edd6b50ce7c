"""The process that follows a training's metrics file and sends it to MLflow; run by its path.

Until the first round it loads the standard library alone: most trainings of the default scale end before that.
"""

import contextlib
import json
import logging
import math
import os
import select
import sys
import time
from pathlib import Path

log = logging.getLogger(__name__)


def _follow() -> None:
    """Read the order from standard input, follow it until told the outcome, answer with the errors met."""
    _give_way()
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what MLflow prints is no answer
    inbox = _Inbox()
    order = json.loads(inbox.wait(math.inf, parent=None))
    errors, last_error = 0, None
    outcome = inbox.wait(order["delay_s"], order["parent"])
    # MLflow takes seconds to start: a training that has ended by now is left to the ingestion, which adds it whole.
    follows = outcome != "FINISHED" or not order["delay_s"]
    if follows:
        from reproduction.tracking.sender import Sender

        sender = Sender(order)
    while follows:
        try:
            sender.round(outcome)
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
