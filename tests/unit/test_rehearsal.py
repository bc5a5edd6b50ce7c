"""Rehearsals and preflights without verl: what counts as another configuration, and checks that can fail."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import psutil
import pytest
from snakemake.cli import parse_config

from ead.schedule import from_config
from reproduction.cluster import devices
from reproduction.config import SCALES, ConfigurationError, EvaluationRequest, PretrainedModel, load_scale
from reproduction.config.scale import VerlModel
from reproduction.data import make_row, write_dataset
from reproduction.engines import prompts_of_step
from reproduction.engines.verl import RAY_WAS_LATE
from reproduction.evaluation import evaluate as evaluation
from reproduction.files import write_json
from reproduction.models.pretrained import load_models
from reproduction.plan import read_plan
from reproduction.rehearsal import cells, checks, load_stand_ins, preflight, reports, stand_in
from reproduction.rehearsal import rehearse as rehearsals
from reproduction.rehearsal.exercise import MOMENTS, Exercise, TrainingFailed
from reproduction.rehearsal.rehearse import (
    Part,
    Row,
    as_data,
    as_markdown,
    code_files,
    covering_first,
    first_runs,
    to_kill,
)
from reproduction.training import records

VERL_SCALES = [name for name in SCALES if load_scale(name).engine == "verl"]


@pytest.fixture(scope="module", params=VERL_SCALES)
def plan(request):
    return read_plan({"scale": request.param, "seeds": [0, 1]})


@pytest.fixture(scope="module")
def found(plan):
    return cells.distinct(first_runs(plan).values(), plan.scale.verl)


# --- cells -------------------------------------------------------------------------------------------------


def test_every_cell_of_the_scale_is_stood_for_once_and_seeds_make_no_other_configuration(plan, found):
    names = [name for cell in found for name in cell.names]
    planned = {run.cell for name in plan.configuration.experiments for run in plan.runs_of[name].values()}
    assert sorted(names) == sorted(f"{cell}/seed~0" for cell in planned)
    first = next(iter(plan.runs.values()))
    again = first.model_copy(update={"seed": 1})
    assert cells.told(first, plan.scale.verl) == cells.told(again, plan.scale.verl)


def test_runs_of_one_cell_differ_in_numbers_of_their_schedule_alone(plan, found):
    runs = plan.runs
    for cell in found:
        for name in cell.names[1:]:
            one, other = runs[cell.names[0]].model_dump(), runs[name].model_dump()
            for values in (one, other):
                schedule = values["sampler_definition"]["schedule"]
                values["sampler_definition"]["schedule"] = {
                    key: value for key, value in schedule.items() if isinstance(value, str)
                }
                del values["sampler"]
            assert one == other


@pytest.mark.parametrize(
    "change",
    [
        {"n": 8},
        {"learning_rate": 3e-6},
        {"sampler_definition": {"importance": {"level": "token", "cap": 3.0}}},
        {
            "sampler_definition": {
                "schedule": {"kind": "fixed", "tau": 0.7},
                "logprob_temperature": "sampling",
            }
        },
        {"algorithm_definition": {"clip_high": 0.3}},
        {"training": {"max_new_tokens": 1000}},
        {"model_definition": {"source": "another/model"}},
    ],
)
def test_what_verl_or_vllm_is_told_makes_another_cell(plan, change):
    run = next(r for r in plan.runs.values() if r.sampler_definition.schedule["kind"] == "annealed")
    values = run.model_dump(mode="json")
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    if "logprob_temperature" in str(change):
        values["sampler_definition"]["importance"] = None
    other = type(run).model_validate_json(json.dumps(values))
    assert len(cells.distinct([run, other], plan.scale.verl)) == 2


def test_a_rehearsal_shrinks_sizes_and_nothing_else(plan, found):
    for cell in found:
        run, machine = cells.shrunk(cell.run, plan.scale.verl)
        assert type(run).from_json(run.to_json()) == run  # it passes the same validation as any run
        changed = {"training"}
        kept = set(type(run).model_fields) - changed
        assert all(getattr(run, key) == getattr(cell.run, key) for key in kept)
        assert machine.max_prompt_tokens == plan.scale.verl.of(run.model).max_prompt_tokens
        updates = cell.run.training.prompts > cell.run.training.mini_batch_prompts
        assert (run.training.prompts > run.training.mini_batch_prompts) == updates


def test_every_model_that_is_trained_has_a_stand_in_and_every_data_set_a_source(plan):
    table = load_stand_ins()
    for run in plan.runs.values():
        assert isinstance(run.model_definition, PretrainedModel)
        assert run.model_definition.source in table.models
        entry = plan.datasets[cells.source_of(run)]
        assert entry.local or table.datasets[cells.source_of(run)] in plan.datasets


def test_every_weight_of_a_stand_in_fits_what_carries_it_to_vllm(plan, found):
    table = load_stand_ins()
    for cell in found:
        told = cells.told(*cells.shrunk(cell.run, plan.scale.verl))["verl"]["actor_rollout_ref"]["rollout"]
        room = told["checkpoint_engine"]["update_weights_bucket_megabytes"] * 2**20
        vocabulary = table.models[cell.run.model_definition.source].configuration["vocab_size"]
        assert 4 * vocabulary * table.shape.hidden_size <= room


def test_full_lengths_fit_every_model(plan, found):
    table = load_stand_ins()
    for cell in found:
        config = table.models[cell.run.model_definition.source].configuration
        assert cells.too_long(cell.run, plan.scale.verl, config) is None
    longer = cell.run.training.model_copy(update={"max_new_tokens": config["max_position_embeddings"]})
    assert "positions" in cells.too_long(
        cell.run.model_copy(update={"training": longer}), plan.scale.verl, config
    )


def test_the_first_of_each_model_and_algorithm_is_killed_and_the_rarest_moment_comes_first(found):
    ordered = covering_first(found)
    moments = to_kill(ordered)
    killed = [cell for cell, _ in ordered if moments[cell.key] is not None]
    assert {cell.run.model for cell in killed} == {cell.run.model for cell in found}
    assert {cell.run.algorithm for cell in killed} == {cell.run.algorithm for cell in found}
    assert moments[ordered[0][0].key] == "between verl's tracker and our checkpoint"
    assert all(shows for _, shows in ordered[: len(killed)])


class Words:
    """A tokenizer with a token a word."""

    def encode_chat(self, messages):
        return " ".join(message["content"] for message in messages).split()


def test_the_longest_prompts_are_among_the_rows_of_a_rehearsal():
    frame = pd.DataFrame(
        {
            "prompt": [[{"role": "user", "content": "w " * (7 * row % 500)}] for row in range(500)],
            "reward_model": [{"style": "rule", "ground_truth": "1"}] * 500,
            "extra_info": [{"id": str(row), "details": "{}"} for row in range(500)],
            "ability": ["math"] * 500,
        }
    )
    kept = cells.choose_rows(frame, Words(), 8, longest=2, seed=0)
    lengths = [len(Words().encode_chat(messages)) for messages in kept["prompt"]]
    assert len(kept) == 8 and {498, 499} <= set(lengths)
    assert kept.equals(cells.choose_rows(frame, Words(), 8, longest=2, seed=0))


# --- checks ------------------------------------------------------------------------------------------------

PROBLEMS = [f"problem {number}" for number in range(8)]


@pytest.fixture
def training(tmp_path):
    """Records as verl leaves them, of a sampler that is annealed."""
    scale = load_scale(VERL_SCALES[0])
    plan = read_plan({"scale": VERL_SCALES[0]})
    run = next(
        r for r in plan.runs.values() if r.sampler_definition.schedule["kind"] == "annealed" and r.n == 4
    )
    run, _ = cells.shrunk(run, scale.verl)
    generator = np.random.default_rng(0)
    schedule = from_config(run.sampler_definition.schedule)
    (tmp_path / "verl" / "samples").mkdir(parents=True)
    (tmp_path / "verl" / "steps").mkdir()
    lines = []
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
        for name in ("metrics", "groups", "timings"):
            records.append(
                tmp_path / f"{name}.jsonl", {"step": step, "gradient_norm": 1.0, "reward_mean": 0.5}
            )
        rows = []
        for prompt in prompts_of_step(run, step, len(PROBLEMS)):
            for sibling in range(run.n):
                tokens = generator.integers(0, 1000, 40).tolist()
                behaviour = np.log(generator.uniform(0.2, 0.9, 40))
                moved = schedule.temperature(np.arange(40), step) != 1
                # The sampler is the sharper of the two where they differ, so that ratios are below one on average.
                policy = behaviour + np.where(moved, np.log(generator.uniform(0.5, 1.2, 40)), 0)
                rows.append(
                    {
                        "problem": PROBLEMS[prompt],
                        "tokens": tokens,
                        "policy_logprobs": policy,
                        "behaviour_logprobs": behaviour,
                    }
                )
                lines.append(
                    {
                        "step": step,
                        "prompt": prompt,
                        "sibling": sibling,
                        "seed": len(lines),
                        "prompt_tokens": [0] * (10 + prompt),
                        "tokens": tokens,
                    }
                )
        pd.DataFrame(rows).to_parquet(tmp_path / "verl" / "steps" / f"step_{step}.parquet")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "verl" / "samples" / "responses_1.jsonl").write_text(text)
    return checks.Trained(run, tmp_path, tmp_path)


CHECKS = {
    "every step once": checks.every_step_once,
    "prompts": lambda training: checks.prompts_in_order(training, PROBLEMS),
    "longest prompt": lambda training: checks.longest_prompt_was_asked(training, 17),
    "streams": checks.responses_of_their_own,
    "agreement": checks.sampler_and_trainer_agree,
    "weights": checks.importance_weights,
}


@pytest.mark.parametrize("name", CHECKS)
def test_sound_records_pass(training, name):
    assert CHECKS[name](training)


def _step(training, change):
    path = training.state / "verl" / "steps" / "step_2.parquet"
    frame = pd.read_parquet(path)
    change(frame)
    frame.to_parquet(path)


def _samples(training, change):
    path = training.state / "verl" / "samples" / "responses_1.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


def _untouched_by_the_schedule(frame):
    frame["behaviour_logprobs"] = frame["policy_logprobs"]


def _apart_at_temperature_one(frame):
    frame["policy_logprobs"] = [
        row + np.where(np.arange(len(row)) == 3, 0.01, 0) for row in frame["policy_logprobs"]
    ]


def _weights_above_one(frame):
    frame["policy_logprobs"] = [row + 0.5 for row in frame["behaviour_logprobs"]]


@pytest.mark.parametrize(
    "name, damage",
    [
        ("every step once", lambda t: records.append(t.state / "groups.jsonl", {"step": 2})),
        ("every step once", lambda t: (t.state / "checkpoints" / "step_1").rmdir()),
        ("prompts", lambda t: _step(t, lambda frame: frame.__setitem__("problem", PROBLEMS[0]))),
        (
            "longest prompt",
            lambda t: _samples(t, lambda row: {**row, "prompt_tokens": row["prompt_tokens"][:12]}),
        ),
        ("streams", lambda t: _samples(t, lambda row: {**row, "seed": 1})),
        ("streams", lambda t: _samples(t, lambda row: {**row, "tokens": [1, 2, 3]})),
        ("agreement", lambda t: _step(t, _apart_at_temperature_one)),
        ("weights", lambda t: _step(t, _untouched_by_the_schedule)),
        ("weights", lambda t: _step(t, _weights_above_one)),
    ],
)
def test_damaged_records_fail(training, name, damage):
    damage(training)
    with pytest.raises(checks.Failed):
        CHECKS[name](training)


def test_the_code_that_a_rehearsal_ran_is_found():
    names = {path.name for path in code_files()}
    assert {"train.py", "schedule.py", "verl.py", "workers.py", "verl_cpu.py"} <= names


# --- tables ------------------------------------------------------------------------------------------------


def test_the_table_says_which_cell_stands_for_a_run_and_what_failed():
    rows = [Row("a", ["a", "b"], "passed"), Row("c", ["c"], "failed", "it ended | early")]
    data = as_data(rows, "gpu1", ["a", "b", "c"])
    assert data["stands_for"] == {"a": "a", "b": "a", "c": "c"}
    assert (data["passed"], data["failed"], data["not_run"]) == (1, 1, 0)
    assert "it ended / early" in as_markdown(rows, "gpu1")
    assert Row.from_dict(json.loads(json.dumps(rows[1].to_dict()))) == rows[1]


def test_cells_are_rehearsed_in_processes_and_one_without_a_tokenizer_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsals, "version", lambda package: "0")
    data = tmp_path / "data"
    data.write_text("")
    names = [*read_plan({}).datasets]
    rehearsal = rehearsals.Rehearsal(
        {"scale": "gpu24"}, dict.fromkeys(names, data), tmp_path / "nowhere", tmp_path / "rehearsals", {}
    )
    tables = []
    report = lambda stage, rows: tables.append(rows)  # noqa: E731
    stage, rows = rehearsals.rehearse(rehearsal, report, "sampler~ead_released_tis", jobs=2)
    assert tables[-1] == rows and len(tables) == 2
    rows.sort(key=lambda row: "ead_released_tis" not in row.cell)
    first, *others = rows
    assert (
        first.status == "not run" and "tokenizer.json: no such file; copy the model's there" in first.reason
    )
    assert {row.reason for row in others} == {"not among the runs that were asked for"}
    (kept,) = (tmp_path / "rehearsals" / "cells").glob("*/row.json")
    assert Row.from_dict(json.loads(kept.read_text())) == first


@pytest.mark.parametrize(
    ("tried", "moment", "evaluated", "known"),
    [
        (["train"], None, False, True),
        (["train"], None, True, False),
        (["train", "evaluation"], None, True, True),
        (["train", "evaluation"], "", True, False),
        (["kill", "evaluation"], "", True, True),
    ],
)
def test_a_cell_that_passed_is_tried_again_where_a_kill_or_an_evaluation_is_missing(
    tmp_path, monkeypatch, tried, moment, evaluated, known
):
    monkeypatch.setattr(rehearsals, "version", lambda package: "0")
    data = tmp_path / "data"
    data.write_text("")
    stage = rehearsals.Stage(
        rehearsals.Rehearsal(
            {"scale": "gpu24"}, dict.fromkeys(read_plan({}).datasets, data), None, tmp_path, {}
        )
    )
    cell = next(iter(stage.cells.values()))
    _, key = rehearsals._known(cell, moment, evaluated, stage)
    row = Row(cell.run.name, list(cell.names), "passed", parts=[Part(name, True, "", 1.0) for name in tried])
    write_json(tmp_path / "cells" / key / "row.json", row.to_dict())
    found, left = rehearsals._known(cell, moment, evaluated, stage)
    assert (left is None) == known == (found.status == "passed")


def test_the_budget_counts_with_what_a_preflight_measured_if_it_passed(plan, tmp_path):
    run = next(iter(plan.runs.values()))
    report = reports.Report(
        run.model,
        run.name,
        "node",
        [reports.Line("machine", True, "")],
        {
            "step_s": 10.0,
            "start_and_save_s": 100.0,
            "responses": run.training.prompts * run.n / 2,
            "gpus": 2.0,
        },
    )
    path = tmp_path / f"{run.model}.json"
    assert reports.expected_s(tmp_path, run, 2) is None
    reports.write(report, path)
    assert reports.expected_s(tmp_path, run, 1) is None, "that of other machines"
    expected = run.training.steps * 20 + (1 + len(run.training.checkpoints)) * 100
    assert reports.expected_s(tmp_path, run, 2) == pytest.approx(expected)
    text, passed = reports.summary([path])
    assert passed and path.exists() and "pass  machine" in text

    report.lines.append(reports.Line("disk", False, "1 GB free", "free some"))
    reports.write(report, path)
    assert reports.expected_s(tmp_path, run, 2) is None
    text, passed = reports.summary([path])
    assert not passed and not path.exists() and "what to do: free some" in text


def test_a_preflight_takes_the_run_of_each_model_that_shows_most(plan):
    chosen = reports.chosen(plan.runs.values(), plan.scale.rollouts)
    assert set(chosen) == {run.model for run in plan.runs.values()}
    for model, run in chosen.items():
        of_model = [r for r in plan.runs.values() if r.model == model and r.n == run.n]
        assert bool(run.sampler_definition.importance) == any(
            r.sampler_definition.importance for r in of_model
        )


def test_where_a_tokenizer_cannot_be_fetched_the_advice_is_a_configuration_that_works(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise stand_in.DatasetError("no hub")

    monkeypatch.setattr(stand_in, "hub_files", unreachable)
    source = "Qwen/Qwen2.5-Math-1.5B"
    entry = load_models()[source]
    with pytest.raises(stand_in.NoTokenizer) as caught:
        stand_in.write_description(source, entry, tmp_path, table=load_stand_ins(), tokenizers=None)
    (advice,) = re.findall(r"--config '(.*)'", str(caught.value))
    given = parse_config([advice.replace("FOLDER", str(tmp_path))])
    assert read_plan({"scale": "gpu1"}, given).configuration.paths.tokenizers == str(tmp_path)


def test_the_runs_behind_targets_are_those_of_the_figures_that_they_name(plan):
    def names(*targets):
        return {run.name for run in plan.runs_behind(targets)}

    both = {*plan.runs_of["fig07a"], *plan.runs_of["fig07b"]}
    assert names("fig07") == names("fig07_so_far") == names("fig07a", "fig07b") == both
    assert names("fig04_so_far") == set(plan.runs_of["fig04"])
    chosen = {run for name in plan.configuration.experiments for run in plan.runs_of[name]}
    assert names("all") == names("report") == chosen
    assert names("fig04", "claims_so_far") == chosen | names("fig04")
    with pytest.raises(ConfigurationError, match="--config: targets: unknown figure 'fig4'.*'fig04'"):
        plan.runs_behind(["fig04", "fig4"])


def test_a_preflight_ends_at_the_first_part_that_fails_and_says_what_to_do(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "MODULES", ("json",))
    folder = tmp_path / "preflight"
    run = next(iter(plan.runs.values()))
    request = EvaluationRequest(
        dataset="math500", samples=1, max_new_tokens=8, decoders={}, verifier_timeout_s=1.0, root_seed=0
    )
    absent = tmp_path / "absent"
    report = preflight.check(
        run,
        plan.scale.verl.model_copy(update={"device": "cpu"}),
        **{"model": absent, "dataset": absent, "validation": absent, "request": request},
        **{"scale": plan.configuration.scale, "scratch_bytes": 1 << 60, "timeout_s": 60.0, "folder": folder},
    )
    assert [(line.name, line.passed) for line in report.lines] == [
        ("machine", True),
        ("environment", True),
        ("disk", False),
    ]
    assert "a training needs 1152921505 GB" in report.lines[-1].found
    assert report.lines[-1].advice == "free some, or set paths.results to a larger disk"
    assert set(report.measured) == {"gpus", "host_gib"} and not report.passed


# --- kills -------------------------------------------------------------------------------------------------

# What a training leaves, in the order in which verl and the project leave it, and a process of its own that must end.
TRAINING = """
import json, subprocess, sys, time
from pathlib import Path
state = Path(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
(state / "child").write_text(str(child.pid))
(state / "verl" / "checkpoints").mkdir(parents=True)
(state / "verl" / "samples").mkdir()
def record(step):
    with (state / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step}) + "\\n")
