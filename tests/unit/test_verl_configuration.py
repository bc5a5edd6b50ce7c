"""The verl engine's configuration: every run of the shipped scales against a golden file, and what it refuses.

A refactoring that changes one number shows it here. `EAD_WRITE_GOLDEN=1 pytest <this file>` writes the files anew;
the difference belongs into the same commit as its reason.
"""

import os
from pathlib import Path

import pytest
import yaml

from reproduction.config import ConfigurationError, Verl, load_configuration, load_scale, verl_limits
from reproduction.config.runs import expand, resolve
from reproduction.engines.verl.configuration import (
    ROLLOUT,
    VALIDATION,
    agent_loops,
    configuration,
    request_schedule,
    sampling_temperature,
)
from reproduction.figures import load_experiments

GOLDEN = Path(__file__).parent / "golden"
PLACES = {
    "model": Path("/model"),
    "dataset": Path("/data/train.parquet"),
    "validation": Path("/data/validation.parquet"),
    "state": Path("/state"),
    "cpus": 16,
}


def runs_of(scale_name):
    scale = load_scale(scale_name)
    user = load_configuration({"scale": scale_name, "seeds": [0]})
    runs = {}
    for experiment in load_experiments().values():
        runs |= expand(user, scale, experiment)
    return scale.verl, runs


def flattened(value, prefix=""):
    """Nested mappings as dotted keys; lists are values."""
    if not isinstance(value, dict):
        return {prefix: value}
    parts = {}
    for key, inner in value.items():
        parts |= flattened(inner, f"{prefix}.{key}" if prefix else str(key))
    return parts or {prefix: {}}


def described(machine, run):
    values = configuration(run, machine, **PLACES)
    assert values["data"].pop("ead_run") == run.to_json()  # the hash below stands for it
    loops = {loop["name"]: loop for loop in agent_loops(run, machine, state=PLACES["state"])}
    return flattened({**values, "agent_loops": loops})


@pytest.mark.parametrize("scale_name", ["gpu24", "gpu1", "paper"])
def test_every_resolved_configuration_is_the_golden_one(scale_name):
    machine, runs = runs_of(scale_name)
    everything = {name: described(machine, run) for name, run in runs.items()}
    first = next(iter(everything.values()))
    shared = {
        key: value for key, value in first.items() if all(e.get(key) == value for e in everything.values())
    }
    found = {
        "shared": shared,
        "runs": {
            name: {key: value for key, value in values.items() if key not in shared}
            for name, values in everything.items()
        },
    }
    path = GOLDEN / f"verl_{scale_name}.yaml"
    if "EAD_WRITE_GOLDEN" in os.environ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(found, sort_keys=True, width=110, allow_unicode=True))
    assert found == yaml.safe_load(path.read_text())


def test_the_paper_scale_is_table_1():
    machine, runs = runs_of("paper")
    name = "model~qwen2.5-math-1.5b/algorithm~dapo/sampler~ead_tis/n~4/seed~0"
    values = configuration(runs[name], machine, **PLACES)
    actor, rollout = values["actor_rollout_ref"]["actor"], values["actor_rollout_ref"]["rollout"]
    assert values["data"]["train_batch_size"] == 1024
    assert (values["data"]["max_prompt_length"], values["data"]["max_response_length"]) == (1024, 3072)
    assert actor["ppo_mini_batch_size"] == 256
    assert actor["ppo_micro_batch_size_per_gpu"] == 4
    assert (actor["optim"]["lr"], rollout["n"], rollout["temperature"]) == (1e-6, 4, 1.0)
    assert (actor["clip_ratio_low"], actor["clip_ratio_high"], actor["use_kl_loss"]) == (0.2, 0.28, False)
    assert values["algorithm"]["rollout_correction"]["rollout_is"] == "token"
    assert values["algorithm"]["rollout_correction"]["bypass_mode"] is False
    assert len(runs) >= 45


@pytest.fixture(scope="module")
def paper():
    return load_scale("paper")


def run(paper, sampler="ead", algorithm="dapo", role="qwen_1_5b"):
    user = load_configuration({"scale": "paper"})
    return resolve(user, paper, role=role, algorithm=algorithm, sampler=sampler, rollouts=None, seed=0)


