"""The deviations page: numbers by hand, what has not run, and the table itself."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reproduction import config
from reproduction.claims import deviations
from reproduction.claims.deviations import load_deviations, tabulate
from reproduction.claims.recorded import Recorded
from reproduction.config import ConfigurationError, load_scale
from reproduction.data import write_dataset
from reproduction.figures import deviations as plotting
from reproduction.figures import load_experiments
from reproduction.files import write_json


@pytest.fixture
def recorded(tmp_path):
    """Two samplers, two problems with two samples each; the treatment solves one response more."""
    scale = config.load_scale("mini")
    cells = {"ead": ["a/seed~0"], "ead_released": ["b/seed~0"]}
    write(tmp_path, "a/seed~0", [[True, False], [False, False]])
    write(tmp_path, "b/seed~0", [[True, False], [True, False]])
    return Recorded(
        root_seed=2025,
        scale=scale,
        folder=tmp_path,
        cells=cells,
        training=scale.training,
        evaluation=scale.evaluation,
        dataset_file=tmp_path / "absent.parquet",
        training_card=tmp_path / "card.json",
    )


def write(folder, run, verdicts):
    """An evaluation of one checkpoint, and a training's records by prompt."""
    path = folder / "evaluations" / run / "step_4.parquet"
    path.parent.mkdir(parents=True)
    problems, samples = np.shape(verdicts)
    frame = pd.DataFrame(
        {
            "problem": np.repeat([f"p{index}" for index in range(problems)], samples),
            "sample": np.tile(np.arange(samples), problems),
            "tokens": np.arange(1, problems * samples + 1) * 10,
            "response": r"\boxed{5}",
            "correct": np.ravel(verdicts),
        }
    )
    frame.to_parquet(path)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    file = {"step": 4, "decoder": "tau1.0", "file": path.name, "sha256": sha}
    (path.parent / "manifest.json").write_text(json.dumps({"files": [file]}))
    groups = folder / "runs" / run / "groups.parquet"
    groups.parent.mkdir(parents=True)
    columns = {
        "step": [1, 1, 2],
        "entropy": [1.0, 2.0, 9.0],
        "entropy_at_sampling_temperature": [0.5, 1.0, 9.0],
    }
    pd.DataFrame(columns).to_parquet(groups)


def rows_of(recorded, **quantity):
    adapter = deviations.Deviation.model_validate(
        {"title": "t", "paper": "p", "release": "r", "choice": "c", "quantities": [quantity]}
    )
    return list(adapter.quantities[0].measure("D01", recorded))


def values(rows):
    return {(row["label"], row["quantity"]): row["value"] for row in rows}


def test_tokens_of_a_short_micro_batch_weigh_more(recorded):
    rows = rows_of(recorded, kind="micro_batches", samplers=["ead"], rows=2)
    # Lengths 10, 30 | 20, 40 (first the first sample of each problem): 40 tokens weigh 50 / 40, and 60 weigh 50 / 60.
    assert [row["value"] for row in rows] == pytest.approx([50 / 60, 50 / 40])
    (missing,) = rows_of(recorded, kind="micro_batches", samplers=["tau0.6"], rows=2)
    assert missing["status"] == "not run" and "tau0.6" in missing["reason"]


def test_a_reading_that_is_not_run_says_why(recorded):
    (row,) = rows_of(recorded, kind="not_run", label="the other", reason="dear")
    assert (row["status"], row["reason"], row["label"]) == ("not run", "dear", "the other")


def test_a_pair_is_the_difference_of_the_means(recorded):
    """Pass@1 2/4 against 1/4, Pass@2 2/2 against 1/2, Worst@2 nothing on either side."""
    rows = rows_of(recorded, kind="pair", treatment="ead_released", control="ead")
    assert [row["value"] for row in rows] == [0.25, 0.5, 0.0]
    assert [row["quantity"] for row in rows] == ["Pass@1", "Pass@2", "Worst@2"]
    assert {(row["problems"], row["samples"], row["seeds"], row["status"]) for row in rows} == {
        (2, 2, 1, "measured")
    }
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


