"""Which training configurations of a scale differ, and what stands for each in a rehearsal.

Two runs are one cell where verl and vLLM are told the same: verl.yaml and the agent loops are equal after what names
the run alone is taken out (seeds, paths, the run's own description) and the numbers of a schedule, which only the
logits processor reads. Models and data sets, which the files name by paths, are compared by their sources.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ead import seeds
from reproduction.config import RealData, Verl
from reproduction.config.runs import RunConfiguration, digest
from reproduction.engines.verl.configuration import agent_loops, configuration
from reproduction.models.tokenizer import Tokenizer
from reproduction.tasks.grading import problems_of

STEPS = 2
RESPONSE_TOKENS = 40
LONGEST_TRIED = 200  # prompts with the most characters, among which those with the most tokens are looked for


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing that verl or vLLM is told; the first stands for all."""

    key: str
    run: RunConfiguration
    names: tuple[str, ...]


def distinct(runs: Iterable[RunConfiguration], machine: Verl) -> list[Variant]:
    """Return the distinct configurations among ``runs``, in their order."""
    found: dict[str, list[RunConfiguration]] = {}
    for run in runs:
        found.setdefault(digest(told(run, machine)), []).append(run)
    return [Variant(key, group[0], tuple(run.name for run in group)) for key, group in found.items()]


def told(run: RunConfiguration, machine: Verl, dataset: str | None = None) -> dict[str, Any]:
    """Return what verl and vLLM are told of ``run``, without what only names it; ``dataset`` is one that stands in."""
    anywhere = Path("state")
    values = configuration(
        run,
        machine,
        model=Path(run.model_definition.source),
        dataset=Path(dataset or source_of(run)),
        validation=Path("validation"),
        state=anywhere,
        cpus=1,
    )
    del values["data"]["ead_run"], values["actor_rollout_ref"]["rollout"]["seed"]
    del values["trainer"]["experiment_name"]
    loops = []
    for loop in agent_loops(run, machine, state=anywhere):
        words = {key: value for key, value in (loop["schedule"] or {}).items() if isinstance(value, str)}
        loops.append({**loop, "stream": None, "schedule": words or None})
    return {"verl": values, "agent_loops": loops}


def source_of(run: RunConfiguration) -> str:
    """Return the name of the run's training set in workflow/datasets.yaml, or in its scale."""
    data = run.dataset_definition
    return data.source if isinstance(data, RealData) else run.training.dataset


def shrunk(run: RunConfiguration, machine: Verl) -> tuple[RunConfiguration, Verl]:
    """Return ``run`` and ``machine`` as they are rehearsed on CPUs.

    Smaller are the batch, the number of updates in a step (two stand for several), the response and the number of
    steps; the limit on prompts, n, and everything else that the algorithm and the sampler are stay.
    """
    machine, training = machine.of(run.model), run.training
    prompts = 4 if run.n <= 4 else 2
    updates = min(2, training.prompts // training.mini_batch_prompts)
    changed = {
        "steps": STEPS,
        "checkpoint_every": 1,
        "prompts": prompts,
        "mini_batch_prompts": prompts // updates,
        "max_new_tokens": RESPONSE_TOKENS,
        "micro_batch_tokens": machine.max_prompt_tokens + RESPONSE_TOKENS,
        "warmup_steps": min(training.warmup_steps, STEPS),
    }
    on_cpu = {
        "device": "cpu",
        "nodes": 1,
        "gpus_per_node": 1,
        "tensor_parallel": 1,
        "offload": False,
        "gpu_memory_utilization": 0.5,
        "max_num_seqs": 32,  # vLLM warms up with as many rows of a whole vocabulary
        "attention": "sdpa",
        "validate_every": None,
        "resume_every": None,
        "dump_every": 1,
    }
    return (
        run.model_copy(update={"training": training.model_copy(update=changed)}),
        machine.model_copy(update=on_cpu),
    )


def choose_rows(
    frame: pd.DataFrame,
    tokenizer: Tokenizer,
    count: int,
    *,
    longest: int,
    seed: int,
    limit: int | None = None,
) -> pd.DataFrame:
    """Return ``count`` rows of a training set: the ``longest`` ones with the longest prompts, and others at random.

    The others are drawn among those whose answer is one digit, which a small model learns soon, where there are such.
    Rows keep what they are, their order is that of the file. Prompts of more than ``limit`` tokens are left
    out, as a training leaves them out, if they are among those looked at.
    """
    characters = frame["prompt"].map(lambda messages: sum(len(message["content"]) for message in messages))
    tried = characters.nlargest(LONGEST_TRIED).index
    lengths = pd.Series(
        {
            row: len(tokenizer.encode_chat(problem.messages))
            for row, problem in zip(tried, problems_of(frame.loc[tried]), strict=True)
        }
    )
    beyond = lengths.index[lengths > (limit or np.inf)]
    frame, lengths = frame.drop(beyond), lengths.drop(beyond)
    long = lengths.nlargest(longest).index
    answers = frame["reward_model"].map(lambda model: model["ground_truth"])
    digits = frame.index[answers.str.fullmatch(r"\d")].difference(long)
    others = digits if len(digits) >= count - longest else frame.index.difference(long)
    drawn = seeds.generator(seed, "rehearsal", "rows").choice(len(others), count - longest, replace=False)
    return frame.loc[sorted([*long, *others[sorted(drawn)]])].reset_index(drop=True)


def too_long(run: RunConfiguration, machine: Verl, model_configuration: Mapping[str, Any]) -> str | None:
    """Say where prompt and response at full length do not fit the model's positions; None where they do."""
    machine = machine.of(run.model)
    longest = machine.max_prompt_tokens + run.training.max_new_tokens
    positions = model_configuration["max_position_embeddings"]
    if longest <= positions:
        return None
    return (
        f"prompts of {machine.max_prompt_tokens} and responses of {run.training.max_new_tokens} tokens exceed the "
        f"model's {positions} positions: vLLM would refuse to start"
    )
