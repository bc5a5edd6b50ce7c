"""Train a base model from scratch on demonstrations (the supervised warm start)."""

import argparse
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from ead import seeds
from ead.pipeline import warmstart
from ead.pipeline.config import WarmStartModel
from ead.pipeline.countdown import Demonstrator, Problem
from ead.pipeline.data import read_dataset
from ead.pipeline.files import atomic_directory, sha256_of_file, write_json
from ead.pipeline.progress import Progress
from ead.pipeline.rewards import problems_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the model")
    parser.add_argument("--definition", required=True, help="JSON of ead.pipeline.config.WarmStartModel")
    parser.add_argument("--root-seed", type=int, required=True)
    parser.add_argument("--dataset", type=Path, required=True, help="problems to demonstrate")
    parser.add_argument("--output", type=Path, required=True, help="manifest; the model is written beside it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--progress", type=Path)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    transformers_logging.disable_progress_bar()
    definition = WarmStartModel.model_validate_json(arguments.definition)
    problems = [
        Problem(tuple(problem.details["numbers"]), int(problem.answer))
        for problem in problems_of(read_dataset(arguments.dataset))
    ]
    tokenizer = warmstart.build_tokenizer()
    model = warmstart.build_model(
        tokenizer,
        hidden_size=definition.hidden_size,
        layers=definition.layers,
        heads=definition.heads,
        mlp_size=definition.mlp_size,
        max_positions=definition.max_positions,
        seed=seeds.derive(arguments.root_seed, "warm start", "weights"),
    )
    settings = warmstart.WarmStart(
        steps=definition.steps,
        batch_size=definition.batch_size,
        learning_rate=definition.learning_rate,
        warmup_steps=definition.warmup_steps,
    )
    demonstrator = Demonstrator(definition.skill, definition.surrender, definition.max_attempts)
    with Progress(arguments.progress, f"base model {arguments.name}", definition.steps, "step") as bar:
        losses = warmstart.train(
            model,
            tokenizer,
            problems,
            demonstrator,
            settings,
            root_seed=arguments.root_seed,
            report=lambda step, loss: bar.update(step, f"loss {loss:.3f} nats"),
        )
    with atomic_directory(arguments.output.parent) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(
            folder / arguments.output.name,
            {
                "name": arguments.name,
                "source": "trained from scratch: ead.pipeline.warmstart",
                "definition": definition.model_dump(mode="json"),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "dataset_sha256": sha256_of_file(arguments.dataset),
                "final_loss": losses[-1],
                "sha256": sha256_of_file(folder / "model.safetensors"),
            },
        )


if __name__ == "__main__":
    main()
