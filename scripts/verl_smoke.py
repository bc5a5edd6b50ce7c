"""The verl engine end to end on a small model: train, interrupt, resume, evaluate; then look for what was left behind.

Everything runs as the workflow would run it, through train.py and evaluate.py. What the run says about the method
is measured from its dumps by tests/verl/test_verl_smoke.py.
"""

import argparse
import json
import logging
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

from reproduction import records
from reproduction.engines.verl import abandoned_segments
from reproduction.files import write_json
from reproduction.runs import RunConfiguration

SCRIPTS = Path(__file__).resolve().parent
INTERRUPTED_AFTER = 2  # steps
TIMEOUT_S = 1800.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="JSON of reproduction.runs.RunConfiguration")
    parser.add_argument("--machine", required=True, help="JSON of reproduction.config.Verl")
    parser.add_argument("--request", required=True, help="JSON of reproduction.config.EvaluationRequest")
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model to start from")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--evaluation-dataset", type=Path, required=True)
    parser.add_argument("--scale", required=True)
    parser.add_argument("--output", type=Path, required=True, help="report; everything else lies beside it")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    run = RunConfiguration.from_json(arguments.run)
    folder = arguments.output.parent
    state, output = folder / "state" / run.hash, folder / "run"
    before = abandoned_segments()
    train = [
        *(sys.executable, str(SCRIPTS / "train.py"), "--run", arguments.run, "--machine", arguments.machine),
        *("--model", str(arguments.model), "--dataset", str(arguments.dataset)),
        *("--validation", str(arguments.evaluation_dataset), "--output", str(output / "manifest.json")),
        *("--state", str(state), "--scale", arguments.scale),
        *("--tracking-folder", str(folder / "mlflow")),
    ]
    seconds = {}
    started = time.monotonic()
    interrupted = interrupt(train, state, INTERRUPTED_AFTER)
    seconds["until_interrupted"] = time.monotonic() - started
    left = {"interrupted": sorted(abandoned_segments() - before)}

    started = time.monotonic()
    subprocess.run(train, check=True, timeout=TIMEOUT_S)
    seconds["resumed"] = time.monotonic() - started

    started = time.monotonic()
    last = output / "checkpoints" / f"step_{run.training.steps}"
    evaluate = [
        *(
            sys.executable,
            str(SCRIPTS / "evaluate.py"),
            "--subject",
            run.name,
            "--request",
            arguments.request,
        ),
        *("--model", str(last / "manifest.json"), "--dataset", str(arguments.evaluation_dataset)),
        *("--output", str(folder / "evaluation" / "manifest.json"), "--vllm", arguments.machine),
    ]
    subprocess.run(evaluate, check=True, timeout=TIMEOUT_S)
    seconds["evaluated"] = time.monotonic() - started
    left["finished"] = sorted(abandoned_segments() - before)

    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    write_json(
        arguments.output,
        {
            "run": run.name,
            "configuration_hash": run.hash,
            "status": manifest["status"],
            "steps": manifest["steps"],
            "interrupted_after_step": interrupted,
            "metrics": [_known(row) for row in records.read(state / "metrics.jsonl")],
            "evaluation": json.loads((folder / "evaluation" / "manifest.json").read_text())["files"],
            "shared_memory_left": left,
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
        },
    )


def _known(row: dict) -> dict:
    """A step's metrics without those that verl cannot give (NaN, which JSON has no form for)."""
    return {name: value for name, value in row.items() if not math.isnan(value)}


def interrupt(command: list[str], state: Path, step: int) -> int:
    """Start a training and send it SIGTERM once the checkpoint of ``step`` is whole; return that step.

    Raises RuntimeError if it ends before, or does not get there in time.
    """
    process = subprocess.Popen(command)
    deadline = time.monotonic() + TIMEOUT_S
    tracker = state / "verl" / "checkpoints" / "latest_checkpointed_iteration.txt"
    published = state / "checkpoints" / f"step_{step}"
    try:
        while not (published.exists() and tracker.exists() and int(tracker.read_text() or 0) >= step):
            if process.poll() is not None:
                raise RuntimeError(f"the training ended by itself, with status {process.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no checkpoint of step {step} after {TIMEOUT_S:.0f} s")
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return step


if __name__ == "__main__":
    main()
