"""The in-process engine: reinforcement learning of a small language model in one readable loop.

One step: take prompts, draw n rollouts each with the run's sampler, grade them, standardise the rewards
within each prompt's group, and take one clipped policy-gradient step per mini-batch. With TIS each token's loss is
weighted by the truncated ratio of the policy to the distribution that was really sampled from.

Left out on purpose, as in the paper's comparison: dynamic sampling and length penalties. The old
log-probabilities come from the sampler itself, which holds the same weights.

Everything random is drawn from streams named by run and step, and every number but the timings is a function
of the run configuration: a run resumed after a kill ends with the same bits as one never interrupted.
"""

import logging
import math
import time
from pathlib import Path

import numpy as np
import torch

from ead import importance, metrics, objective, schedule, seeds
from reproduction.algorithms import MiniBatch
from reproduction.config.runs import RunConfiguration
from reproduction.data import read_dataset
from reproduction.engines import Result, prompts_of_step
from reproduction.files import atomic_directory, sha256_of_file, write_json
from reproduction.models.tokenizer import Tokenizer
from reproduction.models.transformer import Transformer
from reproduction.progress import Progress
from reproduction.sampling import policy
from reproduction.sampling.generate import Rollouts, generate
from reproduction.tasks.grading import Grader, Problem, problems_of
from reproduction.training import contract, records
from reproduction.training.adamw import AdamW
from reproduction.training.prompt_lengths import fitting
from reproduction.training.state import State, StateStore
from reproduction.training.step_metrics import Responses, importance_metrics

log = logging.getLogger(__name__)

STATE_FORMAT = "4"
RECORDS = ("metrics.jsonl", "groups.jsonl", "timings.jsonl")


def train(
    run: RunConfiguration, *, model: Path, dataset: Path, state: Path, progress: Path | None, workers: int = 1
) -> Result:
    """Train ``run`` from ``model`` on ``dataset``, from its last state in ``state`` if there is one.

    Leaves in ``state``: ``metrics.jsonl`` (one line per step, reproducible to the bit), ``groups.jsonl`` (the
    same by prompt), ``timings.jsonl``, ``checkpoints/step_N/`` in Hugging Face format, and the trainer's own state.

    Raises:
        StateMismatch: the state belongs to another configuration, model, data set or library version.
    """
    trainer = Trainer(run, model, dataset, state, workers)
    write_json(state / "prompts.json", {"training": trainer.measured})
    with trainer.grader, Progress(progress, run.name, run.training.steps, "step", trainer.step) as bar:
        while trainer.step < run.training.steps:
            values = trainer.advance()
            if not trainer.healthy(values):
                log.warning("step %d: loss or gradient is not finite; the run ends as diverged", trainer.step)
                return Result("diverged", trainer.step, trainer.saved_checkpoints())
            summary = f"reward {values['reward_mean']:.3f}, entropy {values['entropy']:.3f} nats"
            bar.update(trainer.step, summary)
    return Result("finished", trainer.step, trainer.saved_checkpoints())


