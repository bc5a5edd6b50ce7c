"""What runs inside verl's processes: the data set, the reward, the trainer's records, the checkpoints.

verl loads this module in each of its processes (``VERL_USE_EXTERNAL_MODULES``) and finds the classes by the names
that the run's configuration gives. Each uses a place that verl keeps open for it: ``data.custom_cls``,
``reward.reward_manager``, a registered trainer, ``trainer.checkpoint_callback_class``.
"""

import math
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transfer_queue as tq
from omegaconf import open_dict
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import Dataset
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.workers.engine import EngineRegistry, FSDPEngineWithLMHead
from verl.workers.rollout import base as rollouts

from ead import metrics
from ead.schedule import Fixed, from_config
from reproduction.cluster import compute
from reproduction.config.runs import RunConfiguration
from reproduction.data import SCHEMA, read_dataset
from reproduction.engines import prompts_of_step
from reproduction.engines.verl.configuration import PARENT, ROLLOUT, SOCKETS, VALIDATION, sampling_temperature
from reproduction.engines.verl.publishing import publish_checkpoint
from reproduction.files import write_parquet
from reproduction.models.tokenizer import eos_tokens
from reproduction.tasks.grading import Grader, problems_of
from reproduction.training import contract, records
from reproduction.training.step_metrics import Responses, importance_metrics
from verl import DataProto

rollouts._ROLLOUT_REGISTRY["vllm", "async"] = f"{SOCKETS}.Rollout"
if os.environ.get(PARENT) == str(os.getppid()):  # in verl's first process; Ray ends the others with it
    compute.end_with_parent()

_GRADED = tuple(name for name in SCHEMA.names if name != "prompt")  # verl carries the prompt as raw_prompt


class Problems(Dataset):
    """Rows of a data set as verl's trainer reads them.

    The training set is as long as the run: item ``i`` is a prompt of step ``i // prompts + 1``, in the same order
    as the in-process engine's, so verl's sequential sampler resumes it by counting. Every row names its agent
    loop, which is what keeps validation from being annealed.
    """

    def __init__(self, data_files, tokenizer, config, processor=None, max_samples: int = -1):
        (file,) = [data_files] if isinstance(data_files, str) else data_files
        self.rows = read_dataset(file).to_dict("records")
        self.run = RunConfiguration.from_json(config.ead_run)
        self.training = file == config.train_files
        if self.training and len(self.rows) < self.run.training.prompts:
            raise ValueError(
                f"{file}: {len(self.rows)} problems, training.prompts asks for {self.run.training.prompts}"
            )

    def __len__(self) -> int:
        training = self.run.training
        return training.steps * training.prompts if self.training else len(self.rows)

    def __getitem__(self, item: int) -> dict[str, Any]:
        row = self.rows[item]
        if self.training:
            step, place = divmod(item, self.run.training.prompts)
            row = self.rows[self.of_step(step + 1)[place]]
        return {
            **{name: row[name] for name in _GRADED},
            "raw_prompt": row["prompt"],
            "index": row["extra_info"]["index"],
            "ead_row": row["extra_info"]["index"],
            "agent_name": ROLLOUT if self.training else VALIDATION,
            "dummy_tensor": torch.zeros(1, dtype=torch.uint8),  # verl wants a tensor in every batch
        }

    def of_step(self, step: int) -> list[int]:
        """Rows of the step's prompts, in order."""
        return prompts_of_step(self.run, step, len(self.rows))


