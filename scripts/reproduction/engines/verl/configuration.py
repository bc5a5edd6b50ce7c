"""From a resolved run to verl's own configuration: plain data, the same bytes for the same run.

verl reads two files. ``verl.yaml`` is laid over verl's defaults by Hydra and says everything that differs from
them; ``agent_loops.yaml`` says how responses are sampled. Neither holds anything that the run and the machine do
not determine, so a golden test can compare them.

Where verl cannot do what a run asks for, :func:`configuration` refuses instead of coming close.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ead import seeds
from ead.schedule import Fixed, Switched, from_config
from reproduction.algorithms import VERL_CONSTANTS
from reproduction.cluster.verl_environment import WORKERS, environment
from reproduction.config import ConfigurationError, Verl, merge, verl_limits
from reproduction.config.runs import RunConfiguration

SOCKETS = "reproduction.engines.verl.sockets"
ROLLOUT, VALIDATION = "ead_rollout", "ead_validation"
MARK = "EAD_VERL_TRAINING"  # every process of a training has it in its environment
PARENT = "EAD_VERL_PARENT"  # id of the process that started verl

_SEED_RANGE = 2**31  # what vLLM and numpy take for an engine's seed


def sampling_temperature(run: RunConfiguration) -> float:
    """Return what verl divides logits by, the sampler's and the trainer's alike (``config.verl_limits.temperature``).

    Raises:
        ConfigurationError: the trainer's temperature would have to follow the position.
    """
    found = verl_limits.temperature(run.sampler_definition)
    if found is None:
        raise ConfigurationError(
            f"sampler {run.sampler!r}: verl divides the trainer's logits by one number, so log-probabilities at "
            "an annealed sampling temperature (D15) need the engine inprocess"
        )
    return found


def request_schedule(run: RunConfiguration) -> dict[str, Any] | None:
    """Return the schedule that requests carry; None where verl's own temperature says it all."""
    schedule = run.sampler_definition.schedule
    return None if from_config(schedule) == Fixed(sampling_temperature(run)) else schedule


def agent_loops(run: RunConfiguration, machine: Verl, *, state: Path) -> list[dict[str, Any]]:
    """Return verl's list of agent loops: rollouts with the run's schedule, validation without one."""
    record = {"record": str(state / "verl" / "samples"), "record_every": machine.dump_every}
    of_run = [run.root_seed, "train", run.seed]
    return [
        {
            "name": name,
            "_target_": "ead.integrations.verl.AnnealedAgentLoop",
            "schedule": schedule,
            "stream": [*of_run, stream] if machine.seed_of == "response" else None,
            **(record if machine.dump_every else {}),
        }
        for name, schedule, stream in (
            (ROLLOUT, request_schedule(run), "rollouts"),
            (VALIDATION, None, "validation"),
        )
    ]


def mark(state: Path) -> str:
    """Return what tells the processes of the training in ``state`` from those of all others."""
    return hashlib.sha256(str(state).encode()).hexdigest()[:16]


def configuration(
    run: RunConfiguration,
    machine: Verl,
    *,
    model: Path,
    dataset: Path,
    validation: Path,
    state: Path,
    cpus: int,
    done: int = 0,
) -> dict[str, Any]:
    """Return what ``verl.trainer.main_ppo`` is to run, laid over verl's defaults.

    Args:
        run: the resolved run.
        machine: GPUs and how they are used.
        model: folder in Hugging Face format to start from.
        dataset, validation: problems, Parquet; must be two files, since verl tells them apart by their names.
        state: the trainer's private folder.
        cpus: logical CPUs that Ray may give to actors; ignored when a cluster is already there (several nodes).
        done: steps that are done already: a resumed engine must not draw the random numbers of the first step again.

    Raises:
        ConfigurationError: verl has no such learning-rate schedule, loss or sampler.
    """
    machine, training, algorithm = machine.of(run.model), run.training, run.algorithm_definition
    shares = verl_limits.shares(training.mini_batch_prompts, run.n, machine.gpus)
    for problem in (verl_limits.learning_rate(training.decay), shares):
        if problem:
            raise ConfigurationError(f"run {run.name}: {problem}")
    if dataset == validation:
        raise ConfigurationError(f"run {run.name}: training and validation are the same file {dataset}")
    on_cpu = machine.device == "cpu"
    common = {
        "defaults": ["ppo_trainer", "_self_"],
        "hydra": {
            "searchpath": ["pkg://verl.trainer.config"],
            "run": {"dir": str(state / "verl" / "hydra")},
            "output_subdir": None,
        },
        "ray_kwargs": {"ray_init": _ray(machine, cpus, state)},
        "data": _data(run, machine, dataset, validation),
        "actor_rollout_ref": {
            "model": _model(machine, model),
            "actor": _actor(run, machine),
            "ref": {
                "fsdp_config": {**_fsdp(machine), "param_offload": not on_cpu},
                **_log_prob_batches(run, machine),
            },
            "rollout": _rollout(run, machine, state, done),
        },
        "algorithm": _algorithm(run),
        "reward": {
            "num_workers": 1 if on_cpu else machine.reward_workers,
            "reward_manager": {
                "source": "importlib",
                "name": "VerifierReward",
                "module": {"path": f"pkg://{WORKERS}"},
            },
        },
        "trainer": _trainer(run, machine, state),
        "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": 1 if on_cpu else 8}}},
        # What our classes inside verl's processes need to know.
        "ead": {
            "state": str(state),
            "dump_every": machine.dump_every,
            "checkpoint_dtype": _dtype(machine),
        },
    }
    return merge(common, algorithm.verl())


