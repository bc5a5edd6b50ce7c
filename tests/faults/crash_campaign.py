"""Kill the mini workflow with SIGKILL at random moments, many times; every artefact must come out the same.

  python tests/faults/crash_campaign.py --kills 100 --folder <empty folder> --record docs/records/crashes.json

The workflow is run once undisturbed. Then, in fresh folders, it is started as `make reproduce` starts it, or as on a
cluster, where a job that dies is tried again at once. At random times one job alone is killed, or every process, and
it is started again until it ends. After each kill every file that is there under its own name must be whole. After
each end every artefact must be identical to the undisturbed run's: byte for byte, or, where a file records times and
random identifiers, in everything else; and MLflow must hold each run once, finished, with every value.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow.parquet
import safetensors
import yaml

from reproduction.config import REPOSITORY
from reproduction.tracking import Store

CONFIGURATION = {
    "scale": "mini",
    # One model, and every kind of rule: trainings, evaluations, a study of decoding, figures, a table.
    "experiments": ["fig01", "fig03", "fig04", "table1", "propositions"],
    "overrides": {"roles": {"qwen_1_5b": None}},
}
# What a machine measured, and what is private to a job that has not ended, is no artefact.
NO_ARTEFACTS = (
    "logs",
    "benchmarks",
    "progress",
    "state",
    "mlflow",
    "timings.parquet",
    *("cost.pdf", "cost.png", "cost.csv"),
)
# Times, identifiers that MLflow draws, and checksums of files that hold these.
VOLATILE_KEYS = {
    "started",
    "ended",
    "cpu_seconds_outside_steps",
    "created",
    "datePublished",
    "startTime",
    "endTime",
    "sha256",
    "contentSize",
}
VOLATILE_TEXT = re.compile(
    rb"[0-9a-f]{32}|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d:?\d\d)?|\d{10}\.\d+"
    rb'|(?s:<section id="cost".*?</section>)'
)
MEAN_S = 0.8  # seconds between two kills, on average
# A job is killed until it has once been spared to its end, so the longest would take nearly every kill: a script
# that has had its share of them is left alone.
SHARE_OF_A_SCRIPT = 1 / 6
DEADLINE_S = 900.0  # for one start of the workflow


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument(
        "--folder", type=Path, required=True, help="must not exist; removed at the end if all is well"
    )
    parser.add_argument("--record", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    campaign = Campaign(arguments.folder, random.Random(arguments.seed))
    record = campaign.run(arguments.kills)
    print(json.dumps(record, indent=2))
    if arguments.record:
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        arguments.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if record["files_cut_short"] or record["artefacts_that_differ"] or record["mlflow_differences"]:
        return 1
    shutil.rmtree(arguments.folder)
    return 0


class Campaign:
    def __init__(self, folder: Path, chance: random.Random):
        self.folder, self.chance = folder, chance
        self.kills: Counter[str] = Counter()
        self.victims: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()  # by script
        self.cut_short: Counter[str] = Counter()

    def run(self, kills: int) -> dict:
        self.wanted = kills
        began = time.time()
        calm = self._new_world("undisturbed")
        self._start(calm).wait()
        expected, expected_runs = artefacts(calm), tracked(calm)
        differing, tracking, worlds = [], [], 0
        while self.kills.total() < kills:
            worlds += 1
            world = self._new_world(f"world_{worlds}")
            starts = 0
            while not self._disturbed_run(world, enough=self.kills.total() >= kills):
                starts += 1
                self.cut_short.update(str(path.relative_to(world)) for path in damaged(world))
                print(f"world {worlds}: {self.kills.total()} kills, {starts} here", flush=True)
            differing += differences(expected, artefacts(world))
            tracking += differences(expected_runs, tracked(world))
            shutil.rmtree(world)
        return {
            "kills": self.kills.total(),
            "victims": dict(self.victims),
            "killed": dict(self.kills.most_common()),
            "struck_by_script": dict(self.struck.most_common()),
            "worlds": worlds,
            "artefacts_compared": len(expected),
            "files_cut_short": dict(self.cut_short),
            "artefacts_that_differ": differing,
            "mlflow_runs": len(expected_runs),
            "mlflow_differences": tracking,
            "seconds": round(time.time() - began),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        }

    def _new_world(self, name: str) -> Path:
        world = self.folder / name
        world.mkdir()
        (world / "config.yaml").write_text(yaml.safe_dump(CONFIGURATION))
        return world

    def _start(self, world: Path, with_retries: bool = False) -> subprocess.Popen:
        """Start it as `make reproduce` does, or as on a cluster: a job that dies is tried again at once."""
        command = [sys.executable, str(REPOSITORY / "scripts" / "reproduce.py"), "--cores", "2"]
        if with_retries:
            command = [
                sys.executable,
                "-m",
                "snakemake",
                "--snakefile",
                str(REPOSITORY / "workflow" / "Snakefile"),
            ]
            command += ["--cores", "2", "--rerun-incomplete", "--keep-going", "--retries", "20"]
        with (world / "workflow.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=world,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def _disturbed_run(self, world: Path, enough: bool) -> bool:
        """Start the workflow, kill jobs of it, or all of it; True if it came to its end instead."""
        with_retries = not any((world / ".snakemake/locks").glob("*.lock")) and self.chance.random() < 0.7
        workflow = self._start(world, with_retries)
        began = time.monotonic()
        while workflow.poll() is None and not jobs(workflow):
            time.sleep(0.02)
        while workflow.poll() is None:
            if time.monotonic() > began + DEADLINE_S:
                os.killpg(workflow.pid, signal.SIGKILL)
                raise RuntimeError(f"{world}: the workflow still ran after {DEADLINE_S:g} s")
            time.sleep(0.1 if enough else self.chance.expovariate(1 / MEAN_S))
            if not enough:
                alone = self.chance.random() < (0.93 if with_retries else 0.3)
                if self._kill(workflow, alone) and not (alone and with_retries):
                    workflow.wait()
                    return False
                self.cut_short.update(str(path.relative_to(world)) for path in damaged(world))
                enough = self.kills.total() >= self.wanted
        if workflow.returncode and enough:
            raise RuntimeError(f"{world}: status {workflow.returncode}; see its workflow.log")
        return workflow.returncode == 0  # a job may have been killed more often than it was tried again

    def _kill(self, workflow: subprocess.Popen, alone: bool) -> bool:
        """Kill one job's process, or every process; False if there was none left to kill."""
        running = jobs(workflow)
        if workflow.poll() is not None:
            return False
        share = self.wanted * SHARE_OF_A_SCRIPT
        due = {process: name for process, name in running.items() if self.struck[name] < share}
        if not due:
            return False
        if alone:
            process, name = self.chance.choice(sorted(due.items()))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            killed = name
            self.struck[name] += 1
        else:
            # As when the machine goes down: parents first, so that nobody sees a child's end.
            parent = psutil.Process(workflow.pid)
            for process in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            killed = " + ".join(sorted(set(running.values())))
            self.struck.update(set(running.values()))
        self.victims["one job" if alone else "everything at once"] += 1
        self.kills[killed] += 1
        return True


