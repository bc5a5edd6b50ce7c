"""One training step: the in-process engine against TRL's GRPOTrainer, in processor seconds.

    python benchmarks/rl_step.py --trl-python .venv-bench/bin/python --output step.json

Forced lengths: 256 responses of 64 tokens, models of 115k, 6.5M and 29M parameters with random weights. Default task:
the base model and the settings of the default scale, where responses end by themselves. The programs run on the same
cores and take turns, a step each. TRL runs twice: *tuned*, without gradient checkpointing and with the number of rows
per micro-batch that is fastest for it, tried first; and *as it comes*, with its defaults for both.

The share of the machine's matrix multiplication: operations in products with weights (workload.step_flops) over CPU
seconds, as a share of what a product of two 2048 x 2048 matrices reaches in the same process between the steps.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import workload
from arms import Arm, alternate, machine, median, ratio
from stamps import stamp

ROUNDS = {"115k": 12, "6M": 5, "29M": 3, "default task": 15}
# Tried for TRL; a step of the largest model takes long, and around the best of the others little changes.
MICRO_BATCH_ROWS = {case: (32,) if case == "29M" else (16, 32, 64, 128) for case in ROUNDS}
TRL_DEFAULT_ROWS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl-python", type=Path, required=True, help="interpreter of envs/bench.txt")
    parser.add_argument("--cases", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="steps of each, instead of the case's own number")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    record = {"machine": machine(options.threads), "code": stamp("step_one_thread"), "cases": {}}
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "train.parquet"
        workload.write_problems(dataset)
        for case in options.cases:
            record["cases"][case] = compare(case, Path(folder), dataset, options)
            print(json.dumps({case: record["cases"][case]}), flush=True)
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def compare(case: str, folder: Path, dataset: Path, options: argparse.Namespace) -> dict:
    forced = case != "default task"
    model = folder / case
    parameters = workload.write_model(model, case if forced else "115k", trained=not forced)
    common = ["--model", str(model), "--dataset", str(dataset), "--threads", str(options.threads)]
    common += ["--forced"] if forced else []
    settings = workload.describe(workload.run_configuration(forced=forced))

    def trl(rows: int, *more: str) -> Arm:
        own = ["--settings", json.dumps(settings), "--micro-batch-rows", str(rows), *more]
        return Arm(
            options.trl_python, "step_trl.py", *common, *own, threads=options.threads, log=folder / "trl.log"
        )

    tried = {}
    in_a_mini_batch = settings["prompts"] * settings["n"] // settings["mini_batches"]
    for rows in (rows for rows in MICRO_BATCH_ROWS[case] if in_a_mini_batch % rows == 0):
        with trl(rows) as arm:
            tried[rows] = median(
                alternate({"trl": arm}, {}, rounds=1 if case == "29M" else 2)["trl"], "cpu_s"
            )
    rounds = options.rounds or ROUNDS[case]
    with (
        Arm(Path(sys.executable), "step_in_process.py", *common, threads=options.threads) as ours,
        trl(min(tried, key=tried.get)) as tuned,
        trl(TRL_DEFAULT_ROWS, "--checkpointing") as as_it_comes,
    ):
        arms = {"in process": ours, "trl tuned": tuned, "trl as it comes": as_it_comes}
        alternate(arms, {}, rounds=0)
        taken = {name: [] for name in arms}
        rates = []
        for _ in range(rounds):
            for name, found in alternate(arms, {}, rounds=1, warm_ups=0).items():
                taken[name] += found
            rates.append(ours.ask(matmul=True)["flops_per_cpu_s"])
    rate = float(np.median(rates))
    flops = workload.step_flops(case) if forced else {}
    return {
        "parameters": parameters,
        "steps": rounds,
        "trl_micro_batch_rows": {str(rows): round(seconds, 3) for rows, seconds in tried.items()},
        "tuned_over_in_process": ratio(taken, "trl tuned", "in process"),
        "as_it_comes_over_in_process": ratio(taken, "trl as it comes", "in process"),
        "matmul_gflops_per_cpu_second": round(rate / 1e9, 1),
        "share_of_matmul": {
            part: round(amount / median(taken["in process"], f"{part}_cpu_s") / rate, 3)
            for part, amount in flops.items()
        },
        **{name: {key: round(median(found, key), 4) for key in found[0]} for name, found in taken.items()},
    }


if __name__ == "__main__":
    main()
