"""What a training records is stated once: both engines are held to it, and what is asked for is checked before."""

import pytest

from reproduction.claims.evidence import Evidence, MissingEvidence, ResultsFolder
from reproduction.config import Configuration, ConfigurationError, load_scale
from reproduction.config.runs import expand
from reproduction.figures import load_experiments
from reproduction.figures.analyses import TRAINING_METRICS
from reproduction.training import contract


def test_a_step_that_is_not_as_promised_ends_the_training():
    values = dict.fromkeys(("step", *contract.columns("verl")), 0.0)
    contract.check("verl", values)
    with pytest.raises(RuntimeError, match=r"recorded \['surprise'\].* did not record \['loss'\]"):
        contract.check("verl", {"surprise" if name == "loss" else name: 0.0 for name in values})


def requested(scale_name, metrics):
    """The estimation request of Figure 4 with other metrics."""
    scale, experiment = load_scale(scale_name), load_experiments()["fig04"]
    runs = expand(Configuration(scale=scale_name), scale, experiment)
    other = experiment.model_copy(update={"metrics": metrics, "tabulated": []})
    return other.estimation(scale, runs, 0)


def test_a_figure_of_what_verl_never_records_is_refused_before_a_run_starts():
    """It was accepted, and its job failed after the trainings."""
    assert requested("mini", ["policy_ratio_max"])["metric_names"] == ["policy_ratio_max"]
    with pytest.raises(
        ConfigurationError, match="verl does not record 'policy_ratio_max'; allowed .*gradient_norm"
    ):
        requested("gpu1", ["gradient_norm", "policy_ratio_max"])


def test_every_figure_of_the_table_can_be_drawn_from_either_engine():
    for name, experiment in load_experiments().items():
        for scale_name in ("cpu", "gpu1", "paper"):
            asked = [*getattr(experiment, "metrics", []), *getattr(experiment, "tabulated", [])]
            assert not contract.lacking(load_scale(scale_name).engine, asked), name


def test_a_claim_about_what_verl_never_records_has_not_run(tmp_path):
    """It ended the verdicts of a whole scale with a missing column."""
    scale = load_scale("gpu1")
    evidence = Evidence(ResultsFolder(tmp_path), Configuration(scale="gpu1"), scale)
    runs = evidence.cell(next(iter(scale.roles)), "dapo", "ead", None)
    with pytest.raises(
        MissingEvidence, match="sampling_cpu_seconds_per_token, which the engine verl does not"
    ):
        evidence.training(runs, contract.PER_TOKEN, "run")


def test_what_figures_draw_is_recorded():
    assert set(TRAINING_METRICS) <= set(contract.RECORDED)
    assert set(contract.BY_PROMPT) == {name for name, table in TRAINING_METRICS.items() if table == "groups"}
