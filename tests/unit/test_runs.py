"""The run table: names, hashes, what a change touches."""

import copy
import os

import pytest

from reproduction import config
from reproduction.config import Configuration, ConfigurationError, Scale, load_scale
from reproduction.config.runs import expand, expand_all, named, resolve
from reproduction.config.scale import ScheduleUnits
from reproduction.config.tables import convert_samplers
from reproduction.figures import figures_of, load_experiments
from reproduction.versions import code_version


@pytest.fixture(scope="module")
def values():
    return config.scale_values("cpu", {"roles": {"qwen_1_5b": None}})


def hashes(values, **choices):
    scale = config.validate(Scale, values, "cpu.yaml")
    runs = expand(Configuration(**choices), scale, load_experiments()["fig04"])
    return {name: run.hash for name, run in runs.items()}


def changed(values, change):
    other = copy.deepcopy(values)
    change(other)
    before, after = hashes(values), hashes(other)
    assert before.keys() == after.keys()
    return {name.split("/")[2].removeprefix("sampler~") for name in before if before[name] != after[name]}


EVERY_SAMPLER = {"tau0.6", "tau1.0", "tau1.2", "ead", "ead_tis", "ead_released", "ead_released_tis"}


def test_one_number_of_one_sampler_changes_that_cell_only(values):
    def change(scale):
        scale["samplers"]["ead"]["schedule"]["tau_max"] = 1.3

    assert changed(values, change) == {"ead"}


def test_the_cap_of_tis_changes_the_cell_with_tis_only(values):
    assert changed(values, lambda scale: scale["samplers"]["ead_tis"]["importance"].update(cap=3.0)) == {
        "ead_tis"
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda scale: scale["training"].update(steps=50),
        lambda scale: scale["models"]["tiny"].update(skill=0.6),
        lambda scale: scale["datasets"]["grid_train"].update(test_share=0.3),
        lambda scale: scale["learning_rates"].update({4: 1e-4}),
    ],
)
def test_what_every_run_depends_on_changes_every_run(values, change):
    assert changed(values, change) == EVERY_SAMPLER


@pytest.mark.parametrize(
    "change",
    [
        lambda scale: scale["evaluation"].update(samples=8),
        lambda scale: scale["learning_rates"].update({16: 1e-3}),
        lambda scale: scale["decoders"]["greedy"].update(label="other"),
        lambda scale: scale.update(description="other"),
        lambda scale: scale["samplers"]["ead"].update(label="other"),
        lambda scale: scale["samplers"]["rev_ead"]["schedule"].update(tau_max=2.0),
    ],
)
def test_what_no_run_depends_on_changes_none(values, change):
    assert changed(values, change) == set()


def test_a_seed_more_keeps_the_runs_that_exist(values):
    one, two = hashes(values, seeds=[0]), hashes(values, seeds=[0, 1])
    assert one.items() <= two.items()
    assert len(two) == 2 * len(one) == len(set(two.values()))


def test_a_run_is_named_by_its_axes(values):
    scale = config.validate(Scale, values, "cpu.yaml")
    row = {"role": "llama_1b", "algorithm": "dapo", "sampler": "ead", "rollouts": None, "seed": 3}
    run = resolve(Configuration(), scale, **row)
    assert run.name == "model~tiny/algorithm~dapo/sampler~ead/n~4/seed~3"
    assert run.cell == "model~tiny/algorithm~dapo/sampler~ead/n~4"
    assert list(figures_of(run, "cpu"))[0] == "fig04"


def test_figures_show_a_run_whose_role_got_another_model(values):
    """Its name differs from that of the scale as it stands, and MLflow files it with the same figures."""
    overrides = {
        "roles": {"qwen_7b": {"model": "larger"}},
        "models": {"larger": {**values["models"]["tiny"], "mlp_size": 256}},
    }
    scale = config.load_scale("cpu", overrides)
    row = {"role": "qwen_7b", "algorithm": "dapo", "sampler": "ead", "rollouts": None, "seed": 0}
    run = resolve(Configuration(), scale, **row)
    assert run.model == "larger"
    assert list(figures_of(run, "cpu", overrides)) == ["fig05", "fig14"]
    assert not figures_of(run, "cpu")


