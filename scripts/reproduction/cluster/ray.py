"""Ray across the nodes of a Slurm job: every node runs the same command, the first one also runs the program.

``ray symmetric-run`` starts Ray's head on the node that has the address, workers on the others, the program beside the
head, and ends them all when it ends. A program that calls ``ray.init()`` then finds the cluster by ``RAY_ADDRESS``.
A variable of its own says that we started it: ``RAY_ADDRESS`` may be there before, and name somebody else's.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FIRST_PORT, PORTS = 20000, 10000
_STARTED = "EAD_RAY_ADDRESS"


def is_on_cluster() -> bool:
    """Whether this process runs beside the head of a cluster that :func:`run_on_nodes` started."""
    return _STARTED in os.environ


def command_on_nodes(program: Sequence[str], nodes: int, address: str) -> list[str]:
    """Return the command that starts Ray on ``nodes`` nodes of this Slurm job, then ``program`` on the first.

    ``address`` is ``host:port`` of the head, as the other nodes reach it. Each node gives one task all its GPUs and
    memory.
    """
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        *("--mem=0", "--cpu-bind=none", "--kill-on-bad-exit=1"),
        *("ray", "symmetric-run", "--address", address, "--min-nodes", str(nodes)),
        *("--", "env", f"RAY_ADDRESS={address}", f"{_STARTED}={address}", *program),
    ]


def run_on_nodes(program: Sequence[str], nodes: int) -> int:
    """Run ``program`` on a Ray cluster across the nodes of this Slurm job; return its exit status.

    Raises RuntimeError outside a Slurm job.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise RuntimeError("several nodes are for jobs of Slurm (SLURM_JOB_ID is not set)")
    port = FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % PORTS
    command = command_on_nodes(program, nodes, f"{address_of_node(os.environ['SLURMD_NODENAME'])}:{port}")
    # symmetric-run looks up `ray` by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.run(command, env={**os.environ, "PATH": path}, check=False).returncode


def address_of_node(name: str) -> str:
    """Return the address at which Slurm reaches a node."""
    shown = subprocess.run(
        ["scontrol", "show", "node", "--oneliner", name], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"\bNodeAddr=(\S+)", shown)
    if found is None:
        raise RuntimeError(f"scontrol names no address of the node {name!r}: {shown.strip()}")
    return found[1]
