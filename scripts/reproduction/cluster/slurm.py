"""How Slurm is asked for what a job needs.

``workflow/profiles/slurm/site.yaml`` says what the cluster calls things (:class:`Site`). :func:`slurm_resources` turns
a :class:`~reproduction.cluster.resources.Need` into the resource names of Snakemake's Slurm executor.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from reproduction.cluster.resources import Need
from reproduction.config import REPOSITORY, Strict, read_yaml, validate

SITE_FILE = REPOSITORY / "workflow" / "profiles" / "slurm" / "site.yaml"

# Partitions may be a list; these words become options of sbatch.
SlurmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:-]*$")]

# --- site.yaml ---------------------------------------------------------------------------------------------


class Partitions(Strict):
    """Partitions by what a job needs; null is the cluster's default."""

    cpu: SlurmName | None = Field(
        None, description="partition of jobs without a GPU; null is the cluster's default"
    )
    gpu: SlurmName | None = Field(
        None, description="partition of jobs with GPUs; null is the cluster's default"
    )


class GpuRequest(Strict):
    """How GPUs are asked for: ``--gpus=model:n`` for the whole job, or ``--gres=gpu:model:n`` for each node."""

    form: Literal["gpus", "gres"] = Field(
        "gpus", description="`--gpus=model:n` for the whole job, or `--gres=gpu:model:n` for each node"
    )
    model: str | None = Field(None, pattern=r"^[A-Za-z0-9_.]+$", description="null takes any")


class Limits(Strict):
    """The most that a retry may ask for; null is no limit."""

    minutes: PositiveInt | None = Field(
        None, description="longest time that a retry asks for; null is no limit"
    )
    memory_mb: PositiveInt | None = Field(
        None, description="most memory that a retry asks for; null is no limit"
    )


class Site(Strict):
    """What differs between clusters."""

    account: SlurmName | None = Field(None, description="who pays; null is the user's default")
    partitions: Partitions = Partitions()
    gpu: GpuRequest = GpuRequest()
    limits: Limits = Limits()
    extra: str | None = Field(None, description="further options of sbatch")


def load_site(path: Path = SITE_FILE) -> Site:
    """Read the site file. Raises ConfigurationError naming the file, the key and what is allowed."""
    return validate(Site, read_yaml(path), path.name)


# --- as Slurm's executor names it --------------------------------------------------------------------------


SLURM_RESOURCES = (
    *("mem_mb", "runtime", "cpus_per_task", "gpu", "gpu_model", "gres"),
    *("slurm_account", "slurm_partition", "slurm_extra"),
    *("nodes", "gpus_per_node", "mpi", "tasks", "tasks_per_gpu"),
)


@dataclass(frozen=True)
class Growth:
    """Multiples of what a job asks for at its first attempt."""

    minutes: int = 1
    memory: int = 1


# What slurmstepd writes into a job's log when it ends the job, with cgroups and without; Snakemake tells a retry only
# that it is one, and accounting, which also knows, is not everywhere.
_OUT_OF_TIME = re.compile(r"CANCELLED AT \S+ DUE TO TIME LIMIT")
_OUT_OF_MEMORY = re.compile(r"exceeded (virtual )?memory limit \(|Detected \d+ oom[-_]kill event")


def growth_after(logs: Path, attempt: int) -> Growth:
    """Return how far the limits have grown by ``attempt``, from the logs of the attempts before it in ``logs``.

    Time grows for each that ran out of time, memory for each that ran out of memory. What ended otherwise is tried
    again as it was.
    """
    if attempt == 1:
        return Growth()
    earlier = sorted(logs.glob("*.log"), key=lambda path: path.stat().st_mtime)[1 - attempt :]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in earlier]
    return Growth(
        minutes=1 + sum(_OUT_OF_TIME.search(text) is not None for text in texts),
        memory=1 + sum(_OUT_OF_MEMORY.search(text) is not None for text in texts),
    )


def log_folder(root: Path, rule: str, wildcards: Sequence[str]) -> Path:
    """Return where the Slurm executor keeps the logs of one job's attempts, below its option ``slurm-logdir``."""
    return root / f"rule_{rule}" / "_".join(wildcards).replace("/", "_")


def slurm_resources(need: Need, site: Site, growth: Growth = Growth()) -> dict[str, int | str | None]:
    """Return Snakemake resources for ``need`` at ``site``; None means that nothing is said about it.

    Time and memory are those of the first attempt times ``growth``, up to the site's limits. A training that needs
    longer than the partition allows goes on where it was.
    """
    gpus = need.gpus * need.nodes
    asks_gres = bool(gpus) and site.gpu.form == "gres"
    partition = site.partitions.gpu if gpus else site.partitions.cpu
    model = f":{site.gpu.model}" if site.gpu.model else ""
    several = need.nodes > 1
    return {
        "mem_mb": _at_most(need.memory_mb * growth.memory, site.limits.memory_mb),
        "runtime": _at_most(need.minutes * growth.minutes, site.limits.minutes),
        "cpus_per_task": need.cpus,
        "gpu": gpus if gpus and not asks_gres else None,
        "gpu_model": site.gpu.model if gpus and not asks_gres else None,
        "gres": f"gpu{model}:{need.gpus}" if asks_gres else None,
        "slurm_account": site.account,
        "slurm_partition": partition,
        "slurm_extra": site.extra,
        "nodes": need.nodes,
        "gpus_per_node": need.gpus,  # told to the engine; the executor does not look at it
        # With `mpi` the executor runs the job's shell once, on the first node, and the job starts its tasks itself
        # (reproduction.cluster.ray), one on each node; without `tasks_per_gpu` it would read `tasks` as tasks per GPU.
        "mpi": "srun" if several else None,
        "tasks": need.nodes if several else None,
        "tasks_per_gpu": 0 if several else None,
    }


def _at_most(value: int, limit: int | None) -> int:
    return value if limit is None else min(value, limit)
