"""On a test's PYTHONPATH: SIGUSR1 makes any Python process here take 1 GB more memory and keep it for a minute."""

import signal
import time


def _grow(*_) -> None:
    hoard = b"x" * 1_000_000_000
    time.sleep(60)
    del hoard


signal.signal(signal.SIGUSR1, _grow)
