"""What Snakemake needs to plan: the job graph, and a second run with nothing to do, by number of cells.

    python benchmarks/dag.py --seeds 1 2 16 --output dag.json

Every experiment of the cpu scale with more and more seeds: each cell is a training and an evaluation, and figures read
them all. Two commands are timed, each in a fresh process: a dry run in an empty folder, and a run where all outputs
exist. The outputs are empty files that Snakemake is told to take for its own (`--touch`), so that it compares their
times, parameters and code as after a real run.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from stamps import stamp

from reproduction.config import WORKFLOW


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 16], help="seeds per cell, a row each")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    code, rows = stamp("dag"), []
    for seeds in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder), seeds))
        print(json.dumps(rows[-1]), flush=True)
    if options.output:
        options.output.write_text(json.dumps({"code": code, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path, seeds: int) -> dict[str, float]:
    choices = {"scale": "cpu", "seeds": list(range(seeds)), "tracking": {"stream": False}}
    (folder / "config.yaml").write_text(yaml.safe_dump(choices))
    plan, dry_run = snakemake(folder, "--dry-run", "--quiet", "rules")
    counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", plan, re.M)}
    listing, _ = snakemake(folder, "--dry-run", "--detailed-summary", "--quiet", "rules")
    names = [
        line.split("\t")[0] for line in listing.splitlines() if line.startswith(("results/", "reports/"))
    ]
    for name in names:
        path = folder / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True, exist_ok=True)
    snakemake(folder, "--touch", "--cores", "1", "--quiet", "all")
    again, no_op = snakemake(folder, "--cores", "1", "--quiet", "rules")
    if "Nothing to be done" not in again:
        raise RuntimeError(f"the second run had something to do:\n{again[-2000:]}")
    return {
        "cells": counts["train"],
        "jobs": counts["total"],
        **{f"plan_{key}": value for key, value in dry_run.items()},
        **{f"no_op_{key}": value for key, value in no_op.items()},
    }


def snakemake(folder: Path, *arguments: str) -> tuple[str, dict[str, float]]:
    """Run it; return what it said, and the seconds and memory that it took."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(WORKFLOW / "Snakefile")]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [*command, "--directory", str(folder), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-4000:])
    took = {
        "wall_s": round(time.perf_counter() - began, 1),
        "processor_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_mb_of_all": round(after.ru_maxrss / 1e3),
    }
    return done.stdout + done.stderr, took


if __name__ == "__main__":
    main()
