"""The verl engine end to end on a small model: train, interrupt, resume, evaluate; then look for what was left behind.

It is one exercise of the rehearsal, but for its interruption: SIGTERM, as a batch system's at the end of a job's time,
held to the worst moment, when verl has noted that it resumes from a checkpoint which is not published yet. What the run
says about the method is measured from its dumps by tests/verl/test_verl_smoke.py.
"""

import argparse
import logging
import math
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reproduction.cluster import processes
from reproduction.config import Verl
from reproduction.config.runs import RunConfiguration
from reproduction.files import load_json, write_json, write_text
from reproduction.rehearsal.exercise import SCRIPTS, Exercise
from reproduction.training import records

INTERRUPTED_AFTER = 2  # steps
TIMEOUT_S = 1800.0
MARK = "EAD_SMOKE"  # in the environment of every process that is started here
LOOK_S = 1.0  # between two looks at the shared memory that these have mapped
# Python runs a file of this name when it starts. The first process that would make the folder of the step to be
# published says so and waits for its end.
HOLD = """
import os, sys, time

place = f"/checkpoints/.step_{os.environ.get('EAD_SMOKE_HOLDS_STEP')}."

def hold(event, arguments):
    if event == "os.mkdir" and place in os.fsdecode(arguments[0]):
        open(os.path.join(os.path.dirname(__file__), "held"), "x").close()
        time.sleep(3600)

if "EAD_SMOKE_HOLDS_STEP" in os.environ:
    sys.addaudithook(hold)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="JSON of reproduction.config.runs.RunConfiguration")
    parser.add_argument("--machine", required=True, help="JSON of reproduction.config.Verl")
    parser.add_argument("--request", required=True, help="JSON of reproduction.config.EvaluationRequest")
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model to start from")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--evaluation-dataset", type=Path, required=True)
    parser.add_argument("--scale", required=True)
    parser.add_argument("--output", type=Path, required=True, help="report; everything else lies beside it")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    exercise = Exercise(
        run=RunConfiguration.from_json(arguments.run),
        machine=Verl.model_validate_json(arguments.machine),
        model=arguments.model,
        dataset=arguments.dataset,
        validation=arguments.evaluation_dataset,
        scale=arguments.scale,
        folder=arguments.output.parent,
        timeout_s=TIMEOUT_S,
        stream=True,
    )
    # A process of its own, whose shared memory is looked at as a training's is.
    evaluate = [
        *(sys.executable, str(SCRIPTS / "evaluate.py"), "--subject", exercise.run.name),
        *("--request", arguments.request, "--run", str(exercise.output / "manifest.json")),
        *("--dataset", str(arguments.evaluation_dataset), "--output", str(exercise.evaluation)),
        *("--vllm", arguments.machine),
    ]
    seconds, left = {}, {}
    with shared_memory() as segments:
        started = time.monotonic()
        interrupt(exercise, INTERRUPTED_AFTER)
        seconds["until_interrupted"] = time.monotonic() - started
        interrupted = {
            "saved": exercise.saved(),
            "published": sorted(path.name for path in (exercise.state / "checkpoints").glob("step_*")),
        }
        left["interrupted"] = sorted(segments & processes.abandoned_segments())

        started = time.monotonic()
        exercise.train(os.environ)
        seconds["resumed"] = time.monotonic() - started

        started = time.monotonic()
        subprocess.run(evaluate, check=True, timeout=TIMEOUT_S)
        seconds["evaluated"] = time.monotonic() - started
    left["finished"] = sorted(segments & processes.abandoned_segments())

    manifest = load_json(exercise.output / "manifest.json")
    write_json(
        arguments.output,
        {
            "run": exercise.run.name,
            "configuration_hash": exercise.run.hash,
            "status": manifest["status"],
            "steps": manifest["steps"],
            "interrupted": interrupted,
            "metrics": [_known(row) for row in records.read(exercise.state / "metrics.jsonl")],
            "evaluation": load_json(exercise.evaluation)["files"],
            "shared_memory": {"seen": len(segments), "left": left},
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
        },
    )


def _known(row: dict) -> dict:
    """A step's metrics without those that verl cannot give (NaN, which JSON has no form for)."""
    return {name: value for name, value in row.items() if not math.isnan(value)}


@contextmanager
def shared_memory() -> Iterator[set[str]]:
    """Give the set of shared-memory files that processes started within the block have mapped; it grows with them.

    Other processes of the machine leave files, too, so a file's absence before the block would prove nothing.
    """
    mark = os.environ[MARK] = secrets.token_hex(8)
    segments: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            segments.update(processes.mapped_segments(processes.marked(MARK, mark)))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield segments
    finally:
        over.set()
        watch.join()


def interrupt(exercise: Exercise, step: int) -> None:
    """Start the training and send it SIGTERM once verl has saved ``step`` and would publish it.

    Raises RuntimeError if it ends before, or does not get there in time.
    """
    hold = exercise.folder / "hold"
    write_text(hold / "sitecustomize.py", HOLD)
    path = os.pathsep.join([str(hold), *filter(None, [os.environ.get("PYTHONPATH")])])
    with exercise.log.open("ab") as log:
        process = subprocess.Popen(
            exercise.command(),
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "EAD_SMOKE_HOLDS_STEP": str(step)},
        )
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while not (hold / "held").exists():
            if process.poll() is not None:
                raise RuntimeError(
                    f"the training ended by itself, with status {process.returncode}{exercise.log_end()}"
                )
            if time.monotonic() > deadline:
                raise RuntimeError(f"no checkpoint of step {step} after {TIMEOUT_S:.0f} s")
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
