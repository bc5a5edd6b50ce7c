"""The GPUs of this machine, and which of them a job has to itself.

A cluster gives each job its GPUs. Without one, every job would start on the first GPU, so each takes out a lease: a
lock on a file for each GPU, which the system takes back when the process ends, however it ends. What a job may use is
what ``CUDA_VISIBLE_DEVICES`` leaves of the machine; what it has leased is what it puts there.
"""

import contextlib
import logging
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from reproduction.config import Verl

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 1.0
LOCAL = Path("/tmp")  # of this machine, wherever TMPDIR of a process points
_WHOLE = re.compile(r"^GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_PART = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)")


class MissingGPUs(RuntimeError):
    """This machine shows fewer GPUs than a job asks for."""


@dataclass(frozen=True)
class Device:
    """A GPU, or an instance of one that is divided (MIG)."""

    name: str  # as CUDA_VISIBLE_DEVICES takes it: an index, or a UUID
    identity: str  # the same for every job on this machine, whatever name it uses


def visible() -> list[Device]:
    """Return the devices that this process may use, as CUDA would find them.

    Those that ``CUDA_VISIBLE_DEVICES`` names, up to the first name that means none; all of the machine where it is not
    set. Names are taken as they are on a machine without nvidia-smi.
    """
    machine = _listed()
    names = os.environ.get(VISIBLE)
    if names is None:
        return list(machine or [])
    found: dict[str, Device] = {}
    for name in (part.strip() for part in names.split(",")):
        identity = _identity(name, machine)
        if identity is None:
            break
        found.setdefault(identity, Device(name, identity))
    return list(found.values())


@contextlib.contextmanager
def leased(number: int, key: str) -> Iterator[list[str]]:
    """Wait until ``number`` of the visible devices are free; while the context lasts they are this process's alone.

    ``CUDA_VISIBLE_DEVICES`` names them meanwhile, for CUDA in this process if it starts now, and for its children. Jobs
    of one user on one machine, or in one Slurm job, exclude each other; those who wait take turns.

    Raises:
        MissingGPUs: there are fewer; ``key`` says who asked.
    """
    devices = visible()
    if len(devices) < number:
        raise MissingGPUs(f"{key} asks for {gpus(number)}; {explain(devices)}")
    with contextlib.ExitStack() as locks:
        taken = _wait_for(number, devices, _lock_folder(), locks)
        names = [device.name for device in devices if device in taken]
        variables = {VISIBLE: ",".join(names)}
        if VISIBLE not in os.environ:  # the indices are nvidia-smi's
            variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        before = {key: os.environ[key] for key in variables if key in os.environ}
        os.environ.update(variables)
        log.info("GPUs of this job: %s", variables[VISIBLE])
        try:
            yield names
        finally:
            for key in variables:
                del os.environ[key]
            os.environ.update(before)


def explain(devices: Sequence[Device]) -> str:
    """Return what this machine shows, and by whose word."""
    names = os.environ.get(VISIBLE)
    if names is not None:
        return f"{VISIBLE}={names!r} leaves {gpus(len(devices))} here"
    return f"nvidia-smi finds {gpus(len(devices))} here"


def gpus(number: int) -> str:
    """Return the number with its noun."""
    return "1 GPU" if number == 1 else f"{number} GPUs"


def _listed() -> list[Device] | None:
    """The machine's devices in nvidia-smi's order, None without it; the parts of a divided GPU take its place."""
    try:
        shown = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    found: list[Device] = []
    for line in shown.stdout.splitlines() if shown.returncode == 0 else []:
        if whole := _WHOLE.match(line):
            found.append(Device(*whole.groups()))
        elif part := _PART.match(line):
            if found and not found[-1].name.startswith("MIG-"):
                found.pop()
            found.append(Device(part[1], part[1]))
    return found


def _identity(name: str, machine: list[Device] | None) -> str | None:
    """What a name of ``CUDA_VISIBLE_DEVICES`` means; None if nothing. A UUID may be cut short where one begins so."""
    if machine is None:
        return name if re.fullmatch(r"\d+|(GPU|MIG)-.+", name) else None
    for device in machine:
        if name == device.name:
            return device.identity
    begun = [device.identity for device in machine if device.identity.startswith(name)]
    return begun[0] if len(begun) == 1 and name.startswith(("GPU-", "MIG-")) else None


def local_folder(name: str) -> Path:
    """Return a folder on this machine that all processes of this user find, and no other user can enter.

    Raises RuntimeError if another user has taken its place.
    """
    folder = LOCAL / f"ead-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user; have it removed")
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def _lock_folder() -> Path:
    """The folder of the locks; within a Slurm job it is the job's, whose devices may have names of its own."""
    job = os.environ.get("SLURM_JOB_ID")
    return local_folder("gpus" if job is None else f"gpus-of-job-{job}")


def _wait_for(number: int, devices: list[Device], folder: Path, locks: contextlib.ExitStack) -> set[Device]:
    """Lock ``number`` of the devices, one by one as they become free.

    Only the first in the queue takes any, so that two who want several do not wait for each other.
    """
    log.info("asks for %s of %s", gpus(number), ", ".join(device.name for device in devices))
    taken: set[Device] = set()
    with FileLock(folder / "queue"):
        while True:
            for device in devices:
                if len(taken) == number:
                    return taken
                if device not in taken:
                    with contextlib.suppress(Timeout):
                        locks.enter_context(FileLock(folder / quote(device.identity, safe=""), timeout=0))
                        taken.add(device)
            if len(taken) < number:
                time.sleep(POLL_S)


def for_sampling(machine: "Verl | None") -> contextlib.AbstractContextManager:
    """Lease what one vLLM engine takes on ``machine``; nothing where responses are drawn without a GPU."""
    if machine is None or machine.device != "cuda":
        return contextlib.nullcontext()
    return leased(machine.tensor_parallel, "verl.tensor_parallel")


def for_training(machine: "Verl") -> contextlib.AbstractContextManager:
    """Lease what a training takes of this machine. With several nodes the cluster's job has them whole."""
    if machine.device != "cuda" or machine.nodes > 1:
        return contextlib.nullcontext()
    return leased(machine.gpus_per_node, "verl.gpus_per_node")
