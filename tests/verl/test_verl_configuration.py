"""Configurations of the paper scale against the installed verl: every key is one of its own, and it accepts them."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("verl")

from hydra import compose, initialize_config_dir, initialize_config_module
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config

from reproduction.config import Verl, load_configuration, load_scale
from reproduction.config.runs import resolve
from reproduction.engines.verl.configuration import configuration

# What verl leaves open: arguments of Ray, vLLM and transformers, FSDP's precision, and our own section.
OPEN = (
    "ray_kwargs.ray_init.",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.",
    "actor_rollout_ref.model.override_config.",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision.",
    "data.apply_chat_template_kwargs.",
    "data.ead_run",
    "ead.",
)


def keys(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.fixture(scope="module")
def defaults():
    with initialize_config_module("verl.trainer.config", version_base=None):
        return OmegaConf.to_container(compose("ppo_trainer"), resolve=False)


def resolved(algorithm, sampler, role="qwen_1_5b"):
    scale = load_scale("paper")
    user = load_configuration({"scale": "paper"})
    return resolve(user, scale, role=role, algorithm=algorithm, sampler=sampler, rollouts=None, seed=0)


@pytest.mark.parametrize(
    ("algorithm", "sampler", "role"),
    [
        ("dapo", "ead_tis", "qwen_7b"),
        ("dapo", "ead_tis_sequence", "qwen_1_5b"),
        ("dapo", "tau0.6", "llama_1b"),
        ("dapo", "ead_d0_500_alpha_50", "qwen3_8b"),
        ("grpo", "ead", "qwen_1_5b"),
        ("entropy_mech", "ead", "qwen_1_5b"),
        ("entropy_mech_kl", "ead", "qwen_1_5b"),
        ("gspo", "ead_tis", "qwen_1_5b"),
        ("dr_grpo", "ead_tis", "qwen_1_5b"),
    ],
)
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_verl_accepts_every_kind_of_run(defaults, tmp_path, algorithm, sampler, role, attention):
    values = configuration(
        run := resolved(algorithm, sampler, role),
        Verl(gpus_per_node=8, attention=attention, validate_every=20, dump_every=40),
        model=Path("/model"),
        dataset=Path("/train.parquet"),
        validation=Path("/validation.parquet"),
        state=tmp_path,
        cpus=80,
    )
    known = set(keys(defaults))
    ours = {key for key in keys(values) if not key.startswith(("defaults", "hydra."))}
    assert {key for key in ours - known if not key.startswith(OPEN)} == set()

    (tmp_path / "verl.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    with initialize_config_dir(str(tmp_path), version_base=None):
        config = compose("verl")
    assert need_reference_policy(config) == (run.algorithm_definition.kl_coefficient > 0)
    validate_config(config, need_reference_policy(config), need_critic(config))
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    assert actor.policy_loss.loss_mode == values["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"]
    assert actor.optim.lr == run.learning_rate and tuple(actor.optim.betas) == run.training.betas
    assert actor.engine.mixed_precision["param_dtype"] == "bf16"
    assert rollout.logprobs_mode == "processed_logprobs" and rollout.calculate_log_probs
    # Dr. GRPO: a constant divides the sums over tokens, and groups are not standardised.
    unnormalised = run.algorithm == "dr_grpo"
    assert actor.loss_scale_factor == (run.training.max_new_tokens if unnormalised else None)
    assert config.algorithm.norm_adv_by_std_in_grpo == (not unnormalised)
    assert actor.loss_agg_mode == run.algorithm_definition.aggregation
    correction = run.sampler_definition.importance
    assert config.algorithm.rollout_correction.rollout_is == (correction.level if correction else None)