def _dtype(machine: Verl) -> str:
    return "float32" if machine.device == "cpu" else "bfloat16"


def _longest(run: RunConfiguration, machine: Verl) -> int:
    return machine.max_prompt_tokens + run.training.max_new_tokens


def _data(run: RunConfiguration, machine: Verl, dataset: Path, validation: Path) -> dict[str, Any]:
    return {
        "train_files": str(dataset),
        "val_files": str(validation),
        "custom_cls": {"path": f"pkg://{WORKERS}", "name": "Problems"},
        "train_batch_size": run.training.prompts,
        "max_prompt_length": machine.max_prompt_tokens,
        "max_response_length": run.training.max_new_tokens,
        "shuffle": False,  # the data set comes in the order of the run's stream
        "dataloader_num_workers": 0,
        # Llama 3.2's template writes today's date into every prompt unless it is told one.
        "apply_chat_template_kwargs": {"date_string": "26 Jul 2024"},
        "trust_remote_code": False,
        "ead_run": run.to_json(),
    }


def _model(machine: Verl, model: Path) -> dict[str, Any]:
    return {
        "path": str(model),
        "use_remove_padding": machine.attention == "flash_attention_2",
        # Log-probabilities chunk by chunk from hidden states: verl's own way without flash-attn is a Python
        # loop over tokens, and holds all logits.
        "use_fused_kernels": True,
        "fused_kernel_options": {"impl_backend": "torch"},
        "enable_gradient_checkpointing": machine.device != "cpu",
        "override_config": {"attn_implementation": machine.attention},
    }


def _fsdp(machine: Verl) -> dict[str, Any]:
    on_cpu = machine.device == "cpu"
    return {
        "model_dtype": "fp32",
        "dtype": _dtype(machine),
        # What the trainer computes in; `dtype` alone leaves it at bfloat16.
        "mixed_precision": {
            "param_dtype": "fp32" if on_cpu else "bf16",
            "reduce_dtype": "fp32",
            "buffer_dtype": "fp32",
        },
        "param_offload": machine.offload,
        "use_torch_compile": not on_cpu,
    }


def _actor(run: RunConfiguration, machine: Verl) -> dict[str, Any]:
    training = run.training
    if machine.attention == "flash_attention_2":  # by tokens, since there is no padding
        budget = max(training.micro_batch_tokens, _longest(run, machine))
        micro_batches: dict[str, Any] = {"use_dynamic_bsz": True, "ppo_max_token_len_per_gpu": budget}
    else:
        rows = _rows_per_micro_batch(run, machine)
        micro_batches = {"use_dynamic_bsz": False, "ppo_micro_batch_size_per_gpu": rows}
    return {
        "strategy": "fsdp2",
        "fsdp_config": {**_fsdp(machine), "optimizer_offload": machine.offload},
        "use_torch_compile": machine.device != "cpu",
        "ppo_mini_batch_size": training.mini_batch_prompts,
        "ppo_epochs": 1,
        **micro_batches,
        "optim": {
            "lr": run.learning_rate,
            "betas": list(training.betas),
            "weight_decay": training.weight_decay,
            "lr_scheduler_type": "constant",
            "lr_warmup_steps": training.warmup_steps,
            "clip_grad": training.gradient_clip,
        },
        "grad_clip": training.gradient_clip,
        "policy_loss": VERL_CONSTANTS,
        "entropy_coeff": 0,
        "kl_loss_type": "low_var_kl",
        "checkpoint": {"save_contents": ["model", "optimizer", "extra", "hf_model"]},
    }


def _log_prob_batches(run: RunConfiguration, machine: Verl) -> dict[str, Any]:
    if machine.attention == "flash_attention_2":
        return {}
    return {"log_prob_micro_batch_size_per_gpu": _rows_per_micro_batch(run, machine)}


