"""Run the workflow and write its report: what `make reproduce` does.

May be started again after anything, `kill -9` included: finished jobs are kept and interrupted trainings go on
from their last state. A second start while the first still runs is refused.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from ead.pipeline.config import (
    REPOSITORY,
    ConfigurationError,
    load_configuration,
    load_scale,
    read_yaml,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=["all"], help="figures or other targets; default: all")
    parser.add_argument("--cores", default="all")
    arguments = parser.parse_args()
    try:
        configuration = load_configuration(read_yaml(Path("config.yaml")))
        load_scale(configuration.scale, configuration.overrides)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2

    results = Path(configuration.paths.results)
    results.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(results / ".workflow.lock", timeout=0):
            return reproduce(configuration, arguments.targets, arguments.cores)
    except Timeout:
        print(f"the workflow already runs in {results}; wait for it, or stop it first", file=sys.stderr)
        return 1


def reproduce(configuration, targets: list[str], cores: str) -> int:
    """Run the targets, then write the report of what is there; return the exit status."""
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    # Nobody else runs the workflow (we hold the lock), so a lock of Snakemake's is left over from a kill.
    if any(Path(".snakemake/locks").glob("*.lock")):
        subprocess.run([*snakemake, "--unlock", "--quiet", "all"], check=True)
    done = subprocess.run(
        [
            *snakemake,
            *("--cores", cores),
            "--rerun-incomplete",
            *("--logger", "calm"),
            "--",
            *targets,
        ],
        check=False,
    )
    if done.returncode:
        return done.returncode
    report = Path(configuration.paths.reports) / configuration.scale / "report.html"
    written = subprocess.run(
        [*snakemake, "--report", str(report), "--quiet", "all", "--", *targets],
        check=False,
        capture_output=True,
        text=True,
    )
    if written.returncode:
        print(written.stderr, file=sys.stderr)
        return written.returncode
    print(f"report: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
