"""A Slurm for the session, and fresh copies of the project in which the literal profile runs."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cluster as loopback
import pytest
import yaml

from reproduction.config import REPOSITORY, Configuration, load_scale
from reproduction.config.runs import expand
from reproduction.figures import load_experiments

# As a user edits it: names of this cluster's partitions and GPUs.
SITE = {
    "partitions": {"cpu": "cpu", "gpu": "gpu"},
    "gpu": {"form": "gpus", "model": loopback.GPU_MODEL},
    "limits": {"minutes": 1440, "memory_mb": loopback.NODE_MEMORY_MB},
}
FIGURE = "fig11a"  # the fewest runs: four
INTERFERENCE = Path(__file__).parent / "interference"
IMPATIENT = Path(__file__).parent / "impatient_snakemake.py"
# The profile's settings for weeks of work, in seconds instead.
PATIENCE = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")


STEPS = 8
CONFIG = (
    "scale=mini",
    f"experiments=[{FIGURE}]",
    "seeds=[0,1]",
    f"overrides={{training: {{steps: {STEPS}}}}}",
)
# Ways to be interrupted, and a training for each.
WAYS = ("time limit", "memory", "scancel", "requeue", "node failure", "preemption")


def runs():
    """The runs of the interruptions: long enough to be stopped half-way."""
    configuration = Configuration(scale="mini", experiments=[FIGURE], seeds=[0, 1])
    return expand(
        configuration, load_scale("mini", {"training": {"steps": STEPS}}), load_experiments()[FIGURE]
    )


RUNS = runs()
NAMES = dict(zip(WAYS, RUNS, strict=False))


def manifest(name: str) -> str:
    return f"results/mini/runs/{name}/manifest.json"


@pytest.fixture(scope="session")
def slurm():
    if reason := loopback.missing():
        pytest.skip(reason)
    with loopback.Cluster() as cluster:
        yield cluster


@dataclass(frozen=True)
class Checkout:
    """A copy of the project's files, as `git clone` leaves them, and the cluster that its jobs run on."""

    folder: Path
    slurm: loopback.Cluster

    @classmethod
    def fresh(cls, folder: Path, slurm: loopback.Cluster) -> "Checkout":
        listing = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
        for name in names:
            source, target = REPOSITORY / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
        checkout = cls(folder, slurm)
        checkout.edit("workflow/profiles/slurm/site.yaml", **SITE)
        # The small models train without a GPU; here they ask for two, to see that they get them.
        resources = yaml.safe_load((folder / "workflow/resources.yaml").read_text())
        resources["scales"]["mini"]["roles"]["qwen_1_5b"]["train"]["gpus"] = 2
        checkout.edit("workflow/resources.yaml", **resources)
        return checkout

    def edit(self, file: str, **values) -> None:
        path = self.folder / file
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.slurm.environment,
            "PYTHONPATH": f"{self.folder}/scripts:{INTERFERENCE}",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def command(self, *arguments: str, config: tuple[str, ...] = ("scale=mini",)) -> list[str]:
        """Options and targets; what follows ``--`` comes after ``--config``, which would take targets for values."""
        at = arguments.index("--") if "--" in arguments else len(arguments)
        return [
            *(sys.executable, str(IMPATIENT), "--profile", "slurm"),
            *arguments[:at],
            *("--config", *config),
            *arguments[at:],
        ]

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        log = (self.folder / "snakemake.log").open("ab")
        return subprocess.Popen(
            self.command(*PATIENCE, *arguments, **options),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def run(self, *arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
        done = subprocess.run(
            self.command(*PATIENCE, *arguments, **options),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            logs = [
                f"--- {path}\n{path.read_text()[-2000:]}"
                for path in (self.folder / "results").rglob("*.log")
                if path.stat().st_size
            ]
            pytest.fail("\n".join([done.stdout[-3000:], done.stderr[-8000:], *logs[-4:]]))
        return done

    def records(self, *fields: str) -> list[dict[str, str]]:
        return self.slurm.records(*fields, folder=self.folder)


@pytest.fixture
def checkout(slurm, tmp_path) -> Checkout:
    return Checkout.fresh(tmp_path / "ead", slurm)


@pytest.fixture(scope="session")
def finished(slurm, tmp_path_factory) -> Checkout:
    """A figure of the mini workflow through the literal profile, from a fresh copy to the end."""
    checkout = Checkout.fresh(tmp_path_factory.mktemp("finished") / "ead", slurm)
    done = checkout.run(config=("scale=mini", f"experiments=[{FIGURE}]"))
    (checkout.folder / "snakemake.log").write_text(done.stdout + done.stderr)
    return checkout


@pytest.fixture(scope="session")
def undisturbed(slurm, tmp_path_factory) -> Checkout:
    """The same trainings on this machine, without Slurm and without interruptions."""
    checkout = Checkout.fresh(tmp_path_factory.mktemp("undisturbed") / "ead", slurm)
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "2",
        "--config",
        *CONFIG,
        "tracking={stream: false}",
    ]
    command += ["--", *map(manifest, NAMES.values())]
    done = subprocess.run(
        command, cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return checkout


def without_trainings(checkout: Checkout, folder: Path) -> Checkout:
    """A copy with the data and the base model of ``checkout``, in which no training ever started."""
    copy = Checkout(folder / "ead", checkout.slurm)
    shutil.copytree(checkout.folder, copy.folder, symlinks=True)
    for name in ("runs", "state", "logs", "benchmarks", "progress"):
        shutil.rmtree(copy.folder / "results/mini" / name)
    return copy