@pytest.mark.parametrize(
    ("sampler", "temperature", "annealed"),
    [
        ("tau0.6", 0.6, False),  # verl's own temperature, for sampler and trainer
        ("tau1.0", 1.0, False),
        ("tau0.6_at_one", 1.0, True),  # the processor samples at 0.6, the trainer stays at 1
        ("ead", 1.0, True),
        ("rev_ead", 1.0, True),
    ],
)
def test_temperature_and_schedule(paper, sampler, temperature, annealed):
    resolved = run(paper, sampler)
    assert sampling_temperature(resolved) == temperature
    assert (request_schedule(resolved) is not None) == annealed
    loops = {loop["name"]: loop for loop in agent_loops(resolved, paper.verl, state=Path("/state"))}
    assert (loops[ROLLOUT]["schedule"] is not None) == annealed
    assert loops[VALIDATION]["schedule"] is None


def test_tau_min_of_the_larger_model_reaches_the_requests(paper):
    assert request_schedule(run(paper, role="qwen_7b"))["tau_min"] == 0.8
    assert request_schedule(run(paper))["tau_min"] == 0.1


@pytest.mark.parametrize(
    ("algorithm", "mode", "kl"),
    [
        ("dapo", "vanilla", 0),
        ("grpo", "vanilla", 0.001),
        ("entropy_mech", "clip_cov", 0),
        ("entropy_mech_kl", "kl_cov", 0),
    ],
)
def test_losses(paper, algorithm, mode, kl):
    values = configuration(run(paper, algorithm=algorithm), paper.verl, **PLACES)
    actor = values["actor_rollout_ref"]["actor"]
    assert actor["policy_loss"]["loss_mode"] == mode
    assert (actor["use_kl_loss"], actor["kl_loss_coef"]) == (kl > 0, kl)


def test_log_probabilities_at_an_annealed_temperature_are_refused(paper):
    with pytest.raises(ConfigurationError, match=r"ead_at_sampling.*need the engine inprocess"):
        configuration(run(paper, "ead_at_sampling"), paper.verl, **PLACES)
    user, experiment = load_configuration({"scale": "paper"}), load_experiments()["deviations"]
    assert not any("ead_at_sampling" in name for name in expand(user, paper, experiment))
    assert any("ead_at_sampling" in name for name in expand(user, load_scale("cpu"), experiment))


def test_an_engine_whose_schedule_switches_at_a_token_sees_the_tokens(paper):
    resolved = run(paper)
    before = resolved.sampler_definition.schedule
    switched = {"kind": "switched", "before": before, "after": {"kind": "fixed", "tau": 0.6}, "tokens": [7]}
    definition = resolved.sampler_definition.model_copy(update={"schedule": switched})
    changed = configuration(
        resolved.model_copy(update={"sampler_definition": definition}), paper.verl, **PLACES
    )
    usual = configuration(resolved, paper.verl, **PLACES)
    kwargs = [each["actor_rollout_ref"]["rollout"]["engine_kwargs"]["vllm"] for each in (changed, usual)]
    named = {"logits_processors": ["ead.integrations.vllm:AnnealedTemperature"]}
    assert "logits_processors" not in kwargs[1] and kwargs[0] == {**kwargs[1], **named}


def test_a_learning_rate_that_falls_is_refused(paper):
    resolved = run(paper)
    changed = resolved.model_copy(
        update={"training": resolved.training.model_copy(update={"decay": "linear"})}
    )
    with pytest.raises(ConfigurationError, match="keeps the learning rate constant"):
        configuration(changed, paper.verl, **PLACES)


def test_figure_12_is_the_recipe_that_ships_with_the_release(paper):
    """D17, and what a role lays over the scale: its learning rate (D18), its machine."""
    resolved = run(paper, "ead_d0_500_alpha_5", role="qwen3_8b")
    values = configuration(resolved, paper.verl, **PLACES)
    actor, rollout = values["actor_rollout_ref"]["actor"], values["actor_rollout_ref"]["rollout"]
    assert (values["data"]["train_batch_size"], rollout["n"], actor["ppo_mini_batch_size"]) == (512, 16, 32)
    assert (values["data"]["max_prompt_length"], values["data"]["max_response_length"]) == (2048, 8192)
    optimiser = actor["optim"]
    assert (optimiser["lr"], optimiser["lr_warmup_steps"], optimiser["weight_decay"]) == (1e-6, 10, 0.1)
    assert actor["clip_ratio_c"] == 10 and rollout["max_num_seqs"] == 128

    role = paper.roles["qwen3_8b"].model_copy(update={"recipe": "dapo_17k_inherited"})
    inherited = paper.model_copy(update={"roles": {**paper.roles, "qwen3_8b": role}})
    resolved = run(inherited, "ead_d0_500_alpha_5", role="qwen3_8b")
    assert (resolved.training.prompts, resolved.n, resolved.algorithm_definition.dual_clip) == (1024, 4, 3)


