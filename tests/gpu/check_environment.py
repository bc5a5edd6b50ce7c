"""The environment of verl and vLLM on GPUs, on a machine that need not have one: is it whole, and does it import?

  make test-env-gpu            # builds .venv-gpu first (10 GB, half an hour), writes docs/records/env_gpu.json

Every pin is installed, pip finds no contradiction, and none to what verl demands of the packages it runs with, which
pip does not look at: it is in an extra. Then everything that a training and an evaluation import is imported, both
ends of the socket of the weights included.
"""

import argparse
import importlib
import subprocess
import sys
import time
from importlib.metadata import distributions, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from reproduction.config import REPOSITORY
from reproduction.files import write_json

MODULES = (
    *("torch", "transformers", "ray", "vllm", "verl", "verl.trainer.main_ppo"),
    *("ead.integrations.verl", "ead.integrations.vllm", "reproduction.engines.verl.workers"),
)
NAMED = ("torch", "transformers", "ray", "vllm", "verl", "TransferQueue")
EXTRA = "vllm"  # of verl


def pinned() -> dict[str, str]:
    lines = (REPOSITORY / "envs" / "gpu.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith(("#", "-"))]
    return {
        one.name: str(one.specifier).removeprefix("==")
        for one in found
        if not one.marker or one.marker.evaluate()
    }


def demanded() -> list[Requirement]:
    """What verl wants of the packages it runs with."""
    found = [Requirement(line) for line in requires("verl")]
    return [
        one
        for one in found
        if one.marker and "extra" in str(one.marker) and one.marker.evaluate({"extra": EXTRA})
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()
    other = {name: version(name) for name, pin in pinned().items() if version(name) != pin}
    assert not other, f"not as pinned: {other}"
    check = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout
    there = {one.name.lower() for one in distributions()}
    wanted = {str(one).split(";")[0]: version(one.name) for one in demanded() if one.name.lower() in there}
    contradicted = [
        one for one in demanded() if one.name.lower() in there and version(one.name) not in one.specifier
    ]
    assert "vllm==0.24.0" in wanted and not contradicted, f"verl demands {contradicted}"
    begun = time.monotonic()
    for module in MODULES:
        importlib.import_module(module)
    sockets = importlib.import_module("reproduction.engines.verl.sockets")
    names = [f"{one.__module__}.{one.__name__}" for one in (sockets.Rollout, sockets.Worker)]
    folder = Path(sys.prefix)
    write_json(
        arguments.record,
        {
            "packages": len(list(distributions())),
            "versions": {name: version(name) for name in NAMED},
            "verl_demands": wanted,
            "verl_demands_and_lacks": [one.name for one in demanded() if one.name.lower() not in there],
            "pip_check": check.stdout.strip(),
            "imported": [*MODULES, *names],
            "seconds_of_imports": round(time.monotonic() - begun, 1),
            "gigabytes": round(sum(path.lstat().st_size for path in folder.rglob("*")) / 1e9, 1),
        },
    )


if __name__ == "__main__":
    main()
