"""Estimates against hand computation, runs that diverged or did not run, and the figures that show them."""

import copy
import shutil

import numpy as np
import pandas as pd
import pytest

from ead import seeds, statistics
from evaluations import write_evaluation
from reproduction.claims import comparisons
from reproduction.config import Configuration, ConfigurationError, load_scale
from reproduction.config.runs import axes_of, expand
from reproduction.figures import (
    KINDS,
    TrainingCurves,
    analyses,
    decoder_matrix,
    load_experiments,
    propositions,
    schedules,
    style,
    training_curves,
)
from reproduction.files import write_json, write_parquet
from reproduction.plan import read_plan

PROBLEMS, SAMPLES, PROMPTS = 30, 4, 8
DECODERS = ["tau1.0", "greedy"]
METRICS = ["pass_at_1", "pass_at_k", "worst_at_k", "resampled_best_at_k", "resampled_worst_at_k"]
LOGGED = ["reward_mean", "entropy", "gradient_norm"]
ONE_MODEL = {"roles": {"qwen_1_5b": None}}


def write_run(folder, rng, steps=6, status="finished"):
    step = np.repeat(np.arange(1, steps + 1), PROMPTS)
    groups = pd.DataFrame(
        {"step": step, "reward_mean": rng.random(len(step)), "entropy": rng.random(len(step))}
    )
    write_parquet(groups, folder / "groups.parquet")
    metrics = pd.DataFrame({"step": np.arange(1, steps + 1), "gradient_norm": rng.random(steps)})
    if status == "diverged":
        metrics.loc[steps - 1, "gradient_norm"] = np.nan
    write_parquet(metrics, folder / "metrics.parquet")
    write_json(folder / "manifest.json", {"status": status})


