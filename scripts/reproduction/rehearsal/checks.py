"""What must hold in the records of a verl training, recomputed from its dumps.

The engine writes, where ``verl.dump_every`` asks for it, every request and response (``verl/samples``) and every step
as the trainer saw it (``verl/steps``). A check returns what it found in words, and raises :class:`Failed` where
something does not hold. References are forward passes of transformers, which knows nothing of verl, vLLM or EAD.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ead.schedule import from_config
from reproduction.config.runs import RunConfiguration
from reproduction.engines import prompts_of_step
from reproduction.engines.verl.configuration import sampling_temperature
from reproduction.training import records

FLOAT32 = 1e-4  # nats between two computations of one log-probability
BFLOAT16 = 0.1  # the same, at most, on the average token; single tokens may differ by more


class Failed(AssertionError):
    """Something that must hold does not; the message says what was found."""


@dataclass(frozen=True)
class Trained:
    """The records of one training that dumped every step."""

    run: RunConfiguration
    state: Path
    model: Path

    @cached_property
    def metrics(self) -> pd.DataFrame:
        return pd.DataFrame(list(records.read(self.state / "metrics.jsonl"))).set_index("step", drop=False)

    @cached_property
    def steps(self) -> dict[int, pd.DataFrame]:
        """Step -> its responses, with what verl's trainer computed about them."""
        folder = self.state / "verl" / "steps"
        found = sorted(int(path.stem.removeprefix("step_")) for path in folder.glob("step_*.parquet"))
        return {step: pd.read_parquet(folder / f"step_{step}.parquet") for step in found}

    def samples(self, stream: str) -> pd.DataFrame:
        """Return requests and responses as the agent loop saw them; of a step that was taken twice, the last.

        Where responses have no streams of their own, those of validations are among them.
        """
        folder = self.state / "verl" / "samples"
        files = [*folder.glob(f"{stream}_*.jsonl"), *folder.glob("responses_*.jsonl")]
        lines = [
            json.loads(line)
            for path in sorted(files, key=lambda path: path.stat().st_mtime)
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        return pd.DataFrame(lines).drop_duplicates(["step", "prompt", "sibling"], keep="last")

    def policy_before(self, step: int) -> Path:
        """Return the folder of the policy that ``step`` sampled from."""
        return self.model if step == 1 else self.state / "checkpoints" / f"step_{step - 1}"

    def relative_temperatures(self, positions: int, step: int) -> np.ndarray:
        """Return the sampling temperature over the one that verl divides logits by, for each response position."""
        schedule = from_config(self.run.sampler_definition.schedule)
        return schedule.temperature(np.arange(positions), step) / sampling_temperature(self.run)


def every_step_once(training: Trained) -> str:
    """Steps 1 to the last are in every record, once each and in order."""
    wanted = list(range(1, training.run.training.steps + 1))
    for name in ("metrics.jsonl", "groups.jsonl", "timings.jsonl"):
        found = [row["step"] for row in records.read(training.state / name)]
        if found != wanted:
            raise Failed(f"{name} has the steps {found}, expected {wanted}")
    published = [step for step in wanted if (training.state / "checkpoints" / f"step_{step}").is_dir()]
    if published != training.run.training.checkpoints:
        raise Failed(f"checkpoints of the steps {published}, expected {training.run.training.checkpoints}")
    return f"steps 1 to {wanted[-1]} once each, every checkpoint published"


def prompts_in_order(training: Trained, problems: Sequence[str]) -> str:
    """Each step asked its prompts of the order that both engines share; ``problems`` are the data set's ids."""
    n = training.run.n
    for step, frame in training.steps.items():
        wanted = [problems[row] for row in prompts_of_step(training.run, step, len(problems))]
        found = frame["problem"].iloc[::n].tolist()
        if found != wanted:
            raise Failed(f"step {step} asked {found}, expected {wanted}")
    return f"{len(training.steps)} steps of {training.run.training.prompts} prompts in the shared order"


def responses_of_their_own(training: Trained) -> str:
    """Every response is there once and siblings differ; where requests have seeds, each has its own."""
    drawn = training.samples("rollouts")
    wanted = training.run.training.steps * training.run.training.prompts * training.run.n
    seeded = "seed" in drawn and drawn["seed"].notna().any()
    if len(drawn) != wanted or (seeded and not drawn["seed"].is_unique):
        distinct = f" with {drawn['seed'].nunique()} seeds" if seeded else ""
        raise Failed(f"{len(drawn)} responses{distinct}, expected {wanted}{' of each' if seeded else ''}")
    different = drawn.groupby(["step", "prompt"])["tokens"].agg(lambda group: len(set(map(tuple, group))))
    share = float((different > 1).mean())
    if share < 0.9:
        raise Failed(f"only {share:.0%} of the groups have responses that differ")
    return (
        f"{wanted} responses{', each with a seed' if seeded else ''}; {share:.0%} of the groups differ within"
    )


def sampler_and_trainer_agree(training: Trained, *, exact: bool = True) -> str:
    """Where the sampler divides logits by what the trainer divides them by, log-probabilities are the same.

    Below position c of an annealed schedule both are at temperature 1. ``exact`` is for float32; in bfloat16 the mean
    difference is held against ``BFLOAT16``.
    """
    found = []
    for step, frame in training.steps.items():
        for row in frame.itertuples():
            same = training.relative_temperatures(len(row.tokens), step) == 1
            found.append(np.abs(np.asarray(row.policy_logprobs) - np.asarray(row.behaviour_logprobs))[same])
    differences = np.concatenate(found)
    if not differences.size:
        return "nothing to compare: the sampler's temperature is nowhere the trainer's"
    value, most = (differences.max(), FLOAT32) if exact else (differences.mean(), BFLOAT16)
    words = (
        f"{differences.size} log-probabilities differ by {differences.max():.1e} at most, "
        f"{differences.mean():.1e} on average"
    )
    if not value < most:
        raise Failed(f"{words}; allowed: {most:g}")
    return words


def importance_weights(training: Trained, *, exact: bool = True) -> str:
    """Ratios of policy to sampler have an expectation of one, and a spread exactly where the two differ."""
    words = []
    moves = any(
        (training.relative_temperatures(max(map(len, frame["tokens"])), step) != 1).any()
        for step, frame in training.steps.items()
    )
    for step, frame in training.steps.items():
        ratios = np.concatenate(
            [
                np.exp(np.asarray(r.policy_logprobs) - np.asarray(r.behaviour_logprobs))
                for r in frame.itertuples()
            ]
        )
        weights = np.minimum(ratios, 2.0)
        error = weights.std() / math.sqrt(len(weights))
        words.append(f"step {step}: mean {weights.mean():.3f}, deviation {weights.std():.3f}")
        if weights.mean() >= 1 + 4 * error + 1e-6:
            raise Failed(f"{words[-1]}: truncated weights cannot have a mean above one but by chance")
        least = 100 * FLOAT32
        if moves and weights.std() <= least:
            raise Failed(f"{words[-1]}: no spread, so the sampling temperature never reached the sampler")
        if not moves and exact and weights.std() > least:
            raise Failed(f"{words[-1]}: a spread, though sampler and trainer divide by the same temperature")
    return "; ".join(words)


def longest_prompt_was_asked(training: Trained, tokens: int) -> str:
    """The longest prompt of the data set, of ``tokens`` tokens, was answered."""
    longest = int(training.samples("rollouts")["prompt_tokens"].map(len).max())
    if longest != tokens:
        raise Failed(f"the longest prompt asked has {longest} tokens, the data set's {tokens}")
    return f"a prompt of {tokens} tokens"


def learns(training: Trained) -> str:
    """Rewards differ within some group, gradients are finite and not all zero, the weights have moved."""
    from safetensors import safe_open

    norms = training.metrics["gradient_norm"].tolist()
    if not all(map(math.isfinite, norms)) or not any(norms):
        raise Failed(f"gradient norms {norms}, mean rewards {training.metrics['reward_mean'].tolist()}")
    last = training.state / "checkpoints" / f"step_{training.run.training.checkpoints[-1]}"
    moved = 0.0
    for file in sorted(last.glob("*.safetensors")):
        with safe_open(file, "pt") as after, safe_open(training.model / file.name, "pt") as before:
            if set(after.keys()) != set(before.keys()):
                raise Failed(f"{file.name} has other tensors than the model it started from")
            for name in after.keys():  # noqa: SIM118 - it is no mapping
                moved = max(moved, float((after.get_tensor(name) - before.get_tensor(name)).abs().max()))
    if not moved:
        raise Failed("the last checkpoint has the weights that training started from")
    rewards = ", ".join(f"{value:.2f}" for value in training.metrics["reward_mean"])
    gradients = ", ".join(f"{norm:.2g}" for norm in norms)
    return f"mean rewards {rewards}; gradient norms {gradients}; weights moved by {moved:.1e} at most"


class Reference:
    """A policy in transformers, float32."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True
        ).eval()

    def logits(self, prompt: Sequence[int], response: Sequence[int]) -> np.ndarray:
        """Return the logits at every token of one response, float32 [T, V]."""
        ids = self._torch.tensor([[*prompt, *response]])
        with self._torch.no_grad():
            logits = self.model(ids, logits_to_keep=len(response) + 1).logits
        return logits[0, :-1].numpy()


def log_softmax_at(logits: np.ndarray, tokens: Sequence[int], temperatures: np.ndarray) -> np.ndarray:
    """Return log-probabilities of ``tokens`` [T] under ``softmax(logits [T, V] / temperatures [T])``.

    In float32 and by PyTorch's own function, as vLLM and verl compute them. On a CPU it adds up 150,000 terms one
    after another and loses those that are small beside the sum: 2e-4 nats with the vocabulary of Qwen.
    """
    import torch

    scaled = torch.tensor(logits, dtype=torch.float32) / torch.tensor(
        np.asarray(temperatures), dtype=torch.float32
    ).unsqueeze(1)
    found = torch.log_softmax(scaled, dim=-1).double().numpy()
    return found[np.arange(len(tokens)), np.asarray(tokens)]


def temperatures_are_the_schedules(training: Trained, *, rows: int = 4) -> str:
    """At each position the schedule's temperature explains the log-probability that vLLM returned.

    ``rows`` responses of each step are recomputed, those to the longest prompts among them. Where the schedule leaves
    temperature 1, that does not explain them.
    """
    drawn = training.samples("rollouts")
    schedule = from_config(training.run.sampler_definition.schedule)
    worst, others, moving = 0.0, [], False
    for step in training.steps:
        frame = drawn[drawn["step"] == step]
        by_length = frame.assign(length=frame["prompt_tokens"].map(len)).sort_values("length")
        chosen = pd.concat([by_length.head(rows - rows // 2), by_length.tail(rows // 2)])
        reference = Reference(training.policy_before(step))
        for row in chosen.itertuples():
            logits = reference.logits(row.prompt_tokens, row.tokens)
            expected = schedule.temperature(np.arange(len(row.tokens)), step)
            observed = np.asarray(row.logprobs)
            worst = max(worst, np.abs(log_softmax_at(logits, row.tokens, expected) - observed).max())
            if (expected != 1).any():
                moving = True
                at_one = log_softmax_at(logits, row.tokens, np.ones(len(expected)))
                others.append(np.abs(at_one - observed).max())
    words = f"{rows} responses of each step: error {worst:.1e} at most"
    if not worst < FLOAT32:
        raise Failed(f"{words}; allowed: {FLOAT32:g}")
    if moving and not max(others) > 100 * FLOAT32:
        raise Failed(f"{words}, and temperature 1 explains them as well: EAD is not seen")
    return words + (f", at temperature 1 {max(others):.2g}" if moving else "")


def evaluated(manifest: Path, decoders: Mapping[int, Sequence[str]], problems: int, samples: int) -> str:
    """``decoders`` (step -> names) were drawn from, ``samples`` responses to each of ``problems`` problems."""
    from reproduction.evaluation.samples import read_samples

    frame = read_samples(manifest)
    found = frame.groupby(["step", "decoder"]).size().to_dict()
    wanted = {(step, name): problems * samples for step, names in decoders.items() for name in names}
    if found != wanted:
        raise Failed(f"{manifest}: responses {found}, expected {wanted}")
    return f"{len(frame)} responses with {', '.join(sorted(set(frame['decoder'])))}"
