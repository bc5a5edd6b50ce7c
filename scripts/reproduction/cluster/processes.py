"""The processes of a training, by a mark in their environment, and the shared memory that they leave behind."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

SHARED_MEMORY = "/dev/shm/"
END_S = 20.0  # what a process gets between being asked and being made to end


def marked(name: str, value: str) -> list[psutil.Process]:
    """Return the living processes that inherited environment variable ``name`` = ``value``, whoever their parent is."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end(processes: list[psutil.Process]) -> None:
    """Ask each process to end, and kill those that have not within ``END_S``."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=END_S)
    kill(left)


def kill(processes: list[psutil.Process]) -> None:
    """Kill each process, and wait until it is gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=END_S)


def mapped_segments(processes: Iterable[psutil.Process]) -> set[str]:
    """Return the shared-memory files that these processes have mapped, by path."""
    paths = set()
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            text = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace")
            paths |= {line.split(maxsplit=5)[-1] for line in text.splitlines() if SHARED_MEMORY in line}
    return {path for path in paths if path.startswith(SHARED_MEMORY) and not path.endswith("(deleted)")}


def abandoned_segments() -> set[str]:
    """Return the shared-memory files of this machine that no living process has mapped, by path."""
    found = {str(path) for path in Path(SHARED_MEMORY).iterdir() if path.is_file()}
    return found - mapped_segments(psutil.process_iter())


def remove_abandoned(segments: set[str]) -> set[str]:
    """Remove and return those of ``segments`` that no living process has mapped: another training may use the rest."""
    left = segments & abandoned_segments()
    for path in left:
        Path(path).unlink(missing_ok=True)
    return left
