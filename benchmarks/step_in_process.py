"""An arm of rl_step.py: one training step of the in-process engine."""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import workload
from arms import Measured, measured, serve

from reproduction.cluster import compute
from reproduction.engines.inprocess import Trainer

NEVER = -1  # no token has this id, so no response ends by itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--forced", action="store_true")
    parser.add_argument("--sampler", default="tau1.0")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    compute.set_up(options.threads)
    configuration = workload.run_configuration(forced=options.forced, sampler=options.sampler)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(configuration, options.model, options.dataset, Path(folder), workers=1)
        if options.forced:
            trainer.model.shape = replace(trainer.model.shape, eos=(NEVER,))
        with trainer.grader:
            serve(lambda matmul=False: matmul_rate() if matmul else step(trainer, Path(folder)))


def matmul_rate(size: int = 2048, repetitions: int = 8) -> Measured:
    """What the machine's float32 matrix multiplication reaches now, in floating-point operations per CPU second."""
    left, right = torch.rand(size, size), torch.rand(size, size)
    found: Measured = {}
    left @ right
    with measured(found):
        for _ in range(repetitions):
            left @ right
    return {**found, "flops_per_cpu_s": repetitions * 2 * size**3 / found["cpu_s"]}


def step(trainer: Trainer, folder: Path) -> Measured:
    found: Measured = {}
    with measured(found):
        values = trainer.advance()
    laps = json.loads((folder / "timings.jsonl").read_text().splitlines()[-1])
    for part in ("sampling", "grading", "update"):
        found[f"{part}_cpu_s"] = laps[f"{part}_cpu_seconds"]
    return {
        **found,
        "tokens": values["response_length_mean"] * trainer.settings.prompts * trainer.run.n,
        "reward": values["reward_mean"],
    }


if __name__ == "__main__":
    main()
