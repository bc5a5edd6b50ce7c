"""Which code a record was measured on, and which records are of code that has changed since.

    python benchmarks/stamps.py --page docs/speed.md

rewrites the page's table of records, and says which files have changed. What a record measures are patterns of files
below scripts/; of a file the code counts, not its comments, docstrings and layout.
"""

import argparse
import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduction.config import REPOSITORY
from reproduction.files import put_between, write_text
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
    "dag": ("reproduction/plan.py", "reproduction/config/*.py", "reproduction/cluster/resources.py"),
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


def table(records: Path = RECORDS, scripts: Path = SCRIPTS) -> str:
    """Return the page's table: a record a row, with the commit it measured and whether its code has changed since."""
    lines = ["| record | measured at | code that it measured, today |", "| --- | --- | --- |"]
    for name in sorted(MEASURED):
        path = records / f"{name}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        state = "**older**" if changed(record, name, scripts) else "the same"
        modified = " and changes" if record["code"]["modified"] else ""
        lines.append(
            f"| [{name}](records/speed/{name}.json) | {record['code']['commit'][:7]}{modified} | {state} |"
        )
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Return the page with today's table between its marks."""
    return put_between(page, "records", "make stamps", table())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, required=True)
    page = parser.parse_args().page
    write_text(page, with_table(page.read_text(encoding="utf-8")))
    for path in sorted(RECORDS.glob("*.json")):
        files = changed(json.loads(path.read_text(encoding="utf-8")), path.stem)
        if files:
            print(f"{path.stem}: changed since: {', '.join(files)}")


if __name__ == "__main__":
    main()