@pytest.mark.parametrize(
    ("axis", "value", "message"),
    [
        ("role", "huge", "unknown role 'huge'"),
        ("algorithm", "dappo", r"unknown algorithm 'dappo'.*did you mean 'dapo'"),
        ("sampler", "ead_tsi", r"unknown sampler 'ead_tsi'.*did you mean 'ead_tis'"),
        ("rollouts", 7, "no learning rate for 7 rollouts"),
    ],
)
def test_an_unknown_name_is_explained(values, axis, value, message):
    scale = config.validate(Scale, values, "cpu.yaml")
    row = {"role": "llama_1b", "algorithm": "dapo", "sampler": "ead", "rollouts": None, "seed": 0}
    with pytest.raises(ConfigurationError, match=message):
        resolve(Configuration(), scale, **(row | {axis: value}))


def test_decay_rates_are_the_papers_in_the_units_of_the_scale(values):
    scale = config.validate(Scale, values, "cpu.yaml")
    annealed = scale.samplers["ead"].schedule
    length, steps = scale.schedule_units.length, scale.schedule_units.steps
    assert annealed["d0"] == pytest.approx(25 * length)
    assert annealed["alpha"] == pytest.approx(5 * length / steps, abs=1e-6)
    assert annealed["d_max"] == pytest.approx(40000 * length)
    assert annealed["start"] == 4 and annealed["tau_max"] == 1.2


def test_a_role_lays_its_values_over_annealed_schedules_only():
    scale = config.load_scale("cpu")
    runs = expand(Configuration(), scale, load_experiments()["fig05"])
    schedules = {run.sampler: run.sampler_definition.schedule for run in runs.values()}
    assert schedules["ead"]["tau_min"] == schedules["ead_released"]["tau_min"] == 0.8
    assert schedules["tau0.6"] == {"kind": "fixed", "tau": 0.6}


def test_a_recipe_has_its_own_training_and_evaluation():
    scale = config.load_scale("cpu")
    runs = expand(Configuration(), scale, load_experiments()["fig12"])
    assert {run.training.dataset for run in runs.values()} == {"large_grid_train"}
    assert {run.training.steps for run in runs.values()} == {scale.training.steps}
    model = next(iter(runs.values())).model
    assert scale.evaluation_of(model).dataset == "large_grid_test"
    assert scale.evaluation_of("tiny").dataset == "grid_test"


def test_figures_share_their_runs():
    scale, experiments = config.load_scale("cpu"), load_experiments()
    tables = {name: expand(Configuration(), scale, experiment) for name, experiment in experiments.items()}
    assert (
        tables["fig06"].keys() == tables["fig04"].keys() and tables["fig14"].keys() < tables["fig05"].keys()
    )
    merged = {}
    for table in tables.values():
        for name, run in table.items():
            assert merged.setdefault(name, run) == run


def test_a_role_that_the_scale_lacks_has_no_runs_there(values):
    scale = config.validate(Scale, values, "cpu.yaml")
    runs = expand(Configuration(), scale, load_experiments()["fig04"])
    assert {run.model for run in runs.values()} == {"tiny"}


def test_a_git_that_is_killed_is_not_taken_for_a_folder_without_one(tmp_path, monkeypatch):
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    code_version.cache_clear()
    with pytest.raises(RuntimeError, match="signal 9"):
        code_version()
    program.write_text("#!/bin/sh\nexit 128\n")
    assert code_version() == {"commit": "unknown", "modified": False}
    code_version.cache_clear()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("sampler~ead/n~4", "model~tiny/algorithm~dapo/sampler~ead/n~4/seed~0"),
        ("seed~3/algorithm~gspo", "model~tiny/algorithm~gspo/sampler~ead/n~4/seed~3"),
        ("model~hard/n~8", "model~hard/algorithm~dapo/sampler~ead/n~8/seed~0"),
        (
            "model~small/algorithm~grpo/sampler~tau1.0/n~16/seed~1/",
            "model~small/algorithm~grpo/sampler~tau1.0/n~16/seed~1",
        ),
    ],
)
def test_a_run_is_found_by_parts_of_its_name(name, found):
    assert named(Configuration(scale="mini"), load_scale("mini"), name).name == found


