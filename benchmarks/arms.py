"""Programs compared in one run: each arm is a process with its own environment, and the arms take turns.

A script that is an arm calls :func:`serve`; one that compares starts arms with :class:`Arm` and lets them take
turns with :func:`alternate`. Imports, loading and warming up are over before the first measurement, and a machine
that becomes slower does so for all. What is reported are ratios of neighbours in time.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# Not from the project: an arm's environment may have the package ead alone.
REPOSITORY = Path(__file__).resolve().parents[1]
Measured = dict[str, float]


class Arm:
    """One program, waiting for jobs."""

    def __init__(
        self, python: Path, script: str, *options: str, threads: int = 2, log: Path | None = None
    ) -> None:
        """Start ``benchmarks/{script}`` with the interpreter ``python``; it is ready when it answers."""
        self.name, self.log = script, log
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY / "scripts"),
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        errors = log.open("w") if log else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [str(python), str(REPOSITORY / "benchmarks" / script), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )

    def ask(self, **job: Any) -> Measured:
        """Return what the program measured of ``job``. Raises RuntimeError if it ended instead of answering."""
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.name} ended with status {self._process.wait()} at {job}; see {self.log or 'its output'}"
            )
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> "Arm":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Jobs:
    """The jobs that a program is given, one at a time. Nothing but answers reaches the standard output."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def next(self) -> dict[str, Any] | None:
        """Wait for a job; None if there are no more."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def answer(self, found: Measured) -> None:
        self._answers.write(json.dumps(found) + "\n")
        self._answers.flush()


def serve(answer: Callable[..., Measured]) -> None:
    """Answer jobs until there are no more."""
    jobs = Jobs()
    while (job := jobs.next()) is not None:
        jobs.answer(answer(**job))


@contextmanager
def measured(into: Measured, prefix: str = ""):
    """Put wall-clock and processor seconds of the block into ``into``."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into[f"{prefix}wall_s"] = time.perf_counter() - wall
    into[f"{prefix}cpu_s"] = time.process_time() - cpu


def alternate(
    arms: Mapping[str, Arm], job: Mapping[str, Any], rounds: int, warm_ups: int = 1
) -> dict[str, list[Measured]]:
    """Give every arm the same job, round by round, in an order that turns; the first ``warm_ups`` are not counted."""
    taken: dict[str, list[Measured]] = {name: [] for name in arms}
    for number in range(-warm_ups, rounds):
        for name in list(arms) if number % 2 else list(arms)[::-1]:
            found = arms[name].ask(**job)
            if number >= 0:
                taken[name].append(found)
    return taken


def median(taken: list[Measured], key: str) -> float:
    return float(np.median([found[key] for found in taken]))


def ratio(taken: Mapping[str, list[Measured]], over: str, under: str, key: str = "cpu_s") -> dict[str, float]:
    """Return median, lowest and highest of ``over / under`` by round."""
    ratios = [a[key] / b[key] for a, b in zip(taken[over], taken[under], strict=True)]
    return {"median": float(np.median(ratios)), "lowest": min(ratios), "highest": max(ratios)}


def machine(threads: int, *packages: str) -> dict[str, Any]:
    """What a record says of where it was made; ``packages`` are looked up in this interpreter."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "threads": threads,
        "processor": model[0].partition(": ")[2] if model else platform.machine(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", *packages)},
    }


def versions(python: Path, *packages: str) -> dict[str, str]:
    """Return the versions of ``packages`` in the environment of the interpreter ``python``."""
    program = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", program, *packages], check=True, capture_output=True, text=True)
    return dict(zip(packages, done.stdout.split(), strict=True))
