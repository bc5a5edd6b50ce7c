"""Named random streams derived from one root seed.

Every draw in the project comes from a stream named by what it is for, for instance
``generator(root_seed, "rollout", run_name, step)``. Streams with different names are independent, and a
stream depends on nothing that happened before it, so a resumed run continues with the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # its import costs more than many a job that only needs numpy's streams
    import torch

_SEED_BITS = 63  # torch seeds are signed 64-bit


def derive(root_seed: int, *names: str | int) -> int:
    """Return the seed in [0, 2**63) of the stream ``names`` below ``root_seed``.

    The names are hashed as a JSON list, so ``("a", "b")``, ``("ab",)`` and ``("a", 1)`` differ from
    ``("a", "1")``; the result is the same on every platform and Python version.
    """
    for name in names:
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            raise TypeError(f"a stream name is a string or an integer, got {name!r}")
    text = json.dumps([int(root_seed), *names], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _SEED_BITS)


def generator(root_seed: int, *names: str | int) -> np.random.Generator:
    """Return numpy's generator for the stream ``names``."""
    return np.random.default_rng(derive(root_seed, *names))


def torch_generator(root_seed: int, *names: str | int, device: str = "cpu") -> torch.Generator:
    """Return torch's generator for the stream ``names`` on ``device``."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(root_seed, *names))
