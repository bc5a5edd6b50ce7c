"""The paper's scale is planned on any machine: no GPU, no hub, no tokenizer, a few seconds."""

import resource
import socket

import pytest
import yaml

from reproduction.config import load_experiments

INFERENCE = ("fig01", "fig02", "fig09")


@pytest.mark.parametrize(("scale", "least"), [("paper", 45), ("gpu1", 20)])
def test_every_training_evaluation_and_figure_is_planned(fresh, monkeypatch, scale, least):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        figures = [name for name, e in load_experiments().items() if e.analysis == "training_curves"]
        (fresh.folder / "config.yaml").write_text(
            yaml.safe_dump({"scale": scale, "experiments": [*figures, *INFERENCE]})
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        planned = fresh.planned()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: what else runs on the machine does not count.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 15
    assert planned["train"] == planned["evaluate_run"] >= least
    assert planned["plot_figure"] == len(figures)
    assert planned["draw_study"] == planned["plot_study"] == len(INFERENCE)


@pytest.mark.parametrize(("scale", "trainings", "models"), [("paper", None, 3), ("gpu1", 1, 1)])
def test_figures_of_inference_alone_need_few_models(fresh, scale, trainings, models):
    """At gpu1 Figure 2 looks at a run, which Figure 4 needs too; nothing else is trained, no model is evaluated."""
    (fresh.folder / "config.yaml").write_text(yaml.safe_dump({"scale": scale}))
    planned = fresh.planned("--", *INFERENCE)
    assert planned["draw_study"] == 3 and planned["import_model"] == models
    assert planned.get("train") == trainings and "evaluate_model" not in planned


def test_the_smoke_target_is_planned_where_its_model_is_trained(fresh):
    planned = fresh.planned("--cores", "1", "verl_smoke")
    assert planned == {"generate_problems": 2, "train_base_model": 1, "verl_smoke": 1}
