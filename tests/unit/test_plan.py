"""What a plan decides from all tables together: which evaluation decoders a run needs."""

import shutil

import pytest
import yaml

from reproduction.claims import decoders_read
from reproduction.config import WORKFLOW
from reproduction.plan import read_plan


@pytest.mark.parametrize("scale", ["cpu", "mini", "gpu1", "gpu24", "paper"])
def test_a_run_is_evaluated_with_what_figures_claims_and_deviations_read(scale):
    plan = read_plan({"scale": scale, "seeds": [0]})
    drawn = {}
    for name, run in plan.runs.items():
        evaluation = plan.evaluation_of(run)
        drawn[name] = {*evaluation.decoders, *evaluation.final_decoders}
        assert evaluation.decoders[0] == plan.scale.evaluation_of(run.model).decoders[0]
    for figure, runs in plan.runs_of.items():
        experiment = plan.experiments[figure]
        if experiment.reads_evaluations() and not experiment.own_rules:
            asked = experiment.estimation(plan.scale, runs, 0).get("decoders", [])
            assert all(set(asked) <= drawn[name] for name in runs), figure
    claims = list(decoders_read(plan.claims, plan.configuration, plan.scale))
    assert claims or scale != "cpu"
    assert all(decoder in drawn[name] for name, decoder in claims if name in drawn)


def test_most_runs_are_evaluated_with_one_decoder():
    plan = read_plan({"scale": "cpu", "seeds": [0]})
    others = [run for name, run in plan.runs_of["fig10"].items() if name not in plan.runs_of["fig04"]]
    assert len(others) == 4
    for evaluation in map(plan.evaluation_of, others):
        assert (evaluation.decoders, evaluation.final_decoders) == (["tau1.0"], [])
    of_fig04 = [plan.evaluation_of(run) for run in plan.runs_of["fig04"].values()]
    assert all(evaluation == plan.scale.evaluation for evaluation in of_fig04)
    # Claims C03 to C06 have a greedy reading; C06 is on the runs of Figure 5.
    greedy = [plan.evaluation_of(run).decoders for run in plan.runs_of["fig05"].values()]
    assert ["tau1.0", "greedy"] in greedy


def test_a_decoder_that_a_figure_names_is_drawn_for_its_runs_alone(tmp_path):
    shutil.copytree(WORKFLOW, tmp_path / "workflow", ignore=shutil.ignore_patterns(".snakemake"))
    entry = {
        "title": "At a low temperature",
        "section": "none",
        "analysis": "training_curves",
        "runs": [{"role": ["qwen_1_5b"], "algorithm": ["grpo"], "sampler": ["ead"]}],
        "metrics": ["pass_at_k"],
        "decoders": ["tau0.6"],
    }
    with (tmp_path / "workflow" / "experiments.yaml").open("a") as table:
        table.write("\n" + yaml.safe_dump({"low": entry}))
    plan = read_plan({"scale": "cpu"}, workflow=tmp_path / "workflow")
    (run,) = plan.runs_of["low"].values()
    assert plan.evaluation_of(run).decoders == ["tau1.0", "tau0.6"]
    others = [other for other in plan.runs.values() if other.algorithm == "grpo" and other != run]
    assert others and all(plan.evaluation_of(other).decoders == ["tau1.0"] for other in others)