def test_the_resampled_estimator_misses_what_it_does_not_draw(recorded):
    """With 1 of 2 correct, two draws with replacement find it with probability 3/4; the other problem is 0."""
    rows = rows_of(recorded, kind="estimators", samplers=["ead"])
    assert [row["value"] for row in rows] == pytest.approx([(1 - 0.75) / 2, (0 - 0.25) / 2])


def test_entropies_are_those_of_the_first_step_only(recorded):
    found = values(rows_of(recorded, kind="entropies", samplers=["ead"]))
    assert list(found.values()) == pytest.approx([-0.75, 1.5])


def test_what_the_engine_does_not_know_for_a_sampler_is_not_run(recorded):
    """verl knows one of the two entropies, or neither; metrics.parquet has the means of groups.parquet."""
    for column in ("entropy", "entropy_at_sampling_temperature"):
        path = recorded.folder / "runs/a/seed~0/groups.parquet"
        frame = pd.DataFrame({"step": [1, 1, 2], "entropy": 1.0, "entropy_at_sampling_temperature": 0.5})
        frame.assign(**{column: np.nan}).to_parquet(path)
        (row,) = rows_of(recorded, kind="entropies", samplers=["ead"])
        assert (row["status"], row["value"]) == ("not run", None)
        assert row["reason"] == f"the engine inprocess does not know {column} for this training"
    pd.DataFrame({"step": [1, 2], "entropy": np.nan}).to_parquet(path.with_name("metrics.parquet"))
    record = {"kind": "record", "metric": "entropy", "label": "entropy", "unit": "nats"}
    (row,) = rows_of(recorded, **record, samplers=["ead"])
    assert row["status"] == "not run" and row["reason"].endswith("does not know entropy for this training")


def test_a_string_match_is_counted_only_where_answers_are_compared_as_text(recorded):
    """What a generated problem has for an answer, such as a limit of moves, is not what is boxed."""
    data = recorded.scale.datasets["countdown_test"]
    rows = data.rows(data.problems(0, 2), "x")
    for row, problem in zip(rows, ("p0", "p1"), strict=True):
        row["extra_info"]["id"] = problem
    write_dataset(rows, recorded.dataset_file)
    row, _ = rows_of(recorded, kind="graders", samplers=["ead"])
    assert row["status"] == "not run" and row["reason"].startswith("this task's answers are not compared")
    for row in rows:
        row["reward_model"] = {"style": "rule", "ground_truth": "5"}
    write_dataset(rows, recorded.dataset_file)
    found = rows_of(recorded, kind="graders", samplers=["ead"])
    # Every response boxes a 5, and one of the four was graded correct.
    assert [row["value"] for row in found] == [3, 3, None]


def test_schedules_are_in_the_papers_units(recorded):
    """experiments.md, D01 and D12: tau_min at token 19 against 371; the cap is 20 times larger."""
    found = values(
        rows_of(recorded, kind="schedule", samplers=["ead", "ead_released"], steps=[0], about="floor")
    )
    assert [value for (_, what), value in found.items() if "first" in what] == [19, 371]
    found = values(
        rows_of(recorded, kind="schedule", samplers=["ead", "ead_released"], steps=[0], about="cap")
    )
    assert [value for (_, what), value in found.items() if what.startswith("cap")] == [40000, 800000]


def test_the_sample_standard_deviation_shrinks_advantages(recorded):
    rows = rows_of(recorded, kind="advantages", rollouts=[4, 16])
    assert [row["value"] for row in rows] == pytest.approx([np.sqrt(3 / 4), np.sqrt(15 / 16)], abs=1e-5)


def test_prompts_are_counted_from_the_card(recorded):
    recorded.training_card.write_text('{"rows": 64}')
    found = values(
        rows_of(recorded, kind="prompts", paper_prompts=860000, released_prompts=455000, paper_batch=1024)
    )
    assert found["released set", "training steps per epoch"] == pytest.approx(444.3, abs=0.1)
    assert found["this scale", "passes through them in a run"] == 0.5


