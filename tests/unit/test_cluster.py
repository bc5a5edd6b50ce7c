"""What jobs ask for: from the resource table and the site file to the names that Slurm's executor knows."""

import os
import re
import subprocess

import pytest
import yaml

from reproduction.cluster import ray, resources, slurm
from reproduction.cluster.devices import Device
from reproduction.cluster.resources import Need, Needs, load_resources, too_few_gpus
from reproduction.cluster.slurm import Site, load_site, slurm_resources
from reproduction.config import REPOSITORY, Configuration, ConfigurationError, load_scale
from reproduction.config.runs import expand
from reproduction.data.table import load_datasets
from reproduction.figures import load_experiments
from reproduction.models.pretrained import load_models

SCALES = sorted(path.stem for path in (REPOSITORY / "workflow/scales").glob("*.yaml"))
TRAINING = Need(gpus=8, cpus=64, memory_mb=400_000, minutes=600, expected_s=20_000)


@pytest.mark.parametrize("name", SCALES)
def test_every_run_of_every_scale_has_its_needs(name):
    scale = load_scale(name)
    needs = Needs(name, scale, load_resources())
    for experiment in load_experiments().values():
        for run in expand(Configuration(scale=name), scale, experiment).values():
            need = needs.train(run)
            assert need.minutes * 60 >= need.expected_s
            assert needs.evaluate_run(run).expected_s > needs.evaluate_model(run.model).expected_s


def test_a_training_takes_its_tokens_over_the_rates():
    scale = load_scale("mini")
    resources = load_resources()
    run = next(iter(expand(Configuration(scale="mini"), scale, load_experiments()["fig11a"]).values()))
    table = resources.scales["mini"]
    model = table.roles["qwen_1_5b"]
    tokens = 4 * 8 * 4 * 64 * table.response_share  # steps, prompts, rollouts, longest response
    seconds = tokens / model.sampling_tokens_per_s + tokens / model.update_tokens_per_s
    need = Needs("mini", scale, resources).train(run)
    assert need.expected_s == pytest.approx(table.startup_s + seconds)
    checkpoints, state = 2 * table.checkpoint_bytes_per_parameter, table.state_bytes_per_parameter
    assert need.expected_bytes == round(model.parameters * (checkpoints + state))


@pytest.mark.parametrize("name", ["mini", "gpu1"])
def test_a_greedy_decoder_is_drawn_once_for_all_samples_of_a_problem(name):
    scale, resources = load_scale(name), load_resources()
    model = next(iter(scale.roles.values())).model

    def seconds(**changes):
        evaluation = scale.evaluation_of(model).model_copy(update={"final_decoders": []} | changes)
        changed = scale.model_copy(update={"evaluation": evaluation, "recipes": {}, "roles": scale.roles})
        need = Needs(name, changed, resources).evaluate_model(model)
        return need.expected_s - resources.scales[name].startup_s

    assert seconds(decoders=["greedy"]) == pytest.approx(seconds(decoders=["tau1.0"], samples=1))
    both = seconds(decoders=["tau1.0"]) + seconds(decoders=["greedy"])
    assert seconds(decoders=["tau1.0", "greedy"]) == pytest.approx(both)


@pytest.mark.parametrize("name", ["gpu1", "paper"])
def test_a_study_asks_for_one_gpu_and_its_model_is_in_the_tables(name):
    scale = load_scale(name)
    needs, published = Needs(name, scale, load_resources()), load_models()
    for study in ("entropy", "forking", "majority"):
        need = needs.draw_study(study)
        assert (need.gpus, need.nodes) == (1, 1) and need.minutes * 60 >= need.expected_s
        definition = scale.study(study)
        model = definition.model or scale.roles[definition.role].model
        assert scale.models[model].source in published
        assert scale.datasets[definition.dataset].source in load_datasets()
        # What is published is imported in 2 bytes per parameter: no size of another model.
        assert 1e9 < needs.import_model(model).expected_bytes < 2e10


def test_a_fork_takes_what_is_left_of_its_response():
    scale = load_scale("paper", {"inference": {"forking": {"positions": [0, 1024], "branches": 16}}})
    table = load_resources().scales["paper"]
    mean = table.response_share * 4096
    name = "deepseek-r1-distill-llama-8b"
    needs = Needs("paper", scale, load_resources())
    # 200 responses and their branches; cut at their start, and at a quarter of the limit.
    sampling_s = needs._sampling_s(name, table.models[name], 200 * (1 + 16 * (1 + 0.75)), mean, 4096)
    need = needs.draw_study("forking")
    assert need.expected_s == pytest.approx(table.startup_s + sampling_s)
    # Every branch is kept with the text before it, and the responses with their tokens.
    assert need.expected_bytes == round(200 * mean * (resources.BYTES_PER_TOKEN * (1 + 16 * 2) + 4))


