"""How a process of the pipeline uses the machine."""

import ctypes
import platform
import signal

import torch

# glibc's parameters, by their numbers in malloc.h: it keeps up to 2 GiB, and maps no block by itself
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_KEEP_FREED_MEMORY = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


def set_up(threads: int) -> None:
    """Compute with ``threads`` threads, and keep freed memory for the next activation of that size.

    glibc would give large blocks back to the system and ask for them again, page by page: a tenth of a training step.
    Other C libraries keep their own ways.
    """
    torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":
        for parameter, value in _KEEP_FREED_MEMORY.items():
            ctypes.CDLL(None).mallopt(parameter, value)


def end_with_parent() -> None:
    """Have the system end this process (SIGTERM) when the one that started it ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def require_gpus(number: int, key: str) -> None:
    """Check, before anything is loaded, that the job's node has the ``number`` of GPUs that ``key`` asks for.

    Raises:
        RuntimeError: it has fewer.
    """
    found = torch.cuda.device_count()
    if found < number:
        raise RuntimeError(
            f"{key} asks for {number} GPUs, and torch {torch.__version__} finds {found} here; "
            "run it where they are (snakemake --profile slurm) and with the interpreter that `make env-gpu` builds, "
            "or choose a scale without GPUs (scale: cpu)"
        )
