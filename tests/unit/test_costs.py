"""Costs of made-up runs against sums by hand, and what the figure says of times that were not recorded."""

import json

import numpy as np
import pandas as pd
import pytest

from reproduction.config import Configuration, load_scale
from reproduction.config.runs import expand
from reproduction.figures import COST, cost, load_experiments, style
from reproduction.files import write_json, write_parquet

STEPS, LENGTH = 10, 20.0
PARTS = {"sampling": 0.1, "grading": 0.01, "update": 0.2}  # seconds per step and rollout
WALL = 2  # seconds on the wall per CPU second
EVALUATION = 3.0  # CPU seconds per sample file


class World:
    """Two models, n of 4 and 8, two seeds: 8 runs and 10 evaluations with times that are easy to add."""

    def __init__(self, folder):
        self.results = folder / "results"
        self.configuration, self.scale = Configuration(scale="mini", seeds=[0, 1]), load_scale("mini")
        grid = (
            load_experiments()["fig07a"].runs[0].model_copy(update={"sampler": ["ead"], "rollouts": [4, 8]})
        )
        experiment = load_experiments()["fig07a"].model_copy(update={"runs": [grid]})
        self.runs = expand(self.configuration, self.scale, experiment)
        for name, run in self.runs.items():
            self.train(name, run)
            self.evaluate(name, files=2)
        for model in {run.model for run in self.runs.values()}:
            self.evaluate(f"model~{model}", files=1)

    def train(self, name, run, wall_only=False, **manifest):
        folder = self.results / "runs" / name
        step = np.arange(1, STEPS + 1)
        seconds = {f"{part}_cpu_seconds": run.n * cost for part, cost in PARTS.items()}
        walls = {f"{part}_seconds": WALL * run.n * cost for part, cost in PARTS.items()}
        timings = pd.DataFrame({"step": step, **walls, **({} if wall_only else seconds)}, index=step)
        write_parquet(timings, folder / "timings.parquet")
        lengths = pd.DataFrame({"step": step, "response_length_mean": LENGTH + step})
        write_parquet(lengths, folder / "metrics.parquet")
        write_json(folder / "manifest.json", {"cpu_seconds_outside_steps": 4.0, **manifest})

    def evaluate(self, name, files):
        folder = self.results / "evaluations" / name
        rows = [{"step": step, "decoder": "tau1.0", "dataset": "test"} for step in range(files)]
        write_json(folder / "manifest.json", {"files": rows})
        times = pd.DataFrame(rows).assign(cpu_seconds=EVALUATION, seconds=WALL * EVALUATION)
        write_parquet(times, folder / "timings.parquet")

    def estimate(self, results=None, runs=None):
        request = COST.estimation(self.scale, self.runs if runs is None else runs, 0)
        assert request.pop("analysis") == COST.analysis
        folder = results or self.results
        return COST.estimate(**request, runs=folder / "runs", evaluations=folder / "evaluations")

    def draw(self, table, folder):
        """Return the words of the picture and what its CSV holds, from a file of estimates as a job reads it."""
        write_parquet(table, folder / "cost.parquet")
        read = pd.read_parquet(folder / "cost.parquet")
        figure = COST.plot(read, json.loads(json.dumps(COST.drawing("cost", self.scale, {}))))
        words = "\n".join(text.get_text() for text in figure.findobj(lambda part: hasattr(part, "get_text")))
        files = {suffix: folder / f"cost.{suffix}" for suffix in COST.suffixes}
        style.save(figure, read, **files)
        assert files["png"].read_bytes().startswith(b"\x89PNG")
        return words, pd.read_csv(files["csv"])


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def points(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def test_a_training_costs_the_sum_of_its_steps(world):
    found = world.estimate()
    curve = points(found, panel="steps", model="tiny", n=8).set_index("x")
    assert curve["value"].to_numpy() == pytest.approx(np.arange(1, STEPS + 1) * 8 * sum(PARTS.values()))
    assert (curve["runs"] == 2).all() and (curve["low"] == curve["high"]).all()


def test_the_parts_of_a_step_stand_beside_its_response_tokens(world):
    bins = points(world.estimate(), panel="tokens", model="tiny", n=4)
    assert set(bins["part"]) == set(PARTS)
    update = bins[bins["part"] == "update"]
    assert update["value"].to_numpy() == pytest.approx([0.8] * cost.BINS)
    per_step = world.scale.training.prompts * 4
    assert update["x"].to_numpy() == pytest.approx(per_step * (LENGTH + np.array([1.5, 3.5, 5.5, 7.5, 9.5])))


def test_runs_add_up_seed_by_seed_with_what_all_share_before_them(world):
    found = world.estimate()
    said = {"cells": 4, "runs_of_seed": [[0, 4], [1, 4]], "trained": 8, "evaluated": 10}
    assert found.attrs.items() >= said.items()
    table = points(found, panel="runs").pivot(index="x", columns="part", values="value")
    assert table.loc[0].to_dict() == {cost.STEPS: 0, cost.OUTSIDE: 0, cost.EVALUATION: 2 * EVALUATION}
    one_seed = {
        cost.STEPS: STEPS * sum(PARTS.values()) * 2 * (4 + 8),
        cost.OUTSIDE: 4 * 4.0,
        cost.EVALUATION: 4 * 2 * EVALUATION,
    }
    assert (table.loc[4] - table.loc[0]).to_dict() == pytest.approx(one_seed)
    assert (table.loc[8] - table.loc[4]).to_dict() == pytest.approx(one_seed)


def test_what_was_not_recorded_is_not_drawn_and_the_figure_says_so(world, tmp_path):
    first, second = list(world.runs)[:2]
    (world.results / "evaluations" / first / "timings.parquet").unlink()
    path = world.results / "evaluations" / second / "timings.parquet"
    write_parquet(pd.read_parquet(path).head(1), path)
    write_json(world.results / "runs" / first / "manifest.json", {})
    found = world.estimate()
    assert (found.attrs["untimed_evaluations"], found.attrs["untimed_starts"]) == (2, 1)
    words, _ = world.draw(found, tmp_path)
    assert "2 of 10 evaluations" in words and "1 of 8 trainings" in words and "seed 1" in words


def test_seconds_on_the_wall_where_an_engine_records_no_others(world, tmp_path):
    for name, run in world.runs.items():
        world.train(name, run, wall_only=True, cpu_seconds_outside_steps=None)
    found = world.estimate()
    assert not found.attrs["cpu"] and found.attrs["untimed_starts"] == 0
    last = points(found, panel="runs", x=8).set_index("part")["value"]
    assert last[cost.STEPS] == pytest.approx(WALL * STEPS * sum(PARTS.values()) * 4 * (4 + 8))
    assert last[cost.EVALUATION] == pytest.approx(WALL * EVALUATION * (8 * 2 + 2))
    words, _ = world.draw(found, tmp_path)
    assert "s on the wall per step" in words and "CPU" not in words


def test_a_run_that_did_not_run_and_a_scale_without_runs(world, tmp_path):
    (world.results / "runs" / list(world.runs)[-1] / "manifest.json").unlink()
    assert world.estimate().attrs["trained"] == 7
    words, drawn = world.draw(world.estimate(tmp_path / "elsewhere"), tmp_path)
    assert "no run so far" in words and drawn.empty


def test_one_seed_is_said_to_cost_as_much_again(world, tmp_path):
    found = world.estimate(runs={name: run for name, run in world.runs.items() if run.seed == 0})
    assert found.attrs["runs_of_seed"] == [[0, 4]]
    words, _ = world.draw(found, tmp_path)
    assert "another seed is 4 runs more" in words