def test_a_run_found_by_its_name_is_the_one_that_a_figure_shows():
    configuration, scale = Configuration(scale="mini"), load_scale("mini")
    for experiment in load_experiments().values():
        for name, run in expand(configuration, scale, experiment).items():
            assert named(configuration, scale, name).hash == run.hash


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sampler~eda", "unknown sampler 'eda' (did you mean 'ead'?); known: tau0.6"),
        ("algorithm~gpso", "unknown algorithm 'gpso' (did you mean 'grpo' or 'gspo'?)"),
        ("model~tniy", "unknown model 'tniy' (did you mean 'tiny'?); known: tiny, small, medium, hard"),
        (
            "smapler~ead",
            "unknown axis 'smapler' (did you mean 'sampler'?); known: model, algorithm, sampler, n, seed",
        ),
        ("ead", "'ead' is no part of a run's name; write axis~value, as sampler~ead"),
        ("", "'' is no part of a run's name"),
        ("n~", "'n~' is no part of a run's name"),
        ("n~4/n~8", "n stands there more than once"),
        ("n~5", "no learning rate for n = 5; known: 4, 8, 16 (learning_rates)"),
        ("n~-4", "n must be a whole number, found '-4'"),
        ("seed~one", "seed must be a whole number, found 'one'"),
    ],
)
def test_a_mistake_in_a_name_is_explained(name, words):
    with pytest.raises(ConfigurationError) as caught:
        named(Configuration(scale="mini"), load_scale("mini"), name)
    assert words in str(caught.value)


def test_seeds_by_experiment_are_those_of_every_experiment_that_shows_a_cell():
    """A cell of Figure 4 has its three seeds in every figure; what only others show has one."""
    choices = Configuration(scale="mini", seeds=[4], seeds_by_experiment={"fig04": [0, 1], "fig10": [1, 2]})
    tables = expand_all(choices, load_scale("mini"), load_experiments())

    def seeds(figure, sampler, algorithm="dapo", n=4):
        return {
            run.seed
            for run in tables[figure].values()
            if (run.sampler, run.algorithm, run.n) == (sampler, algorithm, n) and run.model == "small"
        }

    # fig10 shows four of fig04's samplers; fig06, fig07a, fig11a and the deviations ask for seed 4 besides.
    for figure in ("fig04", "fig06", "fig10", "deviations"):
        assert seeds(figure, "tau1.0") == {0, 1, 2, 4}
    assert seeds("fig04", "ead_tis") == {0, 1, 4} and seeds("fig10", "rev_ead") == {1, 2, 4}
    assert seeds("fig07b", "tau1.0", n=16) == {4} and seeds("fig08", "tau1.0", "grpo") == {4}
    assert {run.seed for run in tables["fig02"].values()} == {4}  # a study looks at one training


def test_the_cpu_scale_plans_three_seeds_for_figure_4_and_one_elsewhere():
    planned = Configuration(scale="cpu")
    assert (planned.seeds, planned.seeds_by_experiment) == ([0], {"fig04": [0, 1, 2]})
    tables = expand_all(planned, load_scale("cpu"), load_experiments())
    assert {run.seed for run in tables["fig04"].values()} == {0, 1, 2} and len(tables["fig04"]) == 2 * 7 * 3
    others = {
        name: run for table in tables.values() for name, run in table.items() if name not in tables["fig04"]
    }
    assert {run.seed for run in others.values()} == {0}
    assert Configuration(scale="mini").seeds_by_experiment == {}


def test_seeds_of_config_yaml_are_those_of_every_experiment():
    asked = Configuration(scale="cpu", seeds=[3, 7])
    assert asked.seeds_by_experiment == {} and asked.seeds_of("fig04") == asked.seeds_of("fig05") == [3, 7]
    tables = expand_all(asked, load_scale("cpu"), load_experiments())
    assert all(
        {run.seed for run in table.values()} == {3, 7} for name, table in tables.items() if "fig04" in name
    )
    # What a job is given is read back as it was.
    for choices in (asked, Configuration(scale="cpu"), Configuration(scale="gpu1")):
        again = Configuration(**choices.choices)
        assert (again.seeds, again.seeds_by_experiment) == (choices.seeds, choices.seeds_by_experiment)


@pytest.mark.parametrize("start", [0, 200])
def test_a_start_of_samplers_yaml_that_no_scale_would_keep_is_refused(start):
    units = ScheduleUnits(length=0.04, steps=0.2, start=4)
    own = {"early": {"label": "E", "schedule": {"kind": "annealed", "start": start}}}
    with pytest.raises(ConfigurationError, match=f"early.schedule.start: found {start}, allowed: 10"):
        convert_samplers(own, units)
    own["early"]["schedule"]["start"] = 10
    assert convert_samplers(own, units)["early"]["schedule"]["start"] == 4