def test_studies_in_process_ask_for_no_gpu():
    needs = Needs("cpu", load_scale("cpu"), load_resources())
    assert needs.draw_study("real_lm_forking") == load_resources().rules["draw_study"]
    assert needs.import_model("smollm2") == load_resources().rules["import_model"]


def test_a_studied_model_without_an_entry_is_named():
    table = load_resources()
    paper = table.scales["paper"].model_copy(update={"models": {}})
    resources = table.model_copy(update={"scales": {**table.scales, "paper": paper}})
    with pytest.raises(
        ConfigurationError,
        match="scales.paper.models: no entry for 'llama-3-8b.*inference.entropy draws from",
    ):
        Needs("paper", load_scale("paper"), resources)


def test_twice_the_gpus_halve_what_follows_the_start():
    one, two = resources.Allocation(gpus=8, memory_mb=1), resources.Allocation(gpus=8, nodes=2, memory_mb=1)
    assert (one.units, two.units) == (8, 16)


def test_an_empty_site_file_asks_for_nothing_but_the_job():
    asked = {key: value for key, value in slurm_resources(TRAINING, Site()).items() if value is not None}
    assert asked == {
        "mem_mb": 400_000,
        "runtime": 600,
        "cpus_per_task": 64,
        "gpu": 8,
        "nodes": 1,
        "gpus_per_node": 8,
    }
    assert slurm_resources(TRAINING, Site()).keys() == set(slurm.SLURM_RESOURCES)


def test_a_site_names_account_partition_and_gpus():
    site = Site.model_validate(
        {
            "account": "ab1",
            "partitions": {"cpu": "batch", "gpu": "h100"},
            "gpu": {"form": "gpus", "model": "h100"},
        }
    )
    asked = slurm_resources(TRAINING, site)
    assert (asked["slurm_account"], asked["slurm_partition"]) == ("ab1", "h100")
    assert (asked["gpu"], asked["gpu_model"], asked["gres"]) == (8, "h100", None)
    small = slurm_resources(Need(memory_mb=1, minutes=1, expected_s=1), site)
    assert (small["slurm_partition"], small["gpu"], small["gpu_model"]) == ("batch", None, None)


def test_gpus_as_generic_resources_are_counted_on_each_node():
    site = Site.model_validate({"gpu": {"form": "gres", "model": "h100"}})
    asked = slurm_resources(TRAINING.model_copy(update={"nodes": 2}), site)
    assert (asked["gres"], asked["gpu"], asked["gpu_model"]) == ("gpu:h100:8", None, None)
    assert (asked["nodes"], asked["tasks"], asked["mpi"]) == (2, 2, "srun")


TIME = "slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-29T06:00:00 DUE TO TIME LIMIT ***"
MEMORY = [  # without cgroups; with them, as older and newer versions of Slurm say it
    "slurmstepd: error: StepId=7.0 exceeded memory limit (2147483648 > 1258291200), being killed",
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch. Some of your processes may have been killed",
    "slurmstepd: error: Detected 2 oom_kill events in StepId=7.0. Some of the step tasks have been OOM Killed.",
]
OTHER = [
    "slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-29T06:00:00 ***",
    "slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-29T06:00:00 DUE TO NODE FAILURE ***",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",  # of a GPU: no host memory helps
    "",
]


def logged(folder, *texts):
    """The logs of a job's attempts, in order."""
    folder.mkdir(exist_ok=True)
    for place, text in enumerate(texts):
        path = folder / f"{100 - place}.log"  # Slurm's numbers start again at some time
        path.write_text(f"Building DAG of jobs...\n{text}\n")
        os.utime(path, (place, place))
    return folder


@pytest.mark.parametrize("text", MEMORY)
def test_memory_grows_after_each_kill_for_memory_and_time_does_not(tmp_path, text):
    logs = logged(tmp_path, text, text)
    grown = [slurm.growth_after(logs, attempt) for attempt in (1, 3)]
    assert grown == [slurm.Growth(), slurm.Growth(memory=3)]


