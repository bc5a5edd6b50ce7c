"""The budget: timetables by hand, measured times before estimates, and the whole way from Snakemake's plan."""

from pathlib import Path

import pytest

from reproduction.budget import (
    Costed,
    PlannedJob,
    PlanningFailed,
    Timings,
    before,
    cost,
    duration,
    gpu_hours,
    need_of,
    plan,
    summary,
    timetable,
    with_tables,
)
from reproduction.cluster.resources import Needs, load_resources
from reproduction.config import REPOSITORY, Configuration, ConfigurationError, load_scale
from reproduction.config.runs import expand
from reproduction.fields import ROLES
from reproduction.figures import load_experiments
from reproduction.plan import read_plan
from reproduction.rehearsal import reports as preflights


def job(seconds, gpus=0, before=(), cores=1, size=0, scratch=0, freed=0):
    return Costed("rule", seconds, gpus, cores, size, scratch, freed, "estimated", tuple(before))


def seconds_on(jobs, units, of):
    return timetable(jobs, units, of=of).seconds


def test_jobs_that_fit_run_side_by_side():
    trainings = [job(100, gpus=8) for _ in range(4)]
    assert [seconds_on(trainings, units, of="gpus") for units in (8, 16, 24, 32)] == [400, 200, 200, 100]


def test_a_job_waits_for_its_inputs():
    chain = [job(10), job(100, gpus=8, before=[0]), job(20, gpus=1, before=[1]), job(100, gpus=8, before=[0])]
    assert seconds_on(chain, 16, of="gpus") == 130
    assert seconds_on(chain, 8, of="gpus") == 230


def test_jobs_without_a_gpu_do_not_wait_for_one():
    assert seconds_on([job(100, gpus=8), job(90), job(90)], 8, of="gpus") == 100


def test_the_longest_way_starts_first():
    # Two short jobs first would leave the long one for the end.
    assert seconds_on([job(1), job(1), job(10)], 2, of="cores") == 10


def test_a_job_that_does_not_fit_is_an_error():
    with pytest.raises(ConfigurationError, match="takes 8 gpus; there are 4"):
        seconds_on([job(1, gpus=8)], 4, of="gpus")


def test_the_peak_counts_what_is_there_at_one_time():
    # Two trainings with a state of 5 besides 10 checkpoints; the evaluation of each deletes 9 of them.
    jobs = [job(100, gpus=8, size=10, scratch=5) for _ in range(2)]
    jobs += [job(10, gpus=1, before=[number], size=1, freed=9) for number in range(2)]
    # The second training goes before an evaluation.
    assert timetable(jobs, 8, of="gpus").peak_bytes == 10 + 10 + 5
    assert timetable(jobs, 16, of="gpus").peak_bytes == 30
    assert summary(jobs, title="", source="", units=8)["total"]["bytes"] == 2 * (10 + 1 - 9)


def benchmark(folder, name, seconds):
    path = folder / f"results/cpu/benchmarks/{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t10\n")


def test_measured_times_are_those_of_the_same_step_model_and_rollouts(tmp_path):
    run = "model~{}/algorithm~dapo/sampler~{}/n~{}/seed~0"
    benchmark(tmp_path, "train/" + run.format("tiny", "tau0.6", 8), 10)
    benchmark(tmp_path, "train/" + run.format("tiny", "ead", 8), 20)
    benchmark(tmp_path, "train/" + run.format("tiny", "tau1.0", 8), 90)
    benchmark(tmp_path, "train/" + run.format("tiny", "ead", 16), 500)
    benchmark(tmp_path, "evaluate/" + run.format("tiny", "ead", 8), 7)
    benchmark(tmp_path, "evaluate/model~tiny", 3)
    folder = tmp_path / "results/cpu/benchmarks"
    timings = Timings(tmp_path / "results")
    assert timings.of(f"{folder}/train/{run.format('tiny', 'ead_tis', 8)}.tsv") == 20
    assert timings.of(f"{folder}/train/{run.format('tiny', 'ead_tis', 16)}.tsv") == 500
    assert timings.of(f"{folder}/train/{run.format('large', 'ead_tis', 8)}.tsv") is None
    assert timings.of(f"{folder}/evaluate/{run.format('tiny', 'ead_tis', 8)}.tsv") == 7
    assert timings.of(f"{folder}/evaluate/model~tiny.tsv") == 3
    assert timings.of(None) is None