def jobs(workflow: subprocess.Popen) -> dict[int, str]:
    """Return process -> script of the jobs that run."""
    found = {}
    try:
        for process in psutil.Process(workflow.pid).children(recursive=True):
            scripts = [
                Path(part).stem for part in _command(process) if part.endswith(".py") and "scripts/" in part
            ]
            if scripts and scripts[0] != "reproduce" and Path(_command(process)[0]).name.startswith("python"):
                found[process.pid] = scripts[0]
    except psutil.NoSuchProcess:
        pass
    return found


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return [""]


def artefact_files(world: Path) -> list[Path]:
    return [
        path
        for root in ("results", "reports")
        for path in sorted((world / root).rglob("*"))
        if path.is_file()
        and not path.name.startswith(".")
        and not set(path.relative_to(world).parts) & set(NO_ARTEFACTS)
    ]


def damaged(world: Path) -> list[Path]:
    """Return the files that cannot be read to their end."""
    found = []
    for path in artefact_files(world):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".parquet":
                pyarrow.parquet.read_table(path)
            elif path.suffix == ".safetensors":
                with safetensors.safe_open(path, "np") as tensors:
                    for name in tensors.keys():  # noqa: SIM118, it is no mapping
                        tensors.get_tensor(name)
            elif path.suffix in (".png", ".pdf", ".html"):
                ends = {
                    ".png": b"IEND\xaeB`\x82",
                    ".pdf": b"%%EOF",
                    ".html": b">",
                }  # some pages are parts of others
                if not path.read_bytes().rstrip().endswith(ends[path.suffix]):
                    found.append(path)
        except FileNotFoundError:
            continue  # Snakemake removes what a failed job left, while this looks
        except (ValueError, OSError, safetensors.SafetensorError):
            found.append(path)
    return found


def artefacts(world: Path) -> dict[str, str]:
    """Return path -> digest of what a file says apart from times and random identifiers."""
    return {str(path.relative_to(world)): _digest(path) for path in artefact_files(world)}


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(_without_volatile(json.loads(content)), sort_keys=True).encode()
    if path.suffix in (".html", ".json"):
        content = VOLATILE_TEXT.sub(b"", content)
    return hashlib.sha256(content).hexdigest()


def _without_volatile(value):
    if isinstance(value, dict):
        return {key: _without_volatile(item) for key, item in value.items() if key not in VOLATILE_KEYS}
    if isinstance(value, list):
        return [_without_volatile(item) for item in value]
    return value


def tracked(world: Path) -> dict[str, str]:
    """Return run -> digest of status, parameters and every value that MLflow holds of it."""
    client = Store.local(world / "results" / "mlflow").connect()
    runs = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            tags = run.data.tags
            name = f"{experiment.name}: {tags['role']} {tags.get('run_name', run.info.run_name)}"
            if name in runs:
                runs[name] = "twice"
                continue
            history = {
                key: sorted(
                    (point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)
                )
                for key in sorted(run.data.metrics)
                if not key.startswith("system/")  # what the machine gave
            }
            said = [run.info.status, sorted(run.data.params.items()), history]
            runs[name] = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return runs


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return [
        f"{name}: {'missing' if name not in found else 'too much' if name not in expected else 'differs'}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


if __name__ == "__main__":
    sys.exit(main())
