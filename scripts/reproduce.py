"""Run the workflow and write its report: what `make reproduce` does.

May be started again after anything, `kill -9` included: finished jobs are kept and interrupted trainings go on
from their last state. A second start while the first still runs is refused.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from reproduction.cluster.loggers import with_loggers
from reproduction.config import WORKFLOW, ConfigurationError
from reproduction.files import load_json
from reproduction.plan import read_files, read_plan

INTERRUPTED = 128 + 2  # exit status of a command that SIGINT ended


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=["all"], help="figures or other targets; default: all")
    parser.add_argument("--cores", default="all")
    arguments = parser.parse_args()
    try:
        configuration = read_plan(read_files("config.yaml")).configuration
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
    except KeyboardInterrupt:
        return INTERRUPTED


def reproduce(configuration, targets: list[str], cores: str) -> int:
    """Run the targets and say where to look.

    Named targets come before `all`: the report shows what is there when its own job is planned.
    """
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(WORKFLOW / "Snakefile")]
    if any(Path(".snakemake/locks").glob("*.lock")):
        if (running := snakemake_in(Path.cwd())) is not None:
            print(
                f"a Snakemake (process {running}) runs here; wait for it, or stop it first", file=sys.stderr
            )
            return 1
        # Nobody runs the workflow, so the lock is left over from a kill.
        subprocess.run([*snakemake, "--unlock", "--quiet", "all"], check=True)
    run = [*snakemake, "--cores", cores, "--rerun-incomplete", "--logger", "calm", "--"]
    last = [target for target in targets if target in ("all", "report")]
    for part in ([target for target in targets if target not in last], last):
        if part and (failed := ended([*run, *part])):
            return failed
    if not last:
        return 0
    folder = Path(configuration.paths.reports) / configuration.scale
    page, claims = folder / "report.html", folder / "claims.json"
    print(summary(load_json(claims) if claims.exists() else None, page))
    return 0


def snakemake_in(folder: Path) -> int | None:
    """Return the process of a Snakemake of ours that runs in ``folder``; None where there is none.

    Not those that a Snakemake starts for a job (``--mode``): they may outlive one that was killed, and take no lock.
    """
    me = psutil.Process().username()
    for process in psutil.process_iter(["cmdline", "cwd", "username"]):
        found = process.info
        words = [Path(word).name for word in found["cmdline"] or ()]
        if (
            found["username"] == me
            and found["cwd"] == str(folder.resolve())
            and "snakemake" in words[:4]
            and words[0].startswith(("python", "snakemake"))
            and "--mode" not in words
        ):
            return process.pid
    return None


def ended(command: list[str]) -> int:
    """Run the command and return its exit status; an interruption (Ctrl-C) is the command's own to deal with.

    The terminal gives SIGINT to both of us. `subprocess.run` would kill the command after a quarter of a second,
    and Snakemake needs longer to stop its jobs and take its lock off.
    """
    interrupted = False
    with subprocess.Popen(command, env=with_loggers()) as process:
        while process.returncode is None:
            try:
                process.wait()
            except KeyboardInterrupt:
                interrupted = True
    return INTERRUPTED if interrupted else process.returncode


def summary(claims: dict | None, page: Path) -> str:
    """Return the lines with which a run ends: how the claims fared, and where to look."""
    lines = [f"report: {page}"]
    if claims:
        for reading, counts in reversed(claims["counts"].items()):
            found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
            lines.insert(0, f"claims, {claims['readings'][reading]['label']}: {found}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