def test_time_grows_after_each_time_limit_and_memory_does_not(tmp_path):
    assert slurm.growth_after(logged(tmp_path, TIME), 2) == slurm.Growth(minutes=2)
    assert slurm.growth_after(logged(tmp_path, TIME, MEMORY[0], TIME), 4) == slurm.Growth(minutes=3, memory=2)


@pytest.mark.parametrize("text", OTHER)
def test_a_job_that_ended_otherwise_is_tried_again_as_it_was(tmp_path, text):
    assert slurm.growth_after(logged(tmp_path, text), 2) == slurm.Growth()


def test_logs_of_an_earlier_workflow_do_not_count(tmp_path):
    logs = logged(tmp_path, MEMORY[0], MEMORY[0], TIME)  # only the last is of this one's first attempt
    assert slurm.growth_after(logs, 2) == slurm.Growth(minutes=2)
    assert slurm.growth_after(tmp_path / "nothing", 2) == slurm.Growth()


def test_a_retry_asks_for_more_up_to_the_limits_of_the_site():
    site = Site.model_validate({"limits": {"minutes": 1440, "memory_mb": 1_000_000}})
    asked = [slurm_resources(TRAINING, site, slurm.Growth(times, times)) for times in (1, 2, 3)]
    assert [one["runtime"] for one in asked] == [600, 1200, 1440]
    assert [one["mem_mb"] for one in asked] == [400_000, 800_000, 1_000_000]


def test_the_commented_example_of_the_site_file_is_valid(tmp_path):
    text = slurm.SITE_FILE.read_text()
    assert load_site() == Site(), "the committed site file must name no site"
    example = [line[4:] for line in text.splitlines() if line.startswith("#   ")]
    site = Site.model_validate(yaml.safe_load("\n".join(example)))
    assert site.gpu.model == "h100" and site.limits.minutes == 1440


def test_a_mistake_in_the_site_file_names_the_key(tmp_path):
    (tmp_path / "site.yaml").write_text("partition: {gpu: h100}\n")
    with pytest.raises(
        ConfigurationError, match="site.yaml: unknown key 'partition'.*did you mean 'partitions'"
    ):
        load_site(tmp_path / "site.yaml")


def test_every_rule_that_runs_something_says_what_it_needs():
    """Without `needs` a job goes to no account and no partition; a local rule goes nowhere."""
    rule = re.compile(r"^( *)rule (\w+):\n((?:\1    .*\n|\n)*)", re.MULTILINE)
    silent = [
        name
        for path in (REPOSITORY / "workflow/rules").glob("*.smk")
        for _, name, body in rule.findall(path.read_text())
        if "shell:" in body and "needs(" not in body and "localrule: True" not in body
    ]
    assert silent == []


def test_a_scale_without_an_entry_is_named():
    with pytest.raises(ConfigurationError, match="scales: no entry 'huge'"):
        Needs("huge", load_scale("mini"), load_resources())


def test_a_machine_with_too_few_gpus_is_told_what_was_asked_and_what_to_do(monkeypatch):
    one = [Device("0", "GPU-a")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert too_few_gpus("train", 1, 1, one) is None
    assert too_few_gpus("plot_figure", 0, 1, []) is None
    message = too_few_gpus("train", 8, 1, one)
    assert message.startswith("train asks for 8 GPUs (workflow/resources.yaml)")
    assert "CUDA_VISIBLE_DEVICES='0' leaves 1 GPU here" in message and "--profile slurm" in message
    assert "asks for 1 GPU on each of 2 nodes" in too_few_gpus("train", 1, 2, one)


def test_a_foreign_address_of_ray_is_no_cluster_that_we_started(monkeypatch):
    for name in ("RAY_ADDRESS", "EAD_RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not ray.is_on_cluster()
    command = ray.command_on_nodes(["train"], 2, "10.0.0.2:20001")
    for variable in command[command.index("env") + 1 : -1]:
        monkeypatch.setenv(*variable.split("="))
    assert ray.is_on_cluster() and os.environ["RAY_ADDRESS"] == "10.0.0.2:20001"


def test_the_jobs_of_this_checkout_are_found_behind_a_link_and_with_a_space_in_its_path(tmp_path):
    page = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("squeue --me"))
    _, command, _ = line.split(" | ")
    folder, link = tmp_path / "a b", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    jobs = f"11 {folder}\n12 {tmp_path}/a\n13 {folder}/c\n14 {tmp_path}\n"
    found = subprocess.run(
        ["sh", "-c", f'cd "$0" && {command}', str(link)],
        input=jobs,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "11\n"