class Trainer:
    """One training run; ``step`` steps are done."""

    def __init__(self, run: RunConfiguration, model: Path, dataset: Path, state: Path, workers: int):
        self.run, self.settings = run, run.training
        self.schedule = schedule.from_config(run.sampler_definition.schedule)
        problems = problems_of(read_dataset(dataset))
        self.model, self.tokenizer = Transformer.load(model), Tokenizer(model)
        prompts = policy.encode(problems, self.tokenizer)
        kept, self.measured = fitting(
            [problem.id for problem in problems],
            [len(prompt) for prompt in prompts],
            self.model.shape.positions - self.settings.max_new_tokens,
            name=str(dataset),
            least=self.settings.prompts,
        )
        self.problems, self.prompts = [problems[i] for i in kept], [prompts[i] for i in kept]
        self.reference = Transformer.load(model) if run.algorithm_definition.kl_coefficient else None
        self.optimizer = AdamW(
            self.model.parameters(), betas=self.settings.betas, weight_decay=self.settings.weight_decay
        )
        self.grader = Grader(timeout_s=self.settings.verifier_timeout_s, workers=workers)
        self.folder = state
        self.states = StateStore(
            state / "trainer",
            {
                "run": run.hash,
                "model": sha256_of_file(model / "model.safetensors"),
                "dataset": sha256_of_file(dataset),
                "torch": torch.__version__,
                "format": STATE_FORMAT,
            },
        )
        self.step = 0
        self._restore()
        recorded = records.read(state / "metrics.jsonl")
        self.entropies = [values["entropy_at_sampling_temperature"] for values in recorded]

    # --- one step ------------------------------------------------------------------------------------------

    def advance(self) -> dict[str, float]:
        """Take one step, record its metrics, save a checkpoint where one is due; return the metrics."""
        self.step += 1
        clock = _Stopwatch()
        chosen = self._prompts_of_step(self.step)
        rollouts = self._rollouts(chosen)
        clock.lap("sampling")
        if not torch.isfinite(rollouts.policy_logprobs).all():
            if self.step == 1:
                raise ValueError(
                    "the model to start from has log-probabilities that are not finite: train it anew"
                )
            values = {"step": self.step, "loss": math.nan, "gradient_norm": math.nan}
            records.append(self.folder / "metrics.jsonl", values)
            return values
        rewards, responses = self._grade(chosen, rollouts)
        clock.lap("grading")
        update_metrics = self._update(chosen, rollouts, rewards)
        clock.lap("update")
        values = {"step": self.step, **responses.metrics(), **update_metrics}
        contract.check("inprocess", values)
        records.append(self.folder / "metrics.jsonl", values)
        self.entropies.append(values["entropy_at_sampling_temperature"])
        problems = [self.problems[i].id for i in chosen]
        groups = {"step": self.step, "problem": problems, **responses.groups()}
        records.append(self.folder / "groups.jsonl", groups)
        records.append(self.folder / "timings.jsonl", {"step": self.step, **clock.laps})
        if self.step % self.settings.checkpoint_every == 0 and self.healthy(values):
            self._save()
        return values

    @staticmethod
    def healthy(values: dict[str, float]) -> bool:
        """A step whose loss or gradient is not finite has left no usable policy."""
        return math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])

    def _prompts_of_step(self, step: int) -> list[int]:
        return prompts_of_step(self.run, step, len(self.problems))

    def _schedule_of_step(self) -> schedule.Schedule:
        """The sampler's schedule; of one that follows the training, what the steps before this one make of it."""
        before, tokens = self.entropies[: self.step - 1], self.model.shape.vocabulary
        return self.schedule.resolved(before, tokens, self.settings.steps)

    def _rollouts(self, chosen: list[int]) -> Rollouts:
        return generate(
            self.model,
            [self.prompts[i] for i in chosen],
            self._schedule_of_step(),
            samples=self.run.n,
            max_new_tokens=self.settings.max_new_tokens,
            generator=seeds.torch_generator(*self._stream_name("rollouts", self.step)),
            step=self.step,
            record=True,
            logprob_temperature=self.run.sampler_definition.logprob_temperature,
        )

    def _grade(self, chosen: list[int], rollouts: Rollouts) -> tuple[torch.Tensor, Responses]:
        problems: list[Problem] = [self.problems[i] for i in chosen for _ in range(self.run.n)]
        texts = policy.decode(rollouts.tokens, rollouts.mask, self.tokenizer)
        verdicts = self.grader.grade(problems, texts, rollouts.finished.tolist())
        rewards = torch.tensor([float(verdict.correct) for verdict in verdicts])
        rows, mask = np.repeat(np.arange(self.settings.prompts), self.run.n), rollouts.mask.numpy()
        entropies = {
            "entropy": rollouts.entropy,
            "entropy_at_sampling_temperature": rollouts.behaviour_entropy,
        }
        return rewards, Responses(
            self.run,
            rewards=rewards.numpy(),
            lengths=rollouts.lengths.numpy(),
            finished=rollouts.finished.numpy(),
            statuses=[verdict.status for verdict in verdicts],
            entropies={
                name: metrics.entropy_by_prompt(values.numpy(), mask, rows)
                for name, values in entropies.items()
            },
        )

    def _update(self, chosen: list[int], rollouts: Rollouts, rewards: torch.Tensor) -> dict[str, float]:
        """One optimiser step per mini-batch of prompts; return the metrics averaged over tokens."""
        groups = np.repeat(np.arange(len(chosen)), self.run.n)
        advantages = self.run.algorithm_definition.advantages(rewards, groups)
        correction = self.run.sampler_definition.importance
        ratios = (rollouts.policy_logprobs, rollouts.behaviour_logprobs, rollouts.mask)
        weights = None
        if correction:
            weights = importance.truncated_weights(*ratios, correction.cap, correction.level)

        rows_per_batch = self.settings.mini_batch_prompts * self.run.n
        losses, norms, statistics = [], [], []
        for first in range(0, len(rewards), rows_per_batch):
            rows = list(range(first, min(first + rows_per_batch, len(rewards))))
            loss, parts = self._mini_batch(rows, chosen, rollouts, advantages, weights)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
            if torch.isfinite(norm):
                self.optimizer.step(self._learning_rate())
            self.optimizer.zero_grad()
            losses.append(loss)
            norms.append(float(norm))
            statistics += parts
        tokens = np.array([part["tokens"] for part in statistics])
        shares = {
            name: float(np.average([part[name] for part in statistics], weights=tokens))
            for name in ("clip_low_share", "clip_high_share", "dual_clip_share", "covariance_share")
        }
        return {
            "loss": float(np.mean(losses)),
            "gradient_norm": float(np.mean(norms)),
            "learning_rate": self._learning_rate(),
            "approximate_kl": float(
                np.average([part["approximate_kl"] for part in statistics], weights=tokens)
            ),
            "policy_ratio_max": max(part["ratio_max"] for part in statistics),
            **shares,
            **importance_metrics(self.run, *ratios),
        }

    def _mini_batch(
        self, rows, chosen, rollouts, advantages, weights
    ) -> tuple[float, list[dict[str, float]]]:
        """Accumulate the gradient of one mini-batch; return its loss and its micro-batches' statistics."""
        algorithm = self.run.algorithm_definition
        prompts = [self.prompts[chosen[row // self.run.n]] for row in rows]
        tokens, mask = rollouts.tokens[rows], rollouts.mask[rows]
        batches = self._micro_batches(prompts, mask)
        whole = MiniBatch(int(mask.sum()), len(rows), self.settings.max_new_tokens, len(batches))
        temperatures = self._policy_temperatures(tokens.shape[1])
        total_loss, statistics = 0.0, []
        for number, batch in enumerate(batches):
            width = int(mask[batch].sum(-1).max())
            in_batch = [rows[i] for i in batch]
            batch_mask = mask[batch, :width]
            inputs = ([prompts[i] for i in batch], tokens[batch, :width], batch_mask, temperatures)
            logprobs = policy.response_logprobs(self.model, *inputs)
            loss, parts = algorithm.policy_loss(
                logprobs,
                rollouts.policy_logprobs[in_batch, :width],
                advantages[in_batch],
                batch_mask,
                weights=None if weights is None else weights[in_batch, :width],
                generator=seeds.torch_generator(*self._stream_name("clip_cov", self.step), rows[0], number),
                whole=whole,
            )
            if self.reference is not None:
                with torch.no_grad():
                    reference = policy.response_logprobs(self.reference, *inputs)
                penalty = objective.kl_penalty(logprobs, reference)
                loss = loss + algorithm.kl_coefficient * algorithm.aggregate(penalty, batch_mask, whole)
            loss.backward()
            total_loss += loss.item()
            statistics.append(parts)
        return total_loss, statistics

    def _micro_batches(self, prompts: list, mask: torch.Tensor) -> list[list[int]]:
        """Return the rows of each micro-batch: as many as its tokens allow, or as many as the algorithm says."""
        fixed = self.run.algorithm_definition.micro_batch_responses
        if fixed is None:
            widths = [len(prompt) + int(n) for prompt, n in zip(prompts, mask.sum(-1), strict=True)]
            return list(policy.micro_batches(widths, self.settings.micro_batch_tokens))
        # One response of each prompt, then the next of each: the framework balances batches and so mixes groups.
        mixed = sorted(range(len(prompts)), key=lambda row: row % self.run.n)
        return [mixed[first : first + fixed] for first in range(0, len(mixed), fixed)]

    def _policy_temperatures(self, width: int) -> torch.Tensor | None:
        """What divides the trainer's logits, by position (D15); None is 1 everywhere."""
        if self.run.sampler_definition.logprob_temperature == "one":
            return None
        return torch.from_numpy(self._schedule_of_step().temperature(np.arange(width), self.step))

    def _learning_rate(self) -> float:
        """Linear warm-up over the first steps, then constant or linear decay to zero after the last step."""
        step, settings = self.step, self.settings
        if step <= settings.warmup_steps:
            return self.run.learning_rate * step / settings.warmup_steps
        if settings.decay == "constant":
            return self.run.learning_rate
        left = (settings.steps - step + 1) / (settings.steps - settings.warmup_steps)
        return self.run.learning_rate * left

    # --- streams and state ---------------------------------------------------------------------------------

    def _stream_name(self, *names: str | int) -> tuple[int, str | int]:
        # Cells that differ only in their sampler share prompts, so that they are compared on the same ones.
        return (self.run.root_seed, "train", self.run.seed, *names)

    def saved_checkpoints(self) -> list[int]:
        """Steps whose checkpoints exist, in order."""
        folders = (self.folder / "checkpoints").glob("step_*")
        return sorted(int(folder.name.removeprefix("step_")) for folder in folders)

    def _save(self) -> None:
        # The records must be on the disk before the state that says they are.
        for name in RECORDS:
            records.flush(self.folder / name)
        with atomic_directory(self.folder / "checkpoints" / f"step_{self.step}") as temporary:
            self.model.save(temporary)
            self.tokenizer.save(temporary)
        names = dict(self.model.named_parameters())
        tensors = {f"model/{name}": parameter.detach() for name, parameter in names.items()}
        for name, parameter in names.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
        self.states.save(State(self.step, tensors, values={}))

    def _restore(self) -> None:
        """Continue after the last saved step; without a state, start over with empty records."""
        state = self.states.restore()
        self.step = state.step if state else 0
        for name in RECORDS:
            records.truncate(self.folder / name, self.step)
        if state is None:
            return
        log.info("resuming after step %d", state.step)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state.tensors[f"model/{name}"])
                self.optimizer.state[parameter] = {
                    key: state.tensors[f"optimizer/{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                }


class _Stopwatch:
    """Wall and process seconds of the parts of a step."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self._mark()

    def _mark(self) -> None:
        self._wall, self._process = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        self.laps[f"{name}_seconds"] = time.perf_counter() - self._wall
        self.laps[f"{name}_cpu_seconds"] = time.process_time() - self._process
        self._mark()
