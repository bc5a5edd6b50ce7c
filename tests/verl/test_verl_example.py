"""examples/verl_train.py: the installed verl composes what it asks for and reads the rows and loops it writes."""

import json
import os
import random
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset

from ead.schedule import Annealed, from_config
from reproduction.cluster.verl_environment import environment
from reproduction.config import Verl
from reproduction.data import make_row, write_dataset

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "verl_train.py"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The folder that the example writes, and the configuration with which verl would start."""
    folder = tmp_path_factory.mktemp("example")
    for name in ("train", "validation"):
        rows = [
            make_row(
                data_source="toy",
                prompt=[{"role": "user", "content": f"What is {n} + 1?"}],
                ground_truth=str(n + 1),
                id=f"toy/{n}",
                index=n,
                split="train",
                ability="math",
                details={},
            )
            for n in range(3)
        ]
        write_dataset(rows, folder / f"{name}.parquet")
    # Hydra's --cfg prints the composed configuration instead of training; an unknown key would be an error.
    words = ["out", "train.parquet", "validation.parquet", "trainer.total_epochs=2", "--cfg", "job"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *words],
        cwd=folder,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    text = done.stdout[done.stdout.index("actor_rollout_ref:") :]
    return folder / "out", OmegaConf.create(text)


def test_verl_samples_with_ead_and_corrects_for_it(asked):
    folder, config = asked
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.temperature, rollout.calculate_log_probs) == (1.0, True)
    assert rollout.logprobs_mode == "processed_logprobs"
    correction = config.algorithm.rollout_correction
    assert (correction.rollout_is, correction.rollout_is_threshold) == ("token", 2.0)
    assert correction.bypass_mode is False
    assert config.trainer.total_epochs == 2  # the user's own overrides are the last
    loops = OmegaConf.load(rollout.agent.agent_loop_config_path)
    schedules = {loop.name: loop.schedule for loop in loops}
    assert from_config(OmegaConf.to_container(schedules["ead_rollout"])) == Annealed()
    assert schedules["ead_validation"] is None
    assert json.loads((folder / "agent_loops.yaml").read_text()) == OmegaConf.to_container(loops)


@pytest.mark.parametrize(("key", "name"), [("train_files", "ead_rollout"), ("val_files", "ead_validation")])
def test_verls_own_data_set_hands_each_row_its_agent_loop(asked, tiny_model, key, name):
    _, config = asked
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = RLHFDataset([config.data[key]], tokenizer, config.data)
    assert len(rows) == 3
    assert [row["agent_name"] for row in (rows[0], rows[2])] == [name, name]
    assert rows[2]["index"] == 2
    assert [rows[item]["ead_row"] for item in range(3)] == [0, 1, 2]


# --- the example, for real ---------------------------------------------------------------------------------------

# What a machine without a GPU asks of verl, beside what the example says (reproduction.engines.verl.configuration).
ON_CPU = [
    "trainer.device=cpu",
    "trainer.nnodes=1",
    "trainer.n_gpus_per_node=1",
    "trainer.logger=[console]",
    "trainer.save_freq=-1",
    "trainer.test_freq=2",
    "trainer.val_before_train=false",
    "trainer.total_training_steps=2",
    "trainer.resume_mode=disable",
    "algorithm.adv_estimator=grpo",
    "data.train_batch_size=8",
    "data.max_prompt_length=1024",
    "data.max_response_length=16",
    "data.filter_overlong_prompts=true",
    "data.dataloader_num_workers=0",
    "actor_rollout_ref.model.use_remove_padding=false",
    "actor_rollout_ref.model.enable_gradient_checkpointing=false",
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    "actor_rollout_ref.actor.strategy=fsdp2",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "actor_rollout_ref.actor.use_dynamic_bsz=false",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.actor.use_torch_compile=false",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile=false",
    "actor_rollout_ref.actor.fsdp_config.dtype=float32",
    "actor_rollout_ref.actor.optim.lr=1e-4",
    "+actor_rollout_ref.actor.fsdp_config.mixed_precision={param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}",
    "actor_rollout_ref.rollout.dtype=float32",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.rollout.val_kwargs.n=2",
    "actor_rollout_ref.rollout.val_kwargs.do_sample=true",
    "actor_rollout_ref.rollout.val_kwargs.temperature=1.0",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.rollout.agent.num_workers=2",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
    "actor_rollout_ref.rollout.max_model_len=1040",
    "actor_rollout_ref.rollout.max_num_batched_tokens=8192",
    "actor_rollout_ref.rollout.enable_chunked_prefill=false",
    "actor_rollout_ref.rollout.enforce_eager=true",
    "actor_rollout_ref.rollout.free_cache_engine=false",
    "+actor_rollout_ref.rollout.enable_sleep_mode=false",
    "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=16",
    "+actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=reproduction.cluster.verl_cpu.Worker",
    "reward.num_workers=1",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "+ray_kwargs.ray_init.num_gpus=1",
    "ray_kwargs.ray_init.num_cpus=24",
    "+ray_kwargs.ray_init.include_dashboard=false",
]


def hub_layout(rows, copies):
    """DAPO-Math-17k as its hub has it: every prompt many times, under one UUID, in a random order."""
    table = [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": row["prompt"][0]["content"], "role": "user"}],
            "ability": "MATH",
            "reward_model": {
                "ground_truth": row["reward_model"]["ground_truth"],
                "style": "rule-lighteval/MATH_v2",
            },
            "extra_info": {"index": str(uuid.uuid5(uuid.NAMESPACE_OID, row["prompt"][0]["content"]))},
        }
        for row in rows
        for _ in range(copies)
    ]
    random.Random(0).shuffle(table)
    return pa.Table.from_pylist(table)


@pytest.mark.skipif("EAD_VERL_EXAMPLE" not in os.environ, reason="set EAD_VERL_EXAMPLE: ten minutes, 9 GB")
def test_the_example_trains_on_the_hubs_layout(real_data, tiny_model, tmp_path):
    """Two steps and a validation of the real verl, Ray and vLLM; 8 prompts a step, of which most are copies."""
    rows = pq.read_table(real_data / "dapo_math_17k.parquet").slice(0, 3).to_pylist()
    pq.write_table(hub_layout(rows, 100), tmp_path / "train.parquet")
    pq.write_table(hub_layout(rows, 1), tmp_path / "validation.parquet")
    variables = environment(Verl(device="cpu")) | {
        "VERL_USE_EXTERNAL_MODULES": "reproduction.cluster.verl_cpu"
    }
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    words = [f"+ray_kwargs.ray_init.runtime_env.env_vars.{key}='{value}'" for key, value in variables.items()]
    words += [*ON_CPU, f"actor_rollout_ref.model.path={tiny_model}"]
    words += [
        f"trainer.default_local_dir={tmp_path}/checkpoints",
        f"trainer.rollout_data_dir={tmp_path}/rollouts",
    ]
    words += [f"trainer.validation_data_dir={tmp_path}/validations", f"hydra.run.dir={tmp_path}/hydra"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "out", "train.parquet", "validation.parquet", *words],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    (tmp_path / "verl.log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "Error in _run_prompt" not in done.stdout + done.stderr
    for step in (1, 2):
        lines = (tmp_path / "rollouts" / f"{step}.jsonl").read_text().splitlines()
        drawn = [json.loads(line) for line in lines]
        assert len(drawn) == 8 * 4
        asked = Counter(line["input"] for line in drawn)
        assert max(asked.values()) > 4  # copies in one batch
        assert len({(line["input"], line["output"]) for line in drawn}) == len(drawn)
    assert len((tmp_path / "validations" / "2.jsonl").read_text().splitlines()) == 3 * 2
