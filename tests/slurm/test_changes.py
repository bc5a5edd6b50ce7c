"""What a change runs again with the profile, and how long it takes to say so."""

import pytest

from conftest import FIGURE
from reproduction.config import REPOSITORY
from reproduction.figures import load_experiments

CONFIG = ("scale=mini", f"experiments=[{FIGURE}]")
# The report states the configuration, so any change of it writes the report again.
REPORT = {"write_report": 1, "export_provenance": 1, "all": 1}
DRAWN = {"estimate_figure": 1, "plot_figure": 1, "estimate_cost": 1, "plot_cost": 1}
AFTER_TRAINING = {"evaluate_run": 4, "ingest_runs": 1, **DRAWN, **REPORT}


def planned(checkout, *config):
    """Return rule -> number of jobs of a dry run; a value in ``config`` takes the place of its default here."""
    done = checkout.run("--dry-run", "--quiet", "rules", config=(*CONFIG, *config))
    out = done.stdout + done.stderr
    if "Nothing to be done" in out:
        return {}
    table = out[out.rindex("Job stats:") :].splitlines()[3:]
    table = table[: next(number for number, line in enumerate(table) if line.startswith("total"))]
    return {rule: int(count) for rule, count in (line.split() for line in table)}


def test_a_changed_learning_rate_runs_exactly_its_cells_again(finished):
    # All runs of the figure have four rollouts per prompt.
    assert planned(finished, "overrides={learning_rates: {4: 1.0e-3}}") == {"train": 4, **AFTER_TRAINING}
    assert planned(finished, "overrides={learning_rates: {8: 1.0e-3}}") == REPORT


def test_a_changed_sampler_runs_its_cell_again(finished):
    change = "overrides={samplers: {ead: {schedule: {tau_max: 1.3}}}}"
    assert planned(finished, change) == {"train": 1, **AFTER_TRAINING, "evaluate_run": 1}


def test_a_seed_more_trains_that_seed_only(finished):
    more = planned(finished, "seeds=[0,1]")
    assert (more["train"], more["evaluate_run"]) == (4, 4)
    assert "train_base_model" not in more


@pytest.fixture
def edited(finished):
    """A script of the finished checkout, edited for one test: a copy elsewhere would have other inputs."""
    path = finished.folder / "scripts/reproduction/engines/inprocess.py"
    before = path.read_bytes()
    path.write_bytes(before + b"\n# An edited comment.\n")
    yield path.relative_to(finished.folder / "scripts")
    path.write_bytes(before)


def test_runs_of_the_same_code_are_not_stale(finished):
    assert "0 of 4 runs were made by other code." in finished.run("stale", config=CONFIG).stdout


def test_an_edited_script_runs_nothing_again_and_its_runs_are_listed(finished, edited):
    assert planned(finished) == {}
    listed = finished.run("stale", config=CONFIG).stdout
    assert "4 of 4 runs were made by other code." in listed
    assert sum(line.endswith(f": {edited}") for line in listed.splitlines()) == 4


def test_runs_are_targets_by_parts_of_their_names(finished):
    out = finished.run(
        "--dry-run", "runs", config=("scale=mini", "select=sampler~ead_tis/model~small")
    ).stdout
    assert "sampler~ead_tis/n~4/seed~0" in out and "sampler~ead/" not in out
    done = finished.run("--dry-run", "runs", config=("scale=mini", "select=sampler~eda"), check=False)
    assert done.returncode != 0 and "did you mean 'sampler~ead'" in done.stdout + done.stderr


def test_the_budget_takes_measured_times_where_there_are_some(finished):
    out = finished.run("budget", config=("scale=mini", "targets=fig11b", "gpus=4")).stdout
    trainings = next(line for line in out.splitlines() if line.startswith("train "))
    # Two of the three runs are new, and trainings of this model were timed.
    assert trainings.split()[1] == "2" and trainings.endswith("2 of 2")
    assert any(line.split()[:1] == ["4"] for line in out[out.index("GPUs  wall time") :].splitlines())


@pytest.mark.parametrize(
    "scale", sorted(path.stem for path in (REPOSITORY / "workflow/scales").glob("*.yaml"))
)
def test_a_dry_run_plans_everything_at_each_scale(checkout, scale):
    trained = [name for name, figure in load_experiments().items() if figure.analysis == "training_curves"]
    figures = ",".join(trained)
    done = checkout.run(
        "--dry-run", "--quiet", "rules", config=(f"scale={scale}", f"experiments=[{figures}]")
    )
    assert "train" in done.stdout