class VerifierReward(RewardManagerBase):
    """Grades one response with the project's verifier: reward 1 or 0, and the verdict's status beside it."""

    def __init__(self, config, tokenizer, compute_score, **_):
        super().__init__(config, tokenizer, compute_score)
        training = RunConfiguration.from_json(config.data.ead_run).training
        self.limit = training.max_new_tokens
        self.ends = eos_tokens(Path(config.actor_rollout_ref.model.path))
        self.grader = Grader(timeout_s=training.verifier_timeout_s, workers=1)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Return ``reward_score`` and ``reward_extra_info`` of the single response in ``data``."""
        item = data[len(data) - 1]
        tokens = item.batch["responses"]
        tokens = tokens[: int(item.batch["attention_mask"][-len(tokens) :].sum())].tolist()
        finished = len(tokens) < self.limit or tokens[-1] in self.ends
        row = {name: item.non_tensor_batch[name] for name in _GRADED}
        verdict = await self.loop.run_in_executor(None, self._grade, row, tokens, finished)
        reward = float(verdict.correct)
        return {
            "reward_score": reward,
            "reward_extra_info": {"acc": reward, "status": verdict.status, "finished": finished},
        }

    def _grade(self, row: dict[str, Any], tokens: list[int], finished: bool):
        (problem,) = problems_of(pd.DataFrame([{**row, "prompt": []}]))
        response = self.tokenizer.decode(tokens, skip_special_tokens=True)
        (verdict,) = self.grader.grade([problem], [response], [finished])
        return verdict


class Diverged(RuntimeError):
    """The loss or the gradient of a step is not finite: there is no usable policy left."""


@register_trainer("ead")
class Trainer(PPOTrainerSync):
    """verl's synchronous trainer, which also writes each step's metrics under the project's names.

    The records are complete before verl saves the step's checkpoint, so a resumed run has every step once.
    """

    def __init__(self, config):
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # this class is that mode with records
        super().__init__(config)
        self.run = RunConfiguration.from_json(config.data.ead_run)
        self.folder = Path(config.ead.state)

    def _step_once(self, metrics: dict, timing_raw: dict, sample_batch_size: int):
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)
        rollouts = _Rollouts.fetch(batch, self.run, self.train_dataset, self.global_steps)
        values = {"step": self.global_steps, **rollouts.metrics(), **_update_metrics(metrics, self.run)}
        contract.check("verl", values)
        records.append(self.folder / "metrics.jsonl", values)
        if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
            raise Diverged(f"step {self.global_steps}: loss or gradient is not finite")
        records.append(self.folder / "groups.jsonl", rollouts.groups())
        timings = {f"{name}_seconds": timing_raw[key] for key, name in _TIMINGS.items() if key in timing_raw}
        records.append(self.folder / "timings.jsonl", {"step": self.global_steps, **timings})
        every = self.config.ead.dump_every
        if every and self.global_steps % every == 0:
            write_parquet(
                rollouts.table(), self.folder / "verl" / "steps" / f"step_{self.global_steps}.parquet"
            )
        return batch

    def _balance_batch(self, batch, *args, **kwargs):
        """Sort each GPU's share of each mini-batch by length: rows of a micro-batch are padded to its longest."""
        batch = super()._balance_batch(batch, *args, **kwargs)
        gpus = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        share = self.run.training.mini_batch_prompts * self.run.n // gpus
        lengths = [tag["seq_len"] for tag in batch.tags]
        batch.reorder(rows_by_length(lengths, share))
        return batch

    def _save_checkpoint(self) -> None:
        for name in ("metrics.jsonl", "groups.jsonl", "timings.jsonl"):
            records.flush(self.folder / name)
        super()._save_checkpoint()


def rows_by_length(lengths: Sequence[int], share: int) -> list[int]:
    """Return row numbers, sorted by length within each ``share`` rows; ties keep their order.

    Which rows make up a mini-batch stays as it was: sorting all of them would put the long responses into one.
    """
    rows = range(len(lengths))
    return [
        row
        for first in rows[::share]
        for row in sorted(rows[first : first + share], key=lambda row: lengths[row])
    ]


@EngineRegistry.register(
    model_type="language_model", backend="fsdp2", device="cuda", vendor=["nvidia", "cpu"]
)
class Engine(FSDPEngineWithLMHead):
    """verl's FSDP engine, whose fused log-probabilities then work with untied embeddings too (7B and 8B).

    FSDP2 keeps an output layer with weights of its own in shards until it is called. verl's fused kernels never call
    it but multiply by its weight, so the weight is gathered here. After a training step FSDP2 frees it by itself.
    """

    def forward_step(self, micro_batch, loss_function, forward_only):
        head = self.module.get_output_embeddings()
        if not (self.model_config.use_fused_kernels and isinstance(head, FSDPModule)):
            return super().forward_step(micro_batch, loss_function, forward_only)
        head.unshard()
        try:
            return super().forward_step(micro_batch, loss_function, forward_only)
        finally:
            if forward_only:
                head.reshard()


_TIMINGS = {"gen": "sampling", "old_log_prob": "logprobs", "ref": "reference", "update_actor": "update"}


class PublishCheckpoint(CheckpointCallback):
    """Puts the Hugging Face form of each checkpoint where the run contract wants it.

    Between the checkpoints verl may save states to resume from (``verl.resume_every``); those are not published.
    """

    def on_save(self, trainer, global_step: int, checkpoint_dir: str, **_) -> None:
        if global_step in trainer.run.training.checkpoints:
            publish_checkpoint(
                Path(checkpoint_dir),
                Path(self.config.ead.state) / "checkpoints" / f"step_{global_step}",
                model=Path(self.config.actor_rollout_ref.model.path),
                dtype=self.config.ead.checkpoint_dtype,
            )


