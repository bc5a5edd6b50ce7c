"""One short training with everything that happens to a long one: kill, resume, evaluation, figure.

Trainings run as the workflow runs them, through ``scripts/train.py``; a kill is SIGKILL to every process of the
training at once, as a batch system's or the kernel's is.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from reproduction.cluster import processes
from reproduction.config import REPOSITORY, EvaluationRequest, Verl
from reproduction.config.runs import RunConfiguration
from reproduction.engines.verl import RAY_WAS_LATE, tracked_step
from reproduction.evaluation.evaluate import evaluate
from reproduction.evaluation.responses import write_manifest
from reproduction.training import records

SCRIPTS = REPOSITORY / "scripts"
_MARK = "EAD_EXERCISE"
_POLL_S = 0.005
# When a training of two steps may be killed. The second is the one moment at which verl's files are ahead of ours.
MOMENTS = (
    "after the first step",
    "between verl's tracker and our checkpoint",
    "after the first checkpoint",
    "within the second step",
    "after the second step",
)


class TrainingFailed(RuntimeError):
    """A training ended with an error; the message has the end of its log."""


@dataclass(frozen=True)
class Exercise:
    """A training and where it lies; ``model`` and the data sets are files, ``folder`` is private to it."""

    run: RunConfiguration
    machine: Verl
    model: Path
    dataset: Path
    validation: Path
    scale: str
    folder: Path
    timeout_s: float
    stream: bool = False  # to MLflow

    @property
    def state(self) -> Path:
        return self.folder / "state" / self.run.hash

    @property
    def output(self) -> Path:
        return self.folder / "runs" / self.run.name

    @property
    def log(self) -> Path:
        return self.folder / "train.log"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluations" / self.run.name / "manifest.json"

    def saved(self) -> int:
        """The step of verl's last checkpoint; 0 before its first."""
        return tracked_step(self.state / "verl" / "checkpoints")

    def command(self) -> list[str]:
        """The command of rule ``train``."""
        return [
            *(sys.executable, str(SCRIPTS / "train.py"), "--run", self.run.to_json()),
            *("--machine", self.machine.model_dump_json(), "--model", str(self.model)),
            *("--dataset", str(self.dataset), "--validation", str(self.validation)),
            *("--output", str(self.output / "manifest.json"), "--state", str(self.state)),
            *("--scale", self.scale, "--tracking-folder", str(self.folder / "mlflow")),
            *([] if self.stream else ["--no-stream"]),
            *("--gpus", str(self.machine.gpus_per_node), "--nodes", str(self.machine.nodes)),
        ]

    def train(self, environment: Mapping[str, str]) -> str:
        """Train to the end, from the last checkpoint if there is one; say how often Ray was late, if it was.

        Raises TrainingFailed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            before = log.tell()
            process = subprocess.Popen(
                self.command(), stdout=log, stderr=subprocess.STDOUT, env=dict(environment)
            )
            try:
                code = process.wait(timeout=self.timeout_s)
            except BaseException as error:
                process.send_signal(signal.SIGTERM)  # it then ends all that it started
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise TrainingFailed(f"no end after {self.timeout_s:.0f} s{self.log_end()}") from None
        if code:
            raise TrainingFailed(f"ended with status {code}{self.log_end()}")
        return self._ray_was_late(before)

    def train_and_kill(self, moment: str, delay_s: float, environment: Mapping[str, str]) -> str:
        """Train until ``moment`` and ``delay_s`` longer, then kill everything; say what that left.

        Raises TrainingFailed if the training ends before.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = secrets.token_hex(8)
        reached, at_once = self._watch(moment)
        with self.log.open("ab") as log:
            before = log.tell()
            process = subprocess.Popen(
                self.command(), stdout=log, stderr=subprocess.STDOUT, env={**environment, _MARK: mark}
            )
        deadline = time.monotonic() + self.timeout_s
        marked: list[psutil.Process] = []
        looked = 0.0
        try:
            while not reached():
                if process.poll() is not None:
                    raise TrainingFailed(
                        f"ended with status {process.returncode} before the kill {moment}{self.log_end()}"
                    )
                if time.monotonic() > deadline:
                    raise TrainingFailed(f"not {moment} within {self.timeout_s:.0f} s{self.log_end()}")
                # A walk over all processes takes long, and the moment is short.
                if time.monotonic() - looked > 10:
                    marked, looked = processes.marked(_MARK, mark), time.monotonic()
                time.sleep(_POLL_S)
            if not at_once:
                time.sleep(delay_s)
            for one in marked:  # so that nothing goes on while they are killed one after another
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGSTOP)  # psutil would take a millisecond for each
            if process.poll() is not None:
                raise TrainingFailed(f"ended before the kill {delay_s:.1f} s {moment}")
        finally:
            segments = processes.mapped_segments(processes.marked(_MARK, mark))
            processes.kill(processes.marked(_MARK, mark))
            process.wait()
            # What a kill leaves in shared memory nothing can clear but a restart of the machine, or we.
            left = processes.remove_abandoned(segments)
        late = self._ray_was_late(before)
        return f"killed {moment}; {self._left()}, {len(left)} shared-memory files" + (late and f"; {late}")

    def _ray_was_late(self, before: int) -> str:
        """Say how often Ray had to be started again in what the log says after ``before`` bytes; "" if never."""
        with self.log.open("rb") as log:
            log.seek(before)
            times = log.read().count(RAY_WAS_LATE.encode())
        return f"{RAY_WAS_LATE} {times} times" if times else ""

    def _watch(self, moment: str) -> tuple[Callable[[], bool], bool]:
        """Return whether ``moment`` has come, as a function, and whether it passes too soon to wait longer."""
        first = self.state / "checkpoints" / "step_1"
        metrics = self.state / "metrics.jsonl"
        samples = self.state / "verl" / "samples"

        def recorded(step: int) -> bool:
            return any(row["step"] == step for row in records.read(metrics))

        def sampled(step: int) -> bool:
            return any(f'"step": {step},' in file.read_text() for file in samples.glob("*.jsonl"))

        watched = {
            MOMENTS[0]: lambda: recorded(1),
            MOMENTS[1]: lambda: self.saved() == 1,
            MOMENTS[2]: lambda: self.saved() == 1 and first.exists(),
            MOMENTS[3]: lambda: first.exists() and sampled(2),
            MOMENTS[4]: lambda: recorded(2),
        }
        return watched[moment], moment == MOMENTS[1]

    def _left(self) -> str:
        published = [path.name for path in (self.state / "checkpoints").glob("step_*")]
        taken = sum(1 for _ in records.read(self.state / "metrics.jsonl"))
        return (
            f"verl had saved step {self.saved()}, {len(published)} checkpoints were published, "
            f"{taken} steps recorded"
        )

    def evaluate(self, request: EvaluationRequest) -> None:
        """Evaluate the run's checkpoints with vLLM, as rule ``evaluate_run`` does."""
        checkpoints = {
            step: self.output / "checkpoints" / f"step_{step}" for step in self.run.training.checkpoints
        }
        files = evaluate(
            request,
            checkpoints,
            self.validation,
            self.evaluation.parent,
            label=f"evaluation of {self.run.name}",
            progress=None,
            workers=1,
            vllm=self.machine.of(self.run.model),
        )
        write_manifest(self.evaluation, request, self.validation, files, subject=self.run.name)

    def log_end(self, lines: int = 12) -> str:
        """Return where the log is, and the last lines of it that say most."""
        found = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        telling = [line for line in found if "Error" in line or "Exception" in line][-lines:] or found[
            -lines:
        ]
        return f"; its log is {self.log}\n" + "\n".join(line[:300] for line in telling)


def draw_moment(generator: np.random.Generator) -> tuple[str, float]:
    """Return a moment to kill at and how many seconds after it, both at random."""
    return str(generator.choice(MOMENTS)), float(generator.uniform(0, 1))


def clean_environment() -> dict[str, str]:
    """Return this process's environment as it is before vLLM is loaded, for the trainings it starts."""
    return dict(os.environ)