def test_learning_rates_at_eight_rollouts_are_those_of_section_5_2(paper):
    user = load_configuration({"scale": "paper"})
    rates = {
        role: resolve(
            user, paper, role=role, algorithm="dapo", sampler="ead", rollouts=8, seed=0
        ).learning_rate
        for role in ("llama_1b", "qwen_1_5b")
    }
    assert rates == {"llama_1b": 1e-6, "qwen_1_5b": 2e-6}


def test_a_resumed_engine_draws_no_random_number_twice(paper):
    def seed(done):
        values = configuration(run(paper), paper.verl, **PLACES, done=done)
        return values["actor_rollout_ref"]["rollout"]["seed"]

    assert seed(0) == seed(0) != seed(20)


def test_responses_have_streams_of_their_own_only_where_asked(paper):
    def streams(seed_of):
        return [
            loop["stream"] for loop in agent_loops(run(paper), Verl(seed_of=seed_of), state=Path("/state"))
        ]

    assert streams("engine") == [None, None]
    assert streams("response") == [[2025, "train", 0, "rollouts"], [2025, "train", 0, "validation"]]


def test_one_file_for_training_and_validation_is_refused(paper):
    with pytest.raises(ConfigurationError, match="the same file"):
        configuration(run(paper), paper.verl, **{**PLACES, "validation": PLACES["dataset"]})


def test_a_micro_batch_divides_the_share_of_a_gpu(paper):
    def rows(**machine):
        values = configuration(run(paper), Verl(**machine), **PLACES)["actor_rollout_ref"]
        assert values["rollout"]["log_prob_micro_batch_size_per_gpu"] == (
            found := values["actor"]["ppo_micro_batch_size_per_gpu"]
        )
        return found

    assert rows(gpus_per_node=8) == 4
    assert rows(gpus_per_node=8, max_prompt_tokens=200) == 4  # 5 fit, and do not divide 128
    with pytest.raises(ConfigurationError, match=r"1024 responses .* does not divide among 7 GPUs"):
        rows(gpus_per_node=7)
    packed = configuration(run(paper), Verl(gpus_per_node=8, attention="flash_attention_2"), **PLACES)
    actor = packed["actor_rollout_ref"]["actor"]
    assert (actor["use_dynamic_bsz"], actor["ppo_max_token_len_per_gpu"]) == (True, 16384)


def test_several_nodes_join_the_cluster_that_is_there(paper):
    values = configuration(run(paper), Verl(nodes=2, gpus_per_node=8), **PLACES)
    assert values["trainer"]["nnodes"] == 2
    assert values["ray_kwargs"]["ray_init"]["address"] == "auto"
    assert "num_cpus" not in values["ray_kwargs"]["ray_init"]


@pytest.mark.parametrize("machine", [Verl(), Verl(gpus_per_node=8), Verl(device="cpu")])
def test_a_training_on_one_node_starts_a_ray_of_its_own(paper, machine):
    """Without an address Ray joins whatever cluster the machine has."""
    values = configuration(run(paper), machine, **PLACES)
    assert values["ray_kwargs"]["ray_init"]["address"] == "local"


def test_states_to_resume_from_have_their_own_interval(paper):
    def saved(**machine):
        return configuration(run(paper), Verl(**machine), **PLACES)["trainer"]["save_freq"]

    assert (saved(), saved(resume_every=5)) == (20, 5)
    with pytest.raises(
        ConfigurationError, match="checkpoint_every .20. must be a multiple of verl.resume_every .7."
    ):
        load_scale("paper", {"verl": {"resume_every": 7}})


def test_the_machine_is_no_part_of_a_runs_identity(paper):
    other = paper.model_copy(update={"verl": Verl(gpus_per_node=4)})
    assert run(other).hash == run(paper).hash


@pytest.mark.parametrize("limit", ["learning_rate", "shares"])
def test_the_scale_and_the_engine_ask_one_function_what_verl_cannot_do(limit, monkeypatch):
    """Each had its own rules, which could come apart."""
    machine, runs = runs_of("gpu1")
    monkeypatch.setattr(verl_limits, limit, lambda *_: "verl is out of order")
    with pytest.raises(ConfigurationError, match="verl is out of order"):
        load_scale("gpu1")
    with pytest.raises(ConfigurationError, match="verl is out of order"):
        configuration(next(iter(runs.values())), machine, **PLACES)
