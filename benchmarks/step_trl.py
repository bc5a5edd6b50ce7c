"""An arm of rl_step.py: one training step of TRL's GRPOTrainer, set up as the in-process engine is.

The same model, prompts, group size, lengths, clip range, optimiser and grader; no KL term.
Where responses have a forced length there is one mini-batch, and TRL needs no old log-probabilities; on the default
task there are two, and it computes them. Gradient checkpointing is TRL's default; rl_step.py measures both ways.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from arms import Jobs, Measured
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from reproduction.data import read_dataset
from reproduction.tasks.grading import Grader, problems_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON of workload.describe")
    parser.add_argument("--forced", action="store_true", help="every response has the greatest length")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--micro-batch-rows", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = options.settings
    jobs = Jobs()
    problems = {problem.id: problem for problem in problems_of(read_dataset(options.dataset))}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.model)
    with tempfile.TemporaryDirectory() as folder, Grader(timeout_s=5.0, workers=1) as grader:

        def reward(completions, completion_ids, problem, **_) -> list[float]:
            texts = [completion[0]["content"] for completion in completions]
            ended = [ids[-1] == tokenizer.eos_token_id for ids in completion_ids]
            verdicts = grader.grade([problems[name] for name in problem], texts, ended)
            return [float(verdict.correct) for verdict in verdicts]

        trainer = TimedTrainer(
            model=LlamaForCausalLM.from_pretrained(options.model, dtype=torch.float32),
            processing_class=tokenizer,
            reward_funcs=reward,
            args=configuration(folder, settings, options),
            train_dataset=Dataset.from_list(
                [{"prompt": problem.messages, "problem": name} for name, problem in problems.items()]
            ),
        )
        trainer.add_callback(OneJobAStep(trainer, jobs, settings["mini_batches"]))
        trainer.train()


def configuration(folder: str, settings: dict, options: argparse.Namespace) -> GRPOConfig:
    rows = settings["prompts"] * settings["n"] // settings["mini_batches"]
    accumulation = rows // options.micro_batch_rows
    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=options.checkpointing,
        per_device_train_batch_size=options.micro_batch_rows,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * settings["mini_batches"],
        num_generations=settings["n"],
        max_completion_length=settings["max_new_tokens"],
        generation_kwargs={"min_new_tokens": settings["max_new_tokens"]} if options.forced else None,
        temperature=1.0,
        beta=0.0,
        epsilon=settings["clip_low"],
        epsilon_high=settings["clip_high"],
        loss_type="dapo",
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=settings["betas"][0],
        adam_beta2=settings["betas"][1],
        max_grad_norm=settings["gradient_clip"],
        max_steps=100_000,
        save_strategy="no",
        report_to="none",
        logging_steps=100_000,
        disable_tqdm=True,
    )


class TimedTrainer(GRPOTrainer):
    """TRL's trainer, with the processor seconds of its parts."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.spent = {"sampling": 0.0, "grading": 0.0, "logprobs": 0.0}
        self.tokens, self.correct = 0, 0.0

    def _generate_single_turn(self, *args, **kwargs):
        with self._timed("sampling"):
            found = super()._generate_single_turn(*args, **kwargs)
        self.tokens = sum(map(len, found[0]))
        return found

    def _calculate_rewards(self, *args, **kwargs):
        with self._timed("grading"):
            found = super()._calculate_rewards(*args, **kwargs)
        self.correct = float(found.mean())
        return found

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        if torch.is_grad_enabled():  # part of the update
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        with self._timed("logprobs"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _timed(self, part: str) -> "_Timer":
        return _Timer(self.spent, part)


class _Timer:
    def __init__(self, spent: dict[str, float], part: str) -> None:
        self.spent, self.part = spent, part

    def __enter__(self) -> None:
        self.began = time.process_time()

    def __exit__(self, *exception: object) -> None:
        self.spent[self.part] += time.process_time() - self.began


class OneJobAStep(TrainerCallback):
    """Waits for a job before each step and answers after it; a step has one optimiser step per mini-batch."""

    def __init__(self, trainer: TimedTrainer, jobs: Jobs, mini_batches: int) -> None:
        self.trainer, self.jobs, self.mini_batches = trainer, jobs, mini_batches

    def on_step_begin(self, args, state, control, **_) -> None:
        if state.global_step % self.mini_batches == 0:
            if self.jobs.next() is None:
                raise SystemExit
            self.trainer.spent = dict.fromkeys(self.trainer.spent, 0.0)
            self.wall, self.cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step % self.mini_batches == 0:
            cpu = time.process_time() - self.cpu
            parts = {f"{name}_cpu_s": seconds for name, seconds in self.trainer.spent.items()}
            found: Measured = {
                "wall_s": time.perf_counter() - self.wall,
                "cpu_s": cpu,
                **parts,
                "update_cpu_s": cpu - sum(parts.values()),
                "tokens": self.trainer.tokens,
                "reward": self.trainer.correct,
            }
            self.jobs.answer(found)


if __name__ == "__main__":
    main()
