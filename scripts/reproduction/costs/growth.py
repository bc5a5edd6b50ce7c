"""How cost grows with steps, rollouts, response length, cells and seeds: from the times that runs recorded.

The table of costs (:func:`tabulate`) has one row per point of a curve: ``panel``, ``model``, ``n``, ``part``, ``x``,
``value``, ``low``, ``high``, ``runs`` (how many are behind it). The panels:

- ``steps``: seconds of a training up to step ``x``; mean, least and greatest over the runs of a model and ``n``
- ``tokens``: seconds of one part of a step that drew ``x`` response tokens; median, and the 5th and 95th percentile, of
  the steps in one fifth of all steps of a model and ``n``, by their number of tokens; ``length`` is the mean response
- ``runs``: seconds of the first ``x`` runs, in the order of the experiments and seed by seed, by part; ``x`` = 0 holds
  what all share, the evaluations of the base models

Seconds are CPU seconds. Where an engine records none (verl, whose work is on GPUs) all are seconds on the wall.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reproduction.config.runs import RunConfiguration

COLUMNS = ["panel", "model", "n", "part", "x", "length", "value", "low", "high", "runs"]
BINS = 5
STEPS, OUTSIDE, EVALUATION = "training, steps", "training, outside its steps", "evaluation"


@dataclass(frozen=True)
class Costs:
    """The table, and what one must know to read it.

    Attributes:
        cpu: whether seconds are CPU seconds, and not seconds on the wall.
        cells: of the runs that have results; ``trained`` and ``evaluated`` are how many runs those are.
        runs_of_seed: seed -> how many of the trained runs have it, in order.
        untimed_starts, untimed_evaluations: how many of them were made by code that did not record that part.
    """

    table: pd.DataFrame
    cpu: bool
    cells: int
    runs_of_seed: dict[int, int]
    trained: int
    evaluated: int
    untimed_starts: int
    untimed_evaluations: int


@dataclass(frozen=True)
class _Training:
    run: RunConfiguration
    steps: pd.DataFrame  # step, response tokens, their mean length, a column of seconds per part
    parts: list[str]
    outside: float | None


def tabulate(results: Path, runs: Mapping[str, RunConfiguration]) -> Costs:
    """Return what the runs that have results took; ``results`` is the scale's folder.

    Raises ValueError where an evaluation's times are not those of its files.
    """
    runs = dict(
        sorted(runs.items(), key=lambda item: item[1].seed)
    )  # stable: else in the order of the experiments
    folders = {name: results / "runs" / name for name in runs}
    present = {name: run for name, run in runs.items() if (folders[name] / "manifest.json").exists()}
    cpu = not any(
        "sampling_cpu_seconds" not in pd.read_parquet(folders[name] / "timings.parquet") for name in present
    )
    trained = {name: _read_training(run, folders[name], cpu) for name, run in present.items()}
    models = dict.fromkeys(run.model for run in present.values())
    subjects = [*present, *(f"model~{model}" for model in models)]
    evaluations = {
        name: _evaluation_seconds(results / "evaluations" / name, cpu)
        for name in subjects
        if (results / "evaluations" / name / "manifest.json").exists()
    }
    rows = [*_by_step(trained), *_by_tokens(trained), *(_by_runs(trained, evaluations) if trained else [])]
    return Costs(
        table=pd.DataFrame(rows, columns=COLUMNS).astype({"n": "Int64"}),
        cpu=cpu,
        cells=len({run.cell for run in present.values()}),
        runs_of_seed=dict(Counter(run.seed for run in present.values())),
        trained=len(trained),
        evaluated=len(evaluations),
        untimed_starts=sum(training.outside is None for training in trained.values()) if cpu else 0,
        untimed_evaluations=sum(seconds is None for seconds in evaluations.values()),
    )


def _read_training(run: RunConfiguration, folder: Path, cpu: bool) -> _Training:
    timings = pd.read_parquet(folder / "timings.parquet").set_index("step")
    ending = "_cpu_seconds" if cpu else "_seconds"
    chosen = [name for name in timings if name.endswith(ending) and (cpu or "_cpu_" not in name)]
    steps = timings[chosen].rename(columns=lambda name: name.removesuffix(ending))
    lengths = pd.read_parquet(folder / "metrics.parquet", columns=["step", "response_length_mean"])
    # A run that diverged logged its last step without times.
    steps = steps.join(lengths.set_index("step").rename(columns={"response_length_mean": "length"}))
    outside = json.loads((folder / "manifest.json").read_text()).get("cpu_seconds_outside_steps")
    return _Training(run, steps, [name for name in steps if name != "length"], outside if cpu else None)


def _evaluation_seconds(folder: Path, cpu: bool) -> float | None:
    """Return the seconds of an evaluation's files; None where one of them was drawn without recording it."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    path = folder / "timings.parquet"
    if not path.exists():
        return None
    keys = ["step", "decoder", "dataset"]
    seconds = pd.read_parquet(path).set_index(keys)["cpu_seconds" if cpu else "seconds"]
    wanted = [tuple(file[key] for key in keys) for file in files]
    return float(seconds[wanted].sum()) if set(wanted) <= set(seconds.index) else None


def _groups(trained: Mapping[str, _Training]) -> dict[tuple[str, int], list[_Training]]:
    groups: dict[tuple[str, int], list[_Training]] = {}
    for training in trained.values():
        groups.setdefault((training.run.model, training.run.n), []).append(training)
    return groups


def _by_step(trained):
    for (model, n), members in _groups(trained).items():
        sums = pd.concat([m.steps[m.parts].sum(axis=1).cumsum() for m in members], axis=1)
        keys = {"panel": "steps", "model": model, "n": n, "part": "all"}
        for step, values in sums.iterrows():
            found = values.dropna()
            yield {
                **keys,
                "x": step,
                "value": found.mean(),
                "low": found.min(),
                "high": found.max(),
                "runs": len(found),
            }


def _by_tokens(trained):
    for (model, n), members in _groups(trained).items():
        steps = pd.concat([m.steps for m in members], ignore_index=True)
        steps["tokens"] = [
            tokens for m in members for tokens in m.steps["length"] * m.run.training.prompts * m.run.n
        ]
        # As many steps in each: the fifths of the order by tokens.
        fifth = np.argsort(np.argsort(steps["tokens"].to_numpy(), kind="stable")) * BINS // len(steps)
        for part in members[0].parts:
            for _, bin_ in steps.groupby(fifth):
                low, value, high = bin_[part].quantile([0.05, 0.5, 0.95])
                yield {
                    **{"panel": "tokens", "model": model, "n": n, "part": part, "runs": len(members)},
                    **{"x": bin_["tokens"].median(), "length": bin_["length"].median()},
                    **{"value": value, "low": low, "high": high},
                }


def _by_runs(trained, evaluations):
    shared = sum(seconds or 0.0 for name, seconds in evaluations.items() if name not in trained)
    totals = {STEPS: 0.0, OUTSIDE: 0.0, EVALUATION: shared}
    for count, (name, training) in enumerate([(None, None), *trained.items()]):
        if training is not None:
            totals[STEPS] += float(training.steps[training.parts].sum(axis=None))
            totals[OUTSIDE] += training.outside or 0.0
            totals[EVALUATION] += evaluations.get(name) or 0.0
        for part, value in totals.items():
            yield {"panel": "runs", "part": part, "x": count, "value": value, "runs": count}