class World:
    """Three of Figure 4's cells, two seeds each, with made-up results; a copy shares the numbers."""

    def __init__(self, folder):
        self.configuration, self.scale = (
            Configuration(scale="mini", seeds=[0, 1]),
            load_scale("mini", ONE_MODEL),
        )
        experiment = load_experiments()["fig04"]
        grid = experiment.runs[0].model_copy(update={"sampler": ["tau0.6", "ead", "ead_tis"]})
        self.experiment = experiment.model_copy(update={"runs": [grid]})
        self.table = expand(self.configuration, self.scale, self.experiment)
        self.names = list(self.table)
        self.runs, self.evaluations = folder / "runs", folder / "evaluations"
        rng = np.random.default_rng(0)
        self.correct = {}
        write_evaluation(
            self.evaluations / "model~tiny", {0: rng.random((PROBLEMS, SAMPLES)) < 0.3}, DECODERS
        )
        for name in self.names:
            self.correct[name] = {step: rng.random((PROBLEMS, SAMPLES)) < 0.3 + step / 20 for step in (2, 4)}
            write_evaluation(self.evaluations / name, self.correct[name], DECODERS)
            write_run(self.runs / name, rng)

    def estimate(self, metrics=METRICS, decoders=("tau1.0",), window=2, **options):
        return analyses.training_curves(
            self.names,
            metrics,
            decoders,
            {"tiny": window},
            runs=self.runs,
            evaluations=self.evaluations,
            root_seed=0,
            **options,
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(built, tmp_path):
    shutil.copytree(built.runs.parent, tmp_path, dirs_exist_ok=True)
    world = copy.copy(built)
    world.runs, world.evaluations = tmp_path / "runs", tmp_path / "evaluations"
    return world


def only(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


# --- evaluations -------------------------------------------------------------------------------------------


def test_evaluations_are_the_exact_estimators_over_seeds_and_problems(world):
    table = world.estimate()
    assert len(table) == 3 * len(METRICS) * 3
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    first, second = world.names[:2]
    verdicts = np.stack([world.correct[name][4] for name in (first, second)])
    row = only(table, cell=first.rpartition("/")[0], step=4).set_index("metric")["value"]
    share = verdicts.mean(axis=-1)
    expected = {
        "pass_at_1": verdicts.mean(),
        "pass_at_k": verdicts.any(axis=-1).mean(),
        "worst_at_k": verdicts.all(axis=-1).mean(),
        "resampled_best_at_k": (1 - (1 - share) ** SAMPLES).mean(),
        "resampled_worst_at_k": (share**SAMPLES).mean(),
    }
    assert row.to_dict() == pytest.approx(expected)
    assert set(only(table, step=0)["seeds"]) == {1} and set(table[table.step > 0]["seeds"]) == {2}
    assert set(table["problems"]) == {PROBLEMS} and set(table["samples"]) == {SAMPLES}


def test_intervals_are_those_of_the_statistics_module_whatever_else_is_estimated(world):
    verdicts = np.stack([world.correct[name][4].any(axis=-1) for name in world.names[:2]]).astype(float)
    expected = statistics.bootstrap(verdicts, generator=seeds.generator(0, "bootstrap"))
    cell = world.names[0].rpartition("/")[0]
    for metrics in (METRICS, ["pass_at_k"]):
        row = only(world.estimate(metrics), cell=cell, step=4, metric="pass_at_k").iloc[0]
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_seeds_that_were_evaluated_on_different_problems_are_refused(world):
    rng = np.random.default_rng(1)
    write_evaluation(world.evaluations / world.names[1], {2: rng.random((29, SAMPLES)) < 0.5}, DECODERS)
    with pytest.raises(ValueError, match="different problems"):
        world.estimate(["pass_at_1"])


def test_an_unknown_metric_is_refused(world):
    with pytest.raises(ValueError, match="unknown metric 'pass_at_2'"):
        world.estimate(["pass_at_2"])


# --- quantities of the training ----------------------------------------------------------------------------


def test_training_quantities_are_means_over_windows_of_steps(world):
    table = world.estimate(LOGGED, window=4)
    first, second = world.names[:2]
    cell = only(table, cell=first.rpartition("/")[0])
    assert sorted(set(cell["step"])) == [4, 8] and cell["decoder"].isna().all()
    groups = pd.concat([pd.read_parquet(world.runs / name / "groups.parquet") for name in (first, second)])
    for metric in ("reward_mean", "entropy"):
        for step, chosen in ((4, groups["step"] <= 4), (8, groups["step"] > 4)):
            row = only(cell, metric=metric, step=step).iloc[0]
            assert row["value"] == pytest.approx(groups.loc[chosen, metric].mean())
            assert row["low"] < row["value"] < row["high"]
            assert row["problems"] == (4 if step == 4 else 2) * PROMPTS
    norms = [
        pd.read_parquet(world.runs / name / "metrics.parquet")["gradient_norm"] for name in (first, second)
    ]
    row = only(cell, metric="gradient_norm", step=4).iloc[0]
    assert row["value"] == pytest.approx(np.mean([norm[:4].mean() for norm in norms]))
    assert row["low"] < row["value"] < row["high"]


def test_one_number_per_step_has_no_interval_with_one_seed(world):
    world.names = [name for name in world.names if axes_of(name)["seed"] == "0"]
    table = world.estimate(LOGGED)
    norm = only(table, metric="gradient_norm")
    assert norm["low"].isna().all() and norm["value"].notna().all() and set(norm["seeds"]) == {1}
    assert only(table, metric="entropy")["low"].notna().all()


# --- runs that diverged or did not run -----------------------------------------------------------------------


def test_the_curve_of_a_diverged_run_ends_and_the_cell_goes_on_with_its_other_seeds(world):
    rng = np.random.default_rng(2)
    write_evaluation(world.evaluations / world.names[0], {2: rng.random((PROBLEMS, SAMPLES)) < 0.5}, DECODERS)
    for file in ("step_4/tau1.0/test.parquet", "step_4/greedy/test.parquet"):
        (world.evaluations / world.names[0] / file).unlink()
    write_run(world.runs / world.names[0], rng, steps=3, status="diverged")
    table = world.estimate(["pass_at_k", "gradient_norm"], window=1)
    cell = only(table, cell=world.names[0].rpartition("/")[0])
    assert set(cell["status"]) == {"diverged"} and set(table["status"]) == {"diverged", "finished"}
    assert only(cell, metric="pass_at_k").set_index("step")["seeds"].to_dict() == {0: 1, 2: 2, 4: 1}
    norm = only(cell, metric="gradient_norm").set_index("step")
    assert norm["seeds"].to_dict() == {1: 2, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1}
    assert np.isfinite(norm["value"]).all()
    figure = training_curves.plot(table, drawing(world, metrics=["pass_at_k", "gradient_norm"]))
    assert "run diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_runs_that_left_no_checkpoint_are_said_to_have_diverged(world):
    for name in world.names[:3]:  # both seeds of the first cell, one of the second
        write_evaluation(world.evaluations / name, {}, DECODERS)
        write_run(world.runs / name, np.random.default_rng(2), steps=1, status="diverged")
    first, second = (name.rpartition("/")[0] for name in world.names[1:3])
    table = world.estimate(["pass_at_k"])
    assert only(table, cell=first)["step"].tolist() == [0], "the base model's"
    assert only(table, cell=second).set_index("step")["seeds"].to_dict() == {0: 1, 2: 1, 4: 1}
    assert training_curves.plot(table, drawing(world, metrics=["pass_at_k"])).axes

    for figure in ("decoders", "trade_off"):
        experiment = load_experiments()[figure]
        asked = experiment.estimation(world.scale, world.table, 0) | {"decoders": ["tau1.0"]}
        kind = KINDS[asked.pop("analysis")]
        options = {"runs": world.runs, "evaluations": world.evaluations}
        table = kind.estimate(**asked, **options)
        lost = only(table, cell=first)
        assert set(lost["status"]) == {"diverged"} and lost[["step", "value"]].isna().all(axis=None)
        assert only(table, cell=second)[["seeds", "step"]].drop_duplicates().to_numpy().tolist() == [[1, 4]]
        picture = kind.plot(table, experiment.drawing(figure, world.scale, world.table))
        texts = [text.get_text() for text in picture.axes[0].texts] + picture.get_suptitle().split("\n")
        assert {"diverged", "diverged before the first checkpoint: τ = 0.6"} & set(texts)
        assert kind.plot(lost, experiment.drawing(figure, world.scale, world.table)).axes

    # In a second panel the sampler is drawn, so the legend has it, and the words say where it is not.
    there = only(table, cell=second).assign(model="small", sampler="tau0.6")
    request = experiment.drawing(figure, world.scale, world.table)
    picture = kind.plot(
        pd.concat([table, there]), request | {"models": request["models"] | {"small": "small"}}
    )
    assert "τ = 0.6 (tiny)" in picture.get_suptitle()
    assert "τ = 0.6" in [text.get_text() for text in picture.legends[0].get_texts()]


def test_a_cell_that_has_not_run_is_an_error_unless_a_partial_figure_is_asked_for(world):
    for name in world.names[:2]:
        (world.evaluations / name / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="no results yet"):
        world.estimate(["pass_at_k"])
    base = world.evaluations / "model~tiny" / "manifest.json"
    base.rename(base.with_name("later.json"))
    table = world.estimate(["pass_at_k"], partial=True)
    assert set(table["step"].dropna()) == {2, 4}  # the base model has not been evaluated either
    missing = only(table, status="not run")
    assert list(missing["cell"]) == [world.names[0].rpartition("/")[0]]
    assert missing[["step", "value", "low", "high"]].isna().all(axis=None)
    figure = training_curves.plot(table, drawing(world, metrics=["pass_at_k"]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "τ = 0.6 (not run)",
        "EAD",
        "EAD + TIS",
    ]
    # A single panel of few curves names them at their ends, and keeps the legend for what is missing.
    table, request = (
        only(table, decoder="tau1.0"),
        drawing(world, metrics=["pass_at_k"], decoders={"tau1.0": "τ = 1.0"}),
    )
    figure = training_curves.plot(table, request)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["τ = 0.6 (not run)"]
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["EAD", "EAD + TIS"]


def test_a_metric_that_the_engine_does_not_know_for_a_sampler_takes_no_other_curve_away(world):
    """verl knows the entropy of a fixed temperature other than 1 at that temperature only, and EAD's at 1 only."""
    entropies = ["entropy", "entropy_at_sampling_temperature"]
    for name in world.names:
        path = world.runs / name / "groups.parquet"
        groups = pd.read_parquet(path)
        groups["entropy_at_sampling_temperature"] = groups["entropy"] + 1
        groups[entropies[0] if axes_of(name)["sampler"] == "tau0.6" else entropies[1]] = np.nan
        write_parquet(groups, path)
    table = world.estimate(entropies)
    known = only(table, status="finished")
    assert {(row.sampler, row.metric) for row in known.itertuples()} == {
        ("tau0.6", entropies[1]),
        ("ead", entropies[0]),
        ("ead_tis", entropies[0]),
    }
    assert known[["step", "value", "low", "high"]].notna().all(axis=None)
    others = only(table, status="not recorded")
    assert len(others) == 3 and others[["step", "value"]].isna().all(axis=None)
    request = drawing(world, metrics=entropies)
    figure = training_curves.plot(table, request)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["τ = 0.6", "EAD", "EAD + TIS"]
    said = [[text.get_text().replace("\xa0", " ") for text in axis.texts] for axis in figure.axes]
    assert said == [["not recorded: τ = 0.6"], ["not recorded: EAD, EAD + TIS"]]
    assert [len(axis.get_lines()) for axis in figure.axes] == [2, 1]
    figure = training_curves.plot(others, request)  # a figure of nothing else
    assert not any(axis.get_lines() for axis in figure.axes)
    lost = table.assign(status=table["status"].replace("not recorded", "diverged"))  # at its first step
    figure = training_curves.plot(lost, request)
    assert figure.axes[0].texts[0].get_text() == "diverged: τ\xa0=\xa00.6"


def test_a_figure_whose_models_a_scale_lacks_says_so(world):
    scale = load_scale("mini", {"roles": {"llama_1b": None, "qwen_1_5b": None}})
    request = world.experiment.drawing("fig04", scale, {})
    table = analyses.training_curves(
        [], ["pass_at_k"], ["tau1.0"], {}, runs=None, evaluations=None, root_seed=0
    )
    figure = training_curves.plot(table, request)
    assert (
        "not run at this scale: Llama-3.2-1B-Instruct, Qwen2.5-Math-1.5B"
        in figure.axes[0].texts[0].get_text()
    )


def test_a_figure_none_of_whose_cells_has_run_says_so(world, tmp_path):
    options = {"runs": tmp_path / "none", "evaluations": tmp_path / "none", "root_seed": 0, "partial": True}
    table = analyses.training_curves(world.names, ["pass_at_k"], ["tau1.0"], {"tiny": 2}, **options)
    assert training_curves.plot(table, drawing(world, absent=[])).axes[0].texts[0].get_text() == "not run"
    table = analyses.decoder_matrix(world.names, ["pass_at_k"], ["tau1.0"], **options)
    assert decoder_matrix.plot(table, drawing(world, absent=[])).axes[0].texts[0].get_text() == "not run"


# --- the last checkpoints --------------------------------------------------------------------------------------


def test_the_decoder_matrix_holds_last_checkpoints_and_base_models(world):
    table = analyses.decoder_matrix(
        world.names,
        ["pass_at_k"],
        ["tau1.0", "greedy"],
        runs=world.runs,
        evaluations=world.evaluations,
        root_seed=0,
    )
    assert len(table) == (3 + 1) * 2
    verdicts = np.stack([world.correct[name][4].any(axis=-1) for name in world.names[:2]])
    row = only(table, cell=world.names[0].rpartition("/")[0], decoder="greedy").iloc[0]
    assert (row["value"], row["step"]) == (pytest.approx(verdicts.mean()), 4)
    assert set(table.loc[table["sampler"].isna(), "step"]) == {0}
    experiment = load_experiments()["decoders"]
    request = experiment.drawing("decoders", world.scale, world.table)
    figure = decoder_matrix.plot(table, {**request, "metrics": ["pass_at_k"]})
    drawn = [text.get_text() for text in figure.axes[0].texts]
    # Other decoders have no samples here.
    assert f"{100 * verdicts.mean():.1f}" in drawn and "not run" in drawn


# --- formulas ----------------------------------------------------------------------------------------------


def test_schedules_are_drawn_as_the_schedule_module_computes_them():
    scale = load_scale("mini")
    request = load_experiments()["fig03"].estimation(scale, {}, 0)
    table = schedules.schedule_curves(request["panels"])
    printed = only(table, panel="as printed, exp(t / d)", curve="d = 25").set_index("position")["temperature"]
    assert printed[9] == 1 and printed[19] == pytest.approx(0.1)
    assert printed[15] == pytest.approx(2.2 - np.exp(15 / 25))
    released = only(table, panel="as released, exp(t / 20 d) (D01)", curve="d = 25").set_index("position")
    assert released["temperature"][370] > 0.1 and released["temperature"][371] == pytest.approx(0.1)
    assert schedules.plot(table, {"title": "Title"}).axes[0].get_lines()


def test_propositions_hold_and_a_violation_would_be_counted(monkeypatch):
    options = {
        "temperatures": [0.5, 0.8, 1.0, 1.5],
        "vocabularies": [2, 20],
        "distributions": 50,
        "spread": 4,
    }
    table = propositions.enumerate_propositions(**options, root_seed=0)
    assert set(table["violations"]) == {0} and len(table) == 2 * 2 * 4
    at_one = only(table, metric="variance_inflation", temperature=1.0)
    assert at_one[["value", "low", "high"]].to_numpy() == pytest.approx(1)
    assert propositions.plot(table, {"title": "Title"}).axes[1].get_lines()
    # Exchange hot and cold: the entropy falls with the temperature, for the figure and for the claim alike.
    plain = propositions.tempered_logprobs
    monkeypatch.setattr(propositions, "tempered_logprobs", lambda logits, taus: plain(logits, 1 / taus))
    assert (
        only(propositions.enumerate_propositions(**options, root_seed=0), metric="entropy")[
            "violations"
        ].sum()
        > 0
    )
    assert comparisons._violations("entropy_by_temperature", seeds.generator(0, "test"), 5, 1e-9) == 5
    with pytest.raises(ValueError, match="hold 1"):
        propositions.enumerate_propositions(**{**options, "temperatures": [0.5, 0.9, 1.1]}, root_seed=0)


def test_table_1_has_the_papers_values_beside_every_role(world, tmp_path):
    experiment = load_experiments()["table1"]
    rows = experiment.estimation(load_scale("paper"), {}, 0)["rows"]
    files = {suffix: tmp_path / f"table1.{suffix}" for suffix in experiment.suffixes}
    write_parquet(experiment.estimate(rows=rows), tmp_path / "table1.parquet")
    experiment.write(tmp_path / "table1.parquet", {}, files)
    assert pd.read_csv(files["csv"], dtype=str).to_dict("records") == rows
    assert files["html"].read_text(encoding="utf-8").count("<tr") == 1 + len(rows)
    by_name = {row.pop("hyperparameter"): row for row in rows}
    batch = by_name["Training batch size (prompts)"]
    assert batch.pop("qwen3-8b-base (Qwen3-8B-Base)") == "512"  # Figure 12 has a recipe of its own (D17)
    assert set(batch.values()) == {"1,024"}
    assert by_name["τ_min"]["qwen2.5-math-7b (Qwen2.5-Math-7B)"] == "0.8"
    mistaken = experiment.model_copy(update={"paper": {"bach_size": "1"}})
    with pytest.raises(ConfigurationError, match="unknown hyperparameter 'bach_size'"):
        mistaken.estimation(world.scale, {}, 0)


# --- pictures ------------------------------------------------------------------------------------------------


def drawing(world, **changes):
    return {**world.experiment.drawing("fig04", world.scale, world.table), **changes}


def test_the_figure_is_reproducible_and_complete(world, tmp_path):
    table = world.estimate(["pass_at_k", "worst_at_k"])
    request = drawing(world, decoders={"tau1.0": "τ = 1.0"})
    contents = []
    for attempt in ("a", "b"):
        figure = training_curves.plot(table, request)
        assert [axis.get_ylabel() for axis in figure.axes] == ["Pass@4 (%)", "Worst@4 (%)"]
        assert all(len(axis.get_lines()) == 3 for axis in figure.axes)
        assert "2 training seeds; 30 problems × 4 samples" in figure.get_suptitle()
        paths = [tmp_path / f"{attempt}.{suffix}" for suffix in ("pdf", "png", "csv")]
        style.save(figure, table, *paths)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]


def test_published_curves_are_drawn_only_at_a_scale_that_says_it_matches(world):
    table = world.estimate(["pass_at_k"])
    assert drawing(world)["published"] == []
    matching = load_scale("mini", {**ONE_MODEL, "published_curves": True})
    request = world.experiment.drawing("fig04", matching, world.table)
    assert {curve["metric"] for curve in request["published"]} == {"pass_at_k", "worst_at_k"}
    assert all(min(curve["values"]) > 0 and max(curve["values"]) < 1 for curve in request["published"])
    figure = training_curves.plot(
        table, {**request, "metrics": ["pass_at_k"], "decoders": {"tau1.0": "τ = 1.0"}}
    )
    assert len(figure.axes[0].get_lines()) == 3 + 1


@pytest.mark.parametrize("scale", ["mini", "cpu", "gpu24", "gpu1", "paper"])
def test_every_figure_can_be_asked_for_at_every_scale(scale):
    definition = load_scale(scale)
    assert definition.published_curves == (scale == "paper")  # the others have other data, steps and lengths
    for name, experiment in load_experiments().items():
        if experiment.analysis == "deviations":
            continue
        table = expand(Configuration(scale=scale), definition, experiment)
        if experiment.analysis == "inference":
            words = experiment.caption(definition, table)
            assert (words["subject"] is None) == (definition.study(experiment.study) is None)
            if words["subject"] is None:
                continue
        assert experiment.estimation(definition, table, 0)["analysis"] == experiment.analysis
        assert experiment.drawing(name, definition, table)["title"] == experiment.title
        assert experiment.caption(definition, table)["scale"] == definition.description


def test_two_scores_are_drawn_against_each_other(world):
    """A kind of figure in one file: its entry, request, estimates and picture."""
    experiment = load_experiments()["trade_off"]
    request = experiment.estimation(world.scale, world.table, 0)
    kind = KINDS[request.pop("analysis")]
    table = kind.estimate(**request, runs=world.runs, evaluations=world.evaluations, partial=True)
    drawn = experiment.drawing("trade_off", world.scale, world.table)
    (axis,) = kind.plot(table, drawn).axes
    marks = {bars.get_label(): bars.lines[0].get_xydata()[0] for bars in axis.containers}
    assert set(marks) == {"base model", *(words["label"] for words in drawn["samplers"].values())}
    name, words = next(iter(drawn["samplers"].items()))
    of_sampler = table[table["sampler"] == name].set_index("metric")["value"]
    assert marks[words["label"]] == pytest.approx(
        [100 * of_sampler["pass_at_k"], 100 * of_sampler["worst_at_k"]]
    )


def test_a_decoder_that_checkpoints_are_not_evaluated_with_is_refused(world):
    mistaken = world.experiment.model_copy(update={"decoders": ["tau1.2"]})
    assert isinstance(mistaken, TrainingCurves)
    with pytest.raises(ConfigurationError, match="no checkpoint is evaluated with the decoder 'tau1.2'"):
        mistaken.estimation(world.scale, world.table, 0)


def test_a_figure_of_the_paper_that_is_two_entries_is_a_target_too():
    parts = {"fig07": ["fig07a", "fig07b"], "fig11": ["fig11a", "fig11b"]}
    assert read_plan({"scale": "mini"}).figures_in_parts == parts