class _Rollouts:
    """The responses of one step with what verl computed about them; rows are sorted by prompt and sibling."""

    FIELDS = (
        "prompts",
        "responses",
        "response_mask",
        "rm_scores",
        "old_log_probs",
        "rollout_log_probs",
        "entropy",
    )

    def __init__(
        self, run: RunConfiguration, step: int, frame: pd.DataFrame, tensors: dict[str, torch.Tensor]
    ):
        self.run, self.step, self.frame, self.tensors = run, step, frame, tensors
        self.mask = tensors["response_mask"].bool()

    @classmethod
    def fetch(cls, batch, run: RunConfiguration, dataset: Problems, step: int) -> "_Rollouts":
        """Read the batch of ``step`` from verl's transfer queue.

        Raises RuntimeError if a prompt or a sibling is missing: verl leaves out groups whose agent loop or
        reward failed, and would train on fewer.
        """
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding")]
        names = ["index", "session_id", "extra_info", "extra_fields"]
        data = tq.kv_batch_get(
            keys=keys, partition_id=batch.partition_id, select_fields=[*names, *cls.FIELDS]
        )
        columns = {name: data.pop(name).tolist() for name in names}
        asked = [dataset.rows[row]["extra_info"]["id"] for row in dataset.of_step(step)]
        frame = pd.DataFrame(
            {
                "problem": [row["id"] for row in columns["extra_info"]],
                "prompt": columns["index"],
                "sibling": columns["session_id"],
                "status": [row["reward_extra_info"]["status"] for row in columns["extra_fields"]],
                "finished": [row["reward_extra_info"]["finished"] for row in columns["extra_fields"]],
            }
        )
        frame["place"] = frame["problem"].map({name: place for place, name in enumerate(asked)})
        frame = frame.sort_values(["place", "sibling"])
        expected = [(place, sibling) for place in range(len(asked)) for sibling in range(run.n)]
        if list(zip(frame["place"], frame["sibling"], strict=True)) != expected:
            raise RuntimeError(
                f"step {step}: verl delivered {len(frame)} responses to {frame['problem'].nunique()} of the "
                f"{len(asked)} prompts, expected {run.n} to each; search its log for 'Error in _run_prompt'"
            )
        padded = data.to_padded_tensor()
        rows = torch.as_tensor(frame.index.to_numpy())
        tensors = {name: padded[name][rows] for name in cls.FIELDS}
        return cls(run, step, frame.reset_index(drop=True), tensors)

    @cached_property
    def rewards(self) -> np.ndarray:
        return self.tensors["rm_scores"].sum(-1).double().numpy()

    @cached_property
    def _entropies(self) -> dict[str, np.ndarray]:
        """verl's entropy is at the temperature that it divides logits by; what that is not is unknown here."""
        temperature = sampling_temperature(self.run)
        by_prompt = metrics.entropy_by_prompt(
            self.tensors["entropy"].double().numpy(), self.mask.numpy(), self.frame["place"].to_numpy()
        )
        unknown = np.full_like(by_prompt, np.nan)
        sampled_at = from_config(self.run.sampler_definition.schedule)
        return {
            "entropy": by_prompt if temperature == 1 else unknown,
            "entropy_at_sampling_temperature": by_prompt if sampled_at == Fixed(temperature) else unknown,
        }

    @cached_property
    def responses(self) -> Responses:
        return Responses(
            self.run,
            rewards=self.rewards,
            lengths=self.mask.sum(-1).numpy(),
            finished=self.frame["finished"].to_numpy(),
            statuses=self.frame["status"].tolist(),
            entropies=self._entropies,
        )

    def metrics(self) -> dict[str, float]:
        names = ("old_log_probs", "rollout_log_probs")
        ratios = importance_metrics(self.run, *(self.tensors[name] for name in names), self.mask)
        return {**self.responses.metrics(), **ratios}

    def groups(self) -> dict[str, Any]:
        problems = self.frame["problem"].iloc[:: self.run.n].tolist()
        return {"step": self.step, "problem": problems, **self.responses.groups()}

    def table(self) -> pd.DataFrame:
        """One row per response, its tokens and log-probabilities as lists."""
        frame = self.frame[["problem", "prompt", "sibling", "status", "finished"]].copy()
        frame["reward"] = self.rewards
        for column, name in (
            ("tokens", "responses"),
            ("policy_logprobs", "old_log_probs"),
            ("behaviour_logprobs", "rollout_log_probs"),
            ("entropy", "entropy"),
        ):
            values = self.tensors[name]
            frame[column] = [row[kept].tolist() for row, kept in zip(values, self.mask, strict=True)]
        return frame


def _update_metrics(values: dict[str, Any], run: RunConfiguration) -> dict[str, float | None]:
    """What verl reports of the update, under the in-process engine's names where it is the same quantity.

    ``clip_share`` is verl's share of clipped tokens, low and high together.
    """
    loss = values["actor/pg_loss"]
    if run.algorithm_definition.kl_coefficient:
        loss += run.algorithm_definition.kl_coefficient * values["actor/kl_loss"]
    found = {
        "loss": loss,
        "gradient_norm": values["actor/grad_norm"],
        "learning_rate": values["actor/lr"],
        "approximate_kl": values["actor/ppo_kl"],
        **{
            name: values[share] if isinstance(share, str) else share
            for name, share in run.algorithm_definition.verl_shares.items()
        },
    }
    return {name: None if value is None else float(value) for name, value in found.items()}
