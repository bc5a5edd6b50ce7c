"""Give every row of tests/wrong_configurations.yaml to the real ``snakemake`` command, in a copy of the checkout.

    python tests/faults/refuse_configurations.py --record docs/records/refused_configurations.json

Each call asks for everything and may use a processor, so a mistake that is not noticed starts a job. A call passes
where it ends after less than ten seconds of processor time, without success and without a traceback, with the words of
its row in its message, and leaves no file behind but Snakemake's own. Every tenth call starts the command as a user
does, and only those are timed; the others run its entry point in a fork of a process that has imported it already. The
time on the clock is recorded beside the processor's: on a machine with other work it says more about that.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from wrong_configurations import Wrong, copy_checkout, load_table  # noqa: E402

MOST_SECONDS = 10.0
JOB = "Execute 1 jobs"  # what Snakemake says when one starts


def processor_seconds() -> float:
    """Return what the calls have used so far, user and system time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def files_of(checkout: Path) -> list[Path]:
    ours = (path for path in checkout.rglob("*") if "__pycache__" not in path.parts)
    return sorted(path for path in ours if ".snakemake" not in path.parts)


# Imports once what the command imports, and runs its entry point in a fork for each line.
WARM = """
import json, os, sys, traceback
import snakemake.cli, reproduction.plan
print("ready", flush=True)
for line in sys.stdin:
    arguments, output = json.loads(line)
    pid = os.fork()
    if pid == 0:
        file, code = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 0
        os.dup2(file, 1), os.dup2(file, 2)
        sys.argv = ["snakemake", *arguments]
        try:
            snakemake.cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Command:
    """The ``snakemake`` command in ``checkout``: started anew, or its entry point in a process that has imported it."""

    def __init__(self, checkout: Path):
        self.checkout = checkout
        self.environment = {**os.environ, "PYTHONPATH": str(checkout / "scripts"), "OMP_NUM_THREADS": "1"}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.warm = subprocess.Popen(
            [sys.executable, "-c", WARM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env=self.environment,
        )
        self.warm.stdout.readline()

    def cold(self, arguments: list[str]) -> tuple[int, str]:
        """Return exit status and message of the command, as a user starts it."""
        command = [sys.executable, "-m", "snakemake", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.checkout, env=self.environment, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def forked(self, arguments: list[str]) -> tuple[int, str]:
        """Return the same of its entry point, without the start of Python and the imports."""
        output = self.checkout.parent / "message.txt"
        self.warm.stdin.write(json.dumps([arguments, str(output)]) + "\n")
        self.warm.stdin.flush()
        status = int(self.warm.stdout.readline())
        return status, output.read_text(encoding="utf-8")

    def close(self) -> None:
        self.warm.stdin.close()
        self.warm.wait()


def call(wrong: Wrong, command: Command, cold: bool) -> dict:
    """Return what became of one wrong configuration."""
    checkout, arguments = command.checkout, ["--cores", "1"]
    arguments += ["--config", *wrong.config] if wrong.config else []
    before = files_of(checkout)
    with wrong.laid_over(checkout):
        started, used_before = time.monotonic(), processor_seconds()
        status, message = command.cold(arguments) if cold else command.forked(arguments)
        seconds, used = time.monotonic() - started, processor_seconds() - used_before
    message = message.replace(f"{checkout}/", "")
    new = [str(path.relative_to(checkout)) for path in files_of(checkout) if path not in before]
    faults = {
        "it succeeded": status == 0,
        "a traceback": "Traceback" in message,
        "a job started": JOB in message,
        "files were left": bool(new),
        "it took too long": cold and used > MOST_SECONDS,
        "words are missing": any(word not in message for word in wrong.words),
    }
    found = [name for name, there in faults.items() if there]
    lines = [line for line in message.splitlines() if any(word in line for word in wrong.words)]
    return {
        "name": wrong.name,
        **({"processor_s": round(used, 2), "clock_s": round(seconds, 2)} if cold else {}),
        "line": max(lines, key=lambda line: sum(word in line for word in wrong.words), default="")[:300],
        "faults": found,
        **({"message": message[-2000:], "files": new} if found else {}),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, help="write what happened to this file")
    parser.add_argument("--only", help="rows whose name holds this")
    parser.add_argument("--cold-every", type=int, default=10, help="1 starts the command anew for each row")
    arguments = parser.parse_args()
    rows = [wrong for wrong in load_table() if not arguments.only or arguments.only in wrong.name]
    folder = Path(tempfile.mkdtemp(prefix="wrong-"))
    try:
        checkout = copy_checkout(folder / "checkout")
        command = Command(checkout)
        command.cold(["--version"])  # compiles what the others import
        results = []
        for number, wrong in enumerate(rows):
            results.append(call(wrong, command, cold=number % arguments.cold_every == 0))
            print(f"{wrong.name}: {results[-1]['faults'] or 'refused'}", flush=True)
        command.close()
        loads = os.getloadavg()
    finally:
        shutil.rmtree(folder)
    timed = [result for result in results if "clock_s" in result]
    used, clock = ([result[key] for result in timed] for key in ("processor_s", "clock_s"))
    record = {
        "date": datetime.now().date().isoformat(),
        "processors": os.cpu_count(),
        "load_of_the_last_15_minutes": round(loads[2], 1),
        "python": platform.python_version(),
        "configurations": len(results),
        "refused_as_promised": sum(not result["faults"] for result in results),
        "tracebacks": sum("a traceback" in result["faults"] for result in results),
        "jobs_started": sum("a job started" in result["faults"] for result in results),
        "started_anew": len(timed),
        "slowest_processor_s": max(used),
        "median_processor_s": round(statistics.median(used), 2),
        "slowest_clock_s": max(clock),
        "median_clock_s": round(statistics.median(clock), 2),
        "results": results,
    }
    if arguments.record:
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        arguments.record.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in record.items() if key != "results"}, indent=1))
    return 1 if record["refused_as_promised"] < len(results) else 0


if __name__ == "__main__":
    sys.exit(main())