time.sleep(0.5)
record(1)
time.sleep(0.3)
(state / "verl" / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("1")
time.sleep(0.3)
(state / "checkpoints" / "step_1").mkdir(parents=True)
time.sleep(0.3)
(state / "verl" / "samples" / "rollouts_1.jsonl").write_text(json.dumps({"step": 2, "prompt": 0}))
time.sleep(0.3)
record(2)
time.sleep(float(sys.argv[2]))
"""


class Pretended(Exercise):
    """An exercise whose training only leaves files."""

    lasts_s = 600

    def command(self):
        return [sys.executable, "-c", TRAINING, str(self.state), str(self.lasts_s)]


@pytest.fixture
def exercise(training, tmp_path):
    folder = tmp_path / "exercise"
    made = Pretended(
        training.run,
        load_scale(VERL_SCALES[0]).verl,
        *(tmp_path / name for name in "mdv"),
        "gpu1",
        folder,
        30,
    )
    made.state.mkdir(parents=True)
    return made


LEFT = {
    "after the first step": "saved step 0, 0 checkpoints were published, 1 steps",
    "between verl's tracker and our checkpoint": "saved step 1, 0 checkpoints were published, 1 steps",
    "after the first checkpoint": "saved step 1, 1 checkpoints were published, 1 steps",
    "within the second step": "saved step 1, 1 checkpoints were published, 1 steps",
    "after the second step": "saved step 1, 1 checkpoints were published, 2 steps",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_comes_at_its_moment_and_ends_every_process(exercise, moment):
    said = exercise.train_and_kill(moment, 0.0, os.environ)
    assert LEFT[moment] in said
    child = int((exercise.state / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_training_that_ends_before_its_kill_is_no_kill(exercise, monkeypatch):
    monkeypatch.setattr(Pretended, "lasts_s", 0)
    (exercise.state / "child").mkdir()  # where it wants to write
    with pytest.raises(TrainingFailed, match=r"ended with status 1 before the kill(.|\n)*IsADirectoryError"):
        exercise.train_and_kill("after the second step", 0.0, os.environ)


@pytest.mark.parametrize("times", [0, 2])
def test_it_is_said_how_often_ray_was_late(exercise, monkeypatch, times):
    words = f"{RAY_WAS_LATE} (attempt 1 of 4)\n" * times
    monkeypatch.setattr(Pretended, "command", lambda _: [sys.executable, "-c", f"print({words!r})"])
    assert exercise.train(os.environ) == (f"{RAY_WAS_LATE} 2 times" if times else "")


def test_the_evaluation_of_a_preflight_has_gpus_of_its_own_and_the_models_own_limits(
    plan, tmp_path, monkeypatch
):
    run = next(iter(plan.runs.values()))
    machine = plan.scale.verl.model_copy(update={"models": {run.model: VerlModel(max_num_seqs=7)}})
    held, asked = [], []

    @contextmanager
    def lease(number, key):
        held.append(number)
        try:
            yield
        finally:
            held.pop()

    class Begun(Exception):
        pass

    def loaded(checkpoint, vllm, **named):
        asked.append((list(held), vllm.max_num_seqs))
        raise Begun

    monkeypatch.setattr(devices, "leased", lease)
    monkeypatch.setattr(evaluation, "loaded", loaded)
    monkeypatch.setattr(evaluation, "_weights_sha256", str)
    file = tmp_path / "file"
    question = {"data_source": "toy", "prompt": [{"role": "user", "content": "1 + 1"}], "ground_truth": "2"}
    named = {"id": "toy/0", "index": 0, "split": "test", "ability": "math", "details": {}}
    write_dataset([make_row(**question, **named)], file)
    decoders = {"tau1.0": plan.scale.decoders["tau1.0"]}
    request = EvaluationRequest(
        dataset="math500", samples=1, max_new_tokens=8, decoders=decoders, verifier_timeout_s=1.0, root_seed=0
    )
    with pytest.raises(Begun):
        Exercise(run, machine, file, file, file, "gpu1", tmp_path, 1.0).evaluate(request)
    assert asked == [([1], 7)] and held == []


def test_what_ends_a_preflight_ends_its_training(plan, tmp_path, monkeypatch):
    run = next(iter(plan.runs.values()))
    code = "import sys, time; open(sys.argv[1], 'x').close(); time.sleep(600)"
    begun = tmp_path / "begun"
    monkeypatch.setattr(Exercise, "command", lambda self: [sys.executable, "-c", code, str(begun)])
    trial = Exercise(run, plan.scale.verl, begun, begun, begun, "gpu1", tmp_path / "trial", timeout_s=600.0)

    class Ended(BaseException):
        pass

    def wait(self, timeout=None):
        while not begun.exists():
            time.sleep(0.05)
        monkeypatch.undo()
        raise Ended

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    with pytest.raises(Ended):
        trial.train(dict(os.environ))
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(begun) in (p.info["cmdline"] or [])], (
        "the training lives on"
    )
