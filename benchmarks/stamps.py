"""Which code a record was measured on, and which records are of code that has changed since.

What a record measures are patterns of files below scripts/; of a file the code counts, not its comments, docstrings
and layout.
"""

import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduction.config import REPOSITORY
from reproduction.versions import code_version

SCRIPTS = REPOSITORY / "scripts"
RECORDS = REPOSITORY / "docs" / "records" / "speed"

SAMPLING = ("ead/schedule.py", "reproduction/models/transformer.py", "reproduction/sampling/generate.py")
STEP = (
    *SAMPLING,
    *("ead/importance.py", "ead/objective.py", "reproduction/sampling/policy.py"),
    *("reproduction/algorithms/algorithm.py", "reproduction/algorithms/clip.py"),
    *("reproduction/engines/inprocess.py", "reproduction/training/adamw.py"),
)
MEASURED = {
    "step_one_thread": STEP,
    "step_two_threads": STEP,
    "split": STEP,
    "verl": STEP,
    "sampling": SAMPLING,
    "vllm": (*SAMPLING, "ead/integrations/vllm/*.py"),
    "vllm_versions": ("ead/schedule.py", "ead/rules.py", "ead/integrations/vllm/*.py"),
    "memory": (*SAMPLING, "reproduction/sampling/policy.py"),
    "analysis": ("ead/metrics.py", "ead/statistics.py", "reproduction/evaluation/samples.py"),
    "grading": ("ead/verifier/*.py",),
    "dag": (
        *("reproduction/plan.py", "reproduction/config/*.py"),
        *("reproduction/cluster/resources.py", "reproduction/cluster/slurm.py"),
    ),
}
"""Record -> files whose code its numbers are of."""


def stamp(record: str, scripts: Path = SCRIPTS) -> dict[str, Any]:
    """Return what a new record says of its code: the commit, and a checksum of each file's code."""
    return {**code_version(), "files": checksums(record, scripts)}


def checksums(record: str, scripts: Path = SCRIPTS) -> dict[str, str]:
    """Return file -> checksum of its code, for the files that a record measures."""
    files = sorted(file for pattern in MEASURED[record] for file in scripts.glob(pattern))
    return {file.relative_to(scripts).as_posix(): code_checksum(file.read_text()) for file in files}


def code_checksum(source: str) -> str:
    """Return a checksum of a module's code without comments, docstrings and layout."""
    return hashlib.sha256(json.dumps(_plain(ast.parse(source)), default=repr).encode()).hexdigest()[:16]


def _plain(node: Any) -> Any:
    # ast.dump's text differs between versions of Python.
    if isinstance(node, list):
        return [_plain(entry) for entry in node if not _is_text(entry)]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: _plain(value) for name, value in ast.iter_fields(node)}
    return [type(node).__name__, {name: value for name, value in fields.items() if value not in (None, [])}]


def _is_text(entry: Any) -> bool:
    """Whether a statement is a text alone, which does nothing."""
    return isinstance(entry, ast.Expr) and isinstance(entry.value, ast.Constant)


def changed(record: Mapping[str, Any], name: str, scripts: Path = SCRIPTS) -> list[str]:
    """Return the files whose code differs from what the record measured, those gone and those new included."""
    then, now = record["code"]["files"], checksums(name, scripts)
    return sorted(file for file in then.keys() | now.keys() if then.get(file) != now.get(file))
