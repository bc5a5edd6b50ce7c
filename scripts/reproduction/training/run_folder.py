"""The folder of a run, made from its trainer's private state: metrics, checkpoints, and the manifest last."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from reproduction.config import dump_yaml
from reproduction.config.runs import RunConfiguration
from reproduction.files import (
    atomic_directory,
    link,
    load_json,
    sha256_of_file,
    write_json,
    write_parquet,
    write_text,
)
from reproduction.training import contract, health, records
from reproduction.versions import code_version, loaded_sources

log = logging.getLogger(__name__)


class TrainingResult(Protocol):
    """What an engine returns."""

    status: str
    steps: int
    checkpoints: list[int]


def mark_started(state: Path) -> float:
    """Return when this run first started, in Unix seconds; a resumed run keeps its first start."""
    path = state / "started.json"
    if not path.exists():
        write_json(path, time.time())
    return load_json(path)


def mark_sources(state: Path, engine: Path) -> dict[str, str]:
    """Return the code that this run first started with; a resumed run keeps it.

    That is what is loaded (:func:`loaded_sources`) and what lies beside ``engine``, whose processes load more.
    """
    path = state / "sources.json"
    if not path.exists():
        write_json(path, loaded_sources(engine.parent.glob("*.py")))
    return load_json(path)


def publish(
    run: RunConfiguration,
    state: Path,
    output: Path,
    result: TrainingResult,
    *,
    started: float,
    sources: Mapping[str, str],
    tracking: Mapping[str, Any],
    card: Callable[[int, Mapping[str, float]], str],
    cpu_seconds_outside_steps: float | None = None,
) -> None:
    """Make the run folder from the trainer's state; the manifest comes last, and says how healthy the run was.

    ``card`` writes the model card of a checkpoint, of its step and what was recorded for that step; one without its
    weights gets none. ``prompts.json`` of the state is what the engine found of the prompts' lengths
    (``reproduction.training.prompt_lengths``).

    Checkpoints are linked, not moved: the state stays whole, so that publishing again after a kill in between
    gives the same folder.
    """
    metrics = _read_table(state / "metrics.jsonl")
    signs = health.signs(metrics)
    for sign in signs:
        log.warning("%s from step %d on, in %d steps", sign.name, sign.first_step, sign.steps)
    write_parquet(metrics, output / "metrics.parquet")
    write_parquet(_read_table(state / "timings.jsonl", ["step"]), output / "timings.parquet")
    groups = _read_table(state / "groups.jsonl", ["step", "problem", *contract.BY_PROMPT])
    by_prompt = [column for column in groups if column != "step"]
    write_parquet(groups.explode(by_prompt, ignore_index=True).infer_objects(), output / "groups.parquet")
    write_text(output / "config.yaml", dump_yaml(run.model_dump(mode="json")))
    # The rule's output, also where a run diverged before its first checkpoint.
    (output / "checkpoints").mkdir(parents=True, exist_ok=True)
    for step in result.checkpoints:
        with atomic_directory(output / "checkpoints" / f"step_{step}") as folder:
            for file in (state / "checkpoints" / f"step_{step}").iterdir():
                link(file, folder / file.name)
            if list(folder.glob("*.safetensors")):
                recorded = metrics.set_index("step").loc[step].dropna().to_dict()
                (folder / "README.md").write_text(card(step, recorded), encoding="utf-8")
    write_json(
        output / "manifest.json",
        {
            "run": run.name,
            "cell": run.cell,
            "configuration_hash": run.hash,
            "status": result.status,
            "steps": result.steps,
            "checkpoints": result.checkpoints,
            "prompts": load_json(state / "prompts.json"),
            "health": [sign.to_dict() for sign in signs],
            "code": {**code_version(), "sources": dict(sources)},
            "started": started,
            "ended": time.time(),
            "cpu_seconds_outside_steps": cpu_seconds_outside_steps,
            "metrics_sha256": sha256_of_file(output / "metrics.parquet"),
            "tracking": {
                **tracking,
                "tags": {**tracking["tags"], "health": ", ".join(sign.name for sign in signs) or "no signs"},
            },
        },
    )


def _read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Return the records; a table of these columns and no rows where a run diverged before its first record."""
    return pd.DataFrame(list(records.read(path)) or {column: [] for column in columns})
