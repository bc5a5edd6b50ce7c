"""Sampling: tokens per second of the in-process sampler and of transformers' ``generate``.

    python benchmarks/sampling.py --peer-python .venv-bench/bin/python --output sampling.json

64 forced tokens for each of 32, 256 and 1024 prompts of 16 tokens, models of 115k and 6.5M parameters with random
weights, float32. The two take turns; vLLM is compared in against_vllm.py. Every prompt is another one, so reading a
prompt once for all its samples does not count; a training, which draws several responses to each, gains more.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import workload
from arms import Arm, alternate, machine, median, ratio
from stamps import stamp

TOKENS = 64
BATCHES = (32, 256, 1024)
ROUNDS = {"115k": 7, "6M": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, required=True, help="interpreter of envs/bench.txt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    about = {"machine": machine(options.threads, "transformers"), "code": stamp("sampling")}
    record = {**about, "tokens": TOKENS, "sizes": {}}
    with tempfile.TemporaryDirectory() as folder:
        for size, rounds in ROUNDS.items():
            model = Path(folder) / size
            workload.write_model(model, size)
            common = ("--model", str(model), "--threads", str(options.threads))
            with (
                Arm(Path(sys.executable), "in_process_arm.py", *common, threads=options.threads) as ours,
                Arm(options.peer_python, "generate_arm.py", *common, threads=options.threads) as theirs,
            ):
                arms = {"in process": ours, "generate": theirs}
                record["sizes"][size] = {
                    str(batch): compare(arms, {"batch": batch, "tokens": TOKENS}, rounds) for batch in BATCHES
                }
            print(json.dumps({size: record["sizes"][size]}), flush=True)
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def compare(arms: dict[str, Arm], job: dict, rounds: int) -> dict:
    taken = alternate(arms, job, rounds)
    return {
        "generate_over_in_process": ratio(taken, "generate", "in process"),
        "tokens_per_cpu_second": {
            name: round(median(found, "tokens") / median(found, "cpu_s")) for name, found in taken.items()
        },
    }


if __name__ == "__main__":
    main()