def test_results_may_lie_below_a_folder_of_the_name_benchmarks(tmp_path):
    results = tmp_path / "benchmarks" / "results"
    run = next(iter(read_plan({"scale": "paper"}).runs.values())).name
    for step, seconds in (("train", 36000), ("evaluate", 600)):
        benchmark(results.parent, f"{step}/{run}", seconds)
    timings = Timings(results)
    assert timings.of(f"{results}/cpu/benchmarks/train/{run}.tsv") == 36000
    assert timings.of(f"{results}/cpu/benchmarks/evaluate/{run}.tsv") == 600


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (40, 600, 7500, 3 * 86400 + 4 * 3600)] == [
        "40 s",
        "10 min",
        "2 h 05 min",
        "3 d 4 h",
    ]


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("scale: mini\n")
    return Configuration(scale="mini", seeds=[0, 1])


def test_the_plan_is_what_snakemake_would_run(configuration):
    planned = plan(configuration, ["fig11a"])
    rules = [one.rule for one in planned]
    assert {rule: rules.count(rule) for rule in dict.fromkeys(rules)} == {
        "generate_problems": 2,
        "train_base_model": 1,
        "evaluate_model": 1,
        "train": 8,
        "evaluate_run": 8,
        "estimate_figure": 1,
        "plot_figure": 1,
    }
    scale = load_scale("mini")
    runs = expand(configuration, scale, load_experiments()["fig11a"])
    needs = Needs("mini", scale, load_resources())
    jobs = cost(planned, needs, runs, Path("results"))
    trainings = [one for one in jobs if one.rule == "train"]
    base = [one.rule for one in jobs].index("train_base_model")
    assert all(base in one.before for one in trainings)
    result = summary(jobs, title="", source="", units=1)
    assert result["total"]["jobs"] == 22
    assert result["schedules"][1]["seconds"] == pytest.approx(sum(one.seconds for one in jobs))
    assert result["total"]["core_hours"] == pytest.approx(sum(one.seconds for one in jobs) / 3600)


def test_a_study_and_an_import_cost_what_their_rules_ask_for():
    scale = load_scale("paper")
    needs = Needs("paper", scale, load_resources())
    jobs = [
        PlannedJob("import_model", {"imported_model": "llama-3-8b-instruct"}, (), ("model",), None, 1, 0),
        PlannedJob("draw_study", {"study": "entropy"}, ("model",), ("study",), None, 2, 1),
    ]
    imported, drawn = cost(jobs, needs, {}, Path("results"))
    assert imported.size == pytest.approx(2 * 8.03e9) and imported.gpus == 0
    need = needs.draw_study("entropy")
    assert (drawn.seconds, drawn.size) == (need.expected_s, need.expected_bytes)
    assert drawn.gpus == 1 and drawn.before == (0,)


def test_the_hours_of_the_page_are_those_of_the_budget():
    page = (REPOSITORY / "docs" / "paper_scale.md").read_text(encoding="utf-8")
    assert page == with_tables(page), "docs/paper_scale.md: run `make config`"


def test_one_gpu_plans_the_question_alone_and_it_is_payable():
    """Hours by the page's formula: a weekend and an evening; the published size of the question, 300."""
    resources = load_resources()
    for name, runs, most in (("gpu24", 3, 10), ("gpu1", 9, 55), ("paper", 3, 300)):
        scale, user = load_scale(name), Configuration(scale=name)
        planned = expand(user, scale, load_experiments()["main_question"])
        assert len(planned) == runs
        assert user.experiments == ["main_question"] or name == "paper"
        assert {run.sampler for run in planned.values()} == {"tau1.0", "ead_released", "ead_released_tis"}
        assert sum(gpu_hours(Needs(name, scale, resources), planned.values())) < most


def test_taking_the_waste_out_is_what_makes_the_difference():
    scale, resources = load_scale("paper"), load_resources()
    runs = expand(Configuration(scale="paper"), scale, load_experiments()["fig05"]).values()
    now, then = Needs("paper", scale, resources), Needs("paper", *before(scale, resources))
    # Eight GPUs both times: what is left are padding, the loop over tokens, the order of prompts, seeds per row.
    assert 1.5 < sum(gpu_hours(then, runs)) / sum(gpu_hours(now, runs)) < 4


def test_hot_runs_cost_more_and_only_they():
    scale = load_scale("paper")
    needs = Needs("paper", scale, load_resources())
    runs = expand(Configuration(scale="paper"), scale, load_experiments()["fig05"])
    seconds = {run.sampler: needs.train(run).expected_s for run in runs.values()}
    hot = seconds.pop("tau1.2")
    assert len(set(seconds.values())) == 1 and hot > 1.1 * seconds["ead"]


