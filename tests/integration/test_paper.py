"""The whole paper at the mini scale: every run, every figure. `make test-seams` runs it; it takes minutes."""

import pandas as pd
import pytest
from PIL import Image

from reproduction.config import FIGURES, Configuration, load_scale
from reproduction.config.runs import expand
from reproduction.figures import TrainingCurves, load_experiments

EXPERIMENTS = {name: experiment for name, experiment in load_experiments().items() if name in FIGURES}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_figure_of_the_paper_is_made(whole_paper, name):
    folder = whole_paper.folder / "reports/mini"
    if EXPERIMENTS[name].analysis == "hyperparameters":
        assert len(pd.read_csv(folder / f"tables/{name}.csv")) == len(EXPERIMENTS[name].paper)
        return
    assert (folder / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(folder / f"figures/{name}.png") as picture:
        assert 1000 < picture.width < 1400 and picture.height > 300
    assert len(pd.read_csv(folder / f"figures/{name}.csv"))


@pytest.mark.parametrize(
    "name", [name for name, experiment in EXPERIMENTS.items() if isinstance(experiment, TrainingCurves)]
)
def test_a_figure_holds_every_cell_metric_and_decoder(whole_paper, name):
    experiment = EXPERIMENTS[name]
    drawn = pd.read_csv(whole_paper.folder / f"reports/mini/figures/{name}.csv")
    runs = expand(Configuration(scale="mini"), load_scale("mini"), experiment)
    assert set(drawn["cell"]) == {run.cell for run in runs.values()}
    assert set(drawn["metric"]) == {*experiment.metrics, *experiment.tabulated}
    assert set(drawn["status"]) <= {"finished", "diverged"}
    banded = drawn[drawn["low"].notna()]
    assert (banded["low"] <= banded["value"]).all() and (banded["value"] <= banded["high"]).all()
    per_curve = drawn.groupby(["cell", "metric", "decoder"], dropna=False).size()
    assert (per_curve >= 3).all()


def test_a_run_that_figures_share_is_trained_once(whole_paper):
    scale = load_scale("mini")
    trained = {
        run
        for experiment in EXPERIMENTS.values()
        for run in expand(Configuration(scale="mini"), scale, experiment)
    }
    manifests = (whole_paper.folder / "results/mini/runs").rglob("manifest.json")
    assert {
        str(path.parent.relative_to(whole_paper.folder / "results/mini/runs")) for path in manifests
    } == trained


def test_a_second_run_has_nothing_to_do(whole_paper):
    assert whole_paper.planned() == {}


def test_a_figure_so_far_starts_no_training(whole_paper):
    assert set(whole_paper.planned("--", "fig04_so_far")) == {
        "estimate_figure",
        "plot_figure",
        "fig04_so_far",
    }