def test_what_is_missing_is_said_and_nothing_else_fails(recorded):
    (recorded.folder / "evaluations/b/seed~0/manifest.json").unlink()
    rows = tabulate(load_deviations(), recorded)
    assert [row["id"] for row in rows] == list(load_deviations())
    first = [measure for measure in rows[0]["measures"] if measure["kind"] == "training"]
    assert [measure["status"] for measure in first] == ["not run", "not run"]
    assert first[0]["reason"] == "missing evaluations/b/seed~0/manifest.json"
    assert first[1]["reason"] == "no cell of the sampler ead_released_tis at this scale"


def test_a_changed_sample_file_is_an_error(recorded):
    path = recorded.folder / "evaluations/a/seed~0/step_4.parquet"
    pd.read_parquet(path).assign(correct=True).to_parquet(path)
    with pytest.raises(ValueError, match="changed since"):
        rows_of(recorded, kind="pair", treatment="ead_released", control="ead")


def test_every_pair_of_the_table_is_trained_at_the_shipped_scales():
    """A cell that deviations.yaml names and the experiment lacks would never run."""
    trained = {
        (cell.algorithm, cell.sampler) for cell in load_experiments()["deviations"].cells(load_scale("cpu"))
    }
    named = set()
    for deviation in load_deviations().values():
        for quantity in deviation.quantities:
            algorithm = getattr(quantity, "algorithm", "dapo")
            named |= {(algorithm, sampler) for sampler in getattr(quantity, "samplers", ())}
            named |= {("dapo", getattr(quantity, key)) for key in ("sampler",) if hasattr(quantity, key)}
            if quantity.kind == "pair":
                named |= {
                    (quantity.treatment_algorithm, quantity.treatment),
                    (quantity.control_algorithm, quantity.control),
                }
    assert named == trained


def test_a_pair_of_cells_with_other_seeds_compares_those_that_both_have(tmp_path, recorded):
    """The control has three seeds, of which the treatment has the second alone; seeds differ by all there is."""
    for seed, verdicts in ((0, [[1, 1], [1, 1]]), (1, [[0, 0], [1, 0]]), (2, [[1, 1], [1, 1]])):
        write(tmp_path / "several", f"sampler~tau1.0/seed~{seed}", verdicts)
    write(tmp_path / "several", "algorithm~other/sampler~tau1.0/seed~1", [[1, 0], [1, 0]])
    cells = {
        "tau1.0": [f"sampler~tau1.0/seed~{seed}" for seed in range(3)],
        "other/tau1.0": ["algorithm~other/sampler~tau1.0/seed~1"],
    }
    dapo = recorded.scale.algorithms["dapo"]
    algorithms = {"dapo": dapo, "other": dapo.model_copy(update={"label": "Other"})}
    scale = recorded.scale.model_copy(update={"algorithms": algorithms})
    several = replace(recorded, scale=scale, folder=tmp_path / "several", cells=cells)
    rows = rows_of(several, kind="pair", treatment="tau1.0", treatment_algorithm="other", control="tau1.0")
    assert [(row["quantity"], row["value"], row["seeds"]) for row in rows[:2]] == [
        ("Pass@1", 0.25, 1),
        ("Pass@2", 0.5, 1),
    ]
    assert rows[0]["label"] == "Other − DAPO"


def test_a_mistake_in_the_table_names_its_key(tmp_path):
    path = tmp_path / "deviations.yaml"
    path.write_text(
        "D01: {title: t, paper: p, release: r, choice: c, quantities: [{kind: pair, treatment: ead}]}"
    )
    with pytest.raises(ConfigurationError, match=r"deviations.D01.quantities.0.*control"):
        load_deviations(path)


def test_the_forest_shows_what_ran_and_what_did_not(recorded, tmp_path):
    rows = tabulate(load_deviations(), recorded)
    drawn = plotting.differences(rows)
    assert set(drawn["status"]) == {"measured", "not run"}
    write_json(tmp_path / "deviations.json", {"rows": rows})
    files = {suffix: tmp_path / f"forest.{suffix}" for suffix in ("pdf", "png", "csv")}
    plotting.DeviationsFigure.write(tmp_path / "deviations.json", {"title": "title"}, files)
    assert all(file.stat().st_size for file in files.values())
    assert pd.read_csv(files["csv"])["label"].tolist() == drawn["label"].tolist()
