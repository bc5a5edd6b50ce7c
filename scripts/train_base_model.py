"""Train a base model from scratch on demonstrations (the supervised warm start), or take the published one."""

import argparse
import shutil
from pathlib import Path

from reproduction.cluster import compute
from reproduction.config import WarmStartModel
from reproduction.data import read_dataset
from reproduction.files import atomic_directory, checksums, load_json, sha256_of_file, write_json
from reproduction.models import published
from reproduction.progress import Progress
from reproduction.tasks.grading import problems_of, task_of
from reproduction.training import warmstart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the model")
    parser.add_argument("--definition", required=True, help="JSON of reproduction.config.WarmStartModel")
    parser.add_argument("--root-seed", type=int, required=True)
    parser.add_argument("--dataset", type=Path, required=True, help="problems to demonstrate")
    parser.add_argument("--output", type=Path, required=True, help="manifest; the model is written beside it")
    parser.add_argument(
        "--published", type=Path, help="folder of base models; one that is as defined is taken"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--progress", type=Path)
    arguments = parser.parse_args()

    compute.set_up(arguments.threads)
    definition = WarmStartModel.model_validate_json(arguments.definition)
    rows = problems_of(read_dataset(arguments.dataset))
    task = task_of(rows[0])
    problems = [task.read(row) for row in rows]
    recipe = published.recipe_sha256(
        definition, arguments.root_seed, [problem.prompt for problem in problems]
    )
    if arguments.published:
        carried = arguments.published / arguments.name
        if published.is_of(recipe, carried / "manifest.json"):
            with atomic_directory(arguments.output.parent) as folder:
                shutil.copytree(carried, folder, dirs_exist_ok=True)
                manifest = folder / arguments.output.name
                write_json(manifest, {**load_json(manifest), "source": warmstart.PUBLISHED})
            print(f"base model {arguments.name}: the published one in {carried}")
            return
        print(
            f"base model {arguments.name}: none is published with this definition, seed and problems; trained here"
        )
    with Progress(arguments.progress, f"base model {arguments.name}", definition.steps, "step") as bar:
        model, losses = warmstart.train(
            definition,
            task,
            problems,
            root_seed=arguments.root_seed,
            report=lambda step, loss: bar.update(step, f"loss {loss:.3f} nats"),
        )
    with atomic_directory(arguments.output.parent) as folder:
        model.save(folder)
        warmstart.write_tokenizer(folder, task.vocabulary)
        write_json(
            folder / arguments.output.name,
            {
                "name": arguments.name,
                "source": warmstart.SOURCE,
                "definition": definition.model_dump(mode="json"),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "root_seed": arguments.root_seed,
                "recipe_sha256": recipe,
                "dataset_sha256": sha256_of_file(arguments.dataset),
                "final_loss": losses[-1],
                "sha256": sha256_of_file(folder / published.WEIGHTS),
                "files": checksums(folder),
            },
        )


if __name__ == "__main__":
    main()
