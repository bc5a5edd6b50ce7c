"""The split of the cores: as many trainings at a time as cores, with a thread each, or one with all of them.

    python benchmarks/split.py --output split.json

Steps with forced lengths (256 responses of 64 tokens), models of 115k, 6.5M and 29M parameters. The two ways take
turns; a ratio above 1 says that trainings side by side do more steps per second.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import workload
from arms import Arm, machine
from stamps import stamp

ROUNDS = {"115k": 9, "6M": 3, "29M": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    record = {"machine": machine(options.cores), "code": stamp("split"), "sizes": {}}
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "train.parquet"
        workload.write_problems(dataset)
        for size in options.sizes:
            workload.write_model(Path(folder) / size, size)
            record["sizes"][size] = compare(Path(folder) / size, dataset, options.cores, ROUNDS[size])
            print(json.dumps({size: record["sizes"][size]}), flush=True)
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def compare(model: Path, dataset: Path, cores: int, rounds: int) -> dict:
    with ExitStack() as stack:

        def arm(threads: int) -> Arm:
            options = (
                "--model",
                str(model),
                "--dataset",
                str(dataset),
                "--threads",
                str(threads),
                "--forced",
            )
            return stack.enter_context(
                Arm(Path(sys.executable), "step_in_process.py", *options, threads=threads)
            )

        side_by_side, together = [arm(1) for _ in range(cores)], [arm(cores)]
        pool = stack.enter_context(ThreadPoolExecutor(cores))

        def steps_per_second(arms: list[Arm]) -> float:
            began = time.perf_counter()
            list(pool.map(Arm.ask, arms))
            return len(arms) / (time.perf_counter() - began)

        for arms in (side_by_side, together):  # warm up
            steps_per_second(arms)
        pairs = np.array(
            [(steps_per_second(side_by_side), steps_per_second(together)) for _ in range(rounds)]
        )
    ratios = pairs[:, 0] / pairs[:, 1]
    return {
        "steps_per_second_side_by_side": round(float(np.median(pairs[:, 0])), 4),
        "steps_per_second_one_at_a_time": round(float(np.median(pairs[:, 1])), 4),
        "ratio": {
            "median": float(np.median(ratios)),
            "lowest": float(ratios.min()),
            "highest": float(ratios.max()),
        },
    }


if __name__ == "__main__":
    main()
