"""The mini workflow in a folder of its own, as a user runs it."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from pages import EXTEND, TUTORIAL, additions
from reproduction.config import REPOSITORY, merge


@dataclass(frozen=True)
class Workflow:
    """A working directory with its config.yaml; ``run`` calls Snakemake there."""

    folder: Path
    snakefile: Path = REPOSITORY / "workflow" / "Snakefile"

    def configure(self, **values) -> None:
        # Streaming has its own tests; without it the trainings here start no MLflow process each.
        choices = {"scale": "mini", "experiments": ["fig04"], "tracking": {"stream": False}, **values}
        # One model is enough for what these tests ask; tests/integration/test_paper.py makes every figure.
        choices["overrides"] = merge({"roles": {"qwen_1_5b": None}}, choices.get("overrides", {}))
        (self.folder / "config.yaml").write_text(yaml.safe_dump(choices))

    def command(self, *arguments: str) -> list[str]:
        return [
            *(sys.executable, "-m", "snakemake"),
            *("--snakefile", str(self.snakefile)),
            *("--directory", str(self.folder)),
            *("--cores", "2"),
            *arguments,
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, env=self.environment
        )
        if check and done.returncode:
            logs = [
                p.read_text() for p in (self.folder / "results" / "mini").rglob("*.log") if p.stat().st_size
            ]
            pytest.fail("\n".join([done.stdout[-3000:], done.stderr[-6000:], *logs[-3:]]))
        return done

    def planned(self, *arguments: str, **values) -> dict[str, int]:
        """Return rule -> number of jobs that a run would start, with ``values`` laid over config.yaml."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as overlay:
            yaml.safe_dump(values, overlay)  # Snakemake merges it into config.yaml, mapping by mapping
            out = self.run("--dry-run", "--configfile", overlay.name, *arguments).stdout
        if "Nothing to be done" in out:
            return {}
        table = out[out.rindex("Job stats:") :].splitlines()[3:]
        counts = {}
        for line in table:
            if not line.strip() or line.startswith("total"):
                break
            rule, count = line.split()
            counts[rule] = int(count)
        return counts


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory) -> Workflow:
    """The whole mini workflow, run once for all test processes and left undisturbed: copy it to change it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    workflow = Workflow(shared / "reproduced")
    with FileLock(shared / "reproduced.lock"):
        if not (shared / "reproduced.done").exists():
            workflow.folder.mkdir()
            workflow.configure()
            workflow.run()
            (shared / "reproduced.done").touch()
    return workflow


@pytest.fixture(scope="session")
def whole_paper(tmp_path_factory) -> Workflow:
    """Every experiment at the mini scale, all models: minutes of work, left undisturbed."""
    workflow = Workflow(tmp_path_factory.mktemp("paper"))
    values = {"scale": "mini", "tracking": {"stream": False}}
    (workflow.folder / "config.yaml").write_text(yaml.safe_dump(values))
    workflow.run()
    return workflow


@pytest.fixture
def fresh(tmp_path) -> Workflow:
    workflow = Workflow(tmp_path)
    workflow.configure()
    return workflow


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the checkout, as far as the workflow needs it."""
    checkout = tmp_path / "checkout"
    for name in ("workflow", "scripts", "envs"):
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("config.yaml", "slurm"):
        shutil.copyfile(REPOSITORY / name, checkout / name, follow_symlinks=False)
    return checkout


@pytest.fixture
def extended_checkout(checkout) -> Path:
    """A copy of the checkout with what docs/extend.md and docs/tutorial.md add to it: entries of tables, and code."""
    for page in (EXTEND, TUTORIAL):
        for path, text in additions(page):
            add(checkout / path, text)
    return checkout


def add_entry(checkout: Path, table: str, entry: str) -> None:
    """Append an entry to a table, as a reader does."""
    add(checkout / "workflow" / f"{table}.yaml", entry)


def add(path: Path, text: str) -> None:
    """Append to a file, or make it."""
    before = f"{path.read_text(encoding='utf-8')}\n\n" if path.exists() else ""
    path.write_text(before + text, encoding="utf-8")