@pytest.mark.parametrize(
    "overrides, words",
    [
        (
            {"recipes": {"harder_problems": {"training": {"warmup_steps": 4}}}},
            "warmup_steps .4. must be at most",
        ),
        ({"roles": dict.fromkeys(ROLES)}, "roles: all are null"),
    ],
)
def test_what_the_smoke_test_cannot_have_ends_it_alone(configuration, overrides, words):
    values = Configuration(scale="mini", seeds=[0], overrides=overrides)
    plan(values, ["stale"])
    with pytest.raises(PlanningFailed, match=f"verl_smoke.yaml: .*{words}"):
        plan(values, ["verl_smoke"])


@pytest.mark.parametrize("results", ["r/", "./r", "r//s/", "~/r"])
def test_a_folder_of_results_may_be_written_in_any_way(configuration, results, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    values = Configuration(scale="mini", seeds=[0], paths={"results": results})
    assert values.paths.results == {"r//s/": "r/s", "~/r": str(tmp_path / "home/r")}.get(results, "r")
    assert len(plan(values, ["fig11a"])) > 10


def test_an_unknown_target_says_so(configuration):
    with pytest.raises(PlanningFailed, match="fig99"):
        plan(configuration, ["fig99"])


def test_a_preflight_asks_for_the_gpus_of_a_training_but_not_for_its_time():
    paper = read_plan({"scale": "paper"})
    for model, run in preflights.chosen(paper.runs.values(), paper.scale.rollouts).items():
        planned = PlannedJob("preflight_model", {"checked_model": model}, (), (), None, 1, 0)
        need, training = need_of(planned, paper.estimates, paper.runs), paper.estimates.train(run)
        assert (need.gpus, need.nodes, need.memory_mb) == (training.gpus, training.nodes, training.memory_mb)
        step_s = (training.expected_s - paper.estimates.table.startup_s) / run.training.steps
        assert need.expected_s > 3 * step_s, "the second of two steps is taken twice"
        assert need.minutes < training.minutes / 8, model


@pytest.mark.parametrize(
    ("role", "changes", "message"),
    [
        ({"train": {"gpus": 3}}, {}, "train.gpus: a mini-batch of .* responses .* does not divide among 3"),
        ({"train": {"gpus": 0}}, {}, "train.gpus: found 0, verl trains on 1 or more"),
        ({}, {"tensor_parallel": 4}, "train.gpus: 2 GPUs, of which each engine takes 4"),
        ({}, {"tensor_parallel": 2}, "evaluate.gpus: found 1; the engine of an evaluation takes 2"),
        ({"evaluate": {"gpus": 8}}, {}, "evaluate.gpus: found 8; the engine of an evaluation takes 1"),
    ],
)
def test_gpus_that_verl_or_vllm_cannot_use_are_refused_before_the_first_job(role, changes, message):
    scale, table = load_scale("paper", {"verl": changes} if changes else {}), load_resources()
    roles = table.scales["paper"].roles
    asked = {
        kind: getattr(roles["llama_1b"], kind).model_copy(update=change) for kind, change in role.items()
    }
    roles["llama_1b"] = roles["llama_1b"].model_copy(update=asked)
    with pytest.raises(ConfigurationError, match=f"resources.yaml: scales.paper.roles.llama_1b.{message}"):
        Needs("paper", scale, table)


def test_a_preflight_that_failed_early_is_no_measure_of_others(tmp_path):
    paper = read_plan({"scale": "paper"})
    file = tmp_path / "results" / "paper" / "benchmarks" / "preflight" / "llama-3.2-1b-instruct.tsv"
    file.parent.mkdir(parents=True)
    file.write_text("s\n7.0\n")
    models = ("llama-3.2-1b-instruct", "qwen3-8b-base")
    planned = [
        PlannedJob("preflight_model", {"checked_model": m}, (), (m,), str(file.with_name(f"{m}.tsv")), 1, 0)
        for m in models
    ]
    assert all(
        job.source == "estimated" and job.seconds > 600
        for job in cost(planned, paper.estimates, paper.runs, tmp_path / "results")
    )
    study = file.parents[1] / "inference" / "entropy.tsv"
    study.parent.mkdir()
    study.write_text("s\n500.0\n")
    timings = Timings(tmp_path / "results")
    assert timings.of(str(study)) == 500 and timings.of(str(study.with_name("forking.tsv"))) is None