def _rollout(run: RunConfiguration, machine: Verl, state: Path, done: int) -> dict[str, Any]:
    on_cpu, longest = machine.device == "cpu", _longest(run, machine)
    return {
        "name": "vllm",
        "dtype": _dtype(machine),
        "n": run.n,
        "temperature": sampling_temperature(run),
        "top_p": 1.0,
        "top_k": -1,
        "seed": seeds.derive(run.root_seed, "train", run.seed, "engine", done) % _SEED_RANGE,
        **_log_prob_batches(run, machine),
        "calculate_log_probs": True,
        "logprobs_mode": "processed_logprobs",
        "val_kwargs": {
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "do_sample": True,
            "n": machine.validation_samples,
        },
        "agent": {
            "num_workers": 1 if on_cpu else 8,
            "agent_loop_config_path": str(state / "verl" / "agent_loops.yaml"),
            # Every row names its agent loop; one that did not would stop here.
            "default_agent_loop": "each_row_names_its_agent_loop",
        },
        "engine_kwargs": {"vllm": _vllm(run)},
        "tensor_model_parallel_size": machine.tensor_parallel,
        "gpu_memory_utilization": machine.gpu_memory_utilization,
        "max_model_len": longest,
        "max_num_seqs": machine.max_num_seqs,
        # On CPUs vLLM 0.24 fails on a request with a seed of its own in the midst of its prompt.
        "enable_chunked_prefill": not on_cpu,
        "max_num_batched_tokens": max(8192, longest),
        "enforce_eager": on_cpu,
        "free_cache_engine": not on_cpu,
        **({"enable_sleep_mode": False} if on_cpu else {}),
        # Through shared memory, as on CPUs, no weight may be larger: a vocabulary of 152k by 64 is 37 MiB.
        "checkpoint_engine": {"update_weights_bucket_megabytes": 64 if on_cpu else 2048},
    }


def _algorithm(run: RunConfiguration) -> dict[str, Any]:
    correction = run.sampler_definition.importance
    return {
        "adv_estimator": "grpo",
        "norm_adv_by_std_in_grpo": True,
        "use_kl_in_reward": False,
        "rollout_correction": {
            "rollout_is": correction.level if correction else None,
            "rollout_is_threshold": correction.cap if correction else 2.0,
            "rollout_is_batch_normalize": False,
            "rollout_rs": None,
            "bypass_mode": False,
        },
    }


def _trainer(run: RunConfiguration, machine: Verl, state: Path) -> dict[str, Any]:
    return {
        "v1": {"trainer_mode": "ead"},
        "device": machine.device,
        "nnodes": machine.nodes,
        "n_gpus_per_node": machine.gpus_per_node,
        "total_epochs": 1,  # of the data set as the run sees it, which is as long as the run
        "total_training_steps": run.training.steps,
        "save_freq": machine.resume_every or run.training.checkpoint_every,
        "test_freq": machine.validate_every or -1,
        "val_before_train": False,
        "logger": ["console"],
        "project_name": "ead",
        "experiment_name": run.hash,
        "default_local_dir": str(state / "verl" / "checkpoints"),
        "max_actor_ckpt_to_keep": 1,
        "resume_mode": "auto",
        "checkpoint_callback_class": f"{WORKERS}.PublishCheckpoint",
        "validation_data_dir": str(state / "verl" / "validation") if machine.validate_every else None,
        "rollout_data_dir": str(state / "verl" / "rollouts") if machine.dump_every else None,
    }


def _rows_per_micro_batch(run: RunConfiguration, machine: Verl) -> int:
    """Rows of a padded micro-batch: as many of the longest as its tokens allow, and a divisor of the mini-batch."""
    gpus, responses = machine.gpus, run.training.mini_batch_prompts * run.n
    most = max(1, run.training.micro_batch_tokens // _longest(run, machine))
    return max(rows for rows in range(1, most + 1) if (responses // gpus) % rows == 0)


def _ray(machine: Verl, cpus: int, state: Path) -> dict[str, Any]:
    runtime = {"runtime_env": {"env_vars": {**environment(machine), MARK: mark(state)}}}
    if machine.nodes > 1:  # the one that reproduction.cluster.ray has started and named in RAY_ADDRESS
        return {"address": "auto", **runtime}
    # Without an address Ray would join whatever cluster it finds on the machine.
    local: dict[str, Any] = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    if machine.device == "cpu":
        local["num_gpus"] = 1  # a logical one, so that verl's placement works unchanged
    return {**local, **runtime}


def _vllm(run: RunConfiguration) -> Mapping[str, Any]:
    values: dict[str, Any] = {"worker_extension_cls": f"{SOCKETS}.Worker"}
    # EAD comes by its entry point: an engine for which a processor is named waits for every token. A schedule that
    # switches at a token must see them.
    if run.sampler_definition.schedule["kind"] == Switched.kind:
        values["logits_processors"] = ["ead.integrations.vllm:AnnealedTemperature"]
    return values
