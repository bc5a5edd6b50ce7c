"""Write the problems of one synthetic data set and its card."""

import argparse
from pathlib import Path

from pydantic import TypeAdapter

from reproduction.data import write_dataset
from reproduction.files import sha256_of_file, write_json
from reproduction.tasks import AnyGeneratedData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the data set")
    parser.add_argument("--definition", required=True, help="JSON of one of reproduction.tasks' data sets")
    parser.add_argument("--root-seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="Parquet file")
    parser.add_argument("--card", type=Path, required=True, help="JSON file that describes it")
    arguments = parser.parse_args()

    definition = TypeAdapter(AnyGeneratedData).validate_json(arguments.definition)
    problems = definition.problems(arguments.root_seed, definition.limit)
    write_dataset(definition.rows(problems, arguments.name), arguments.output)
    write_json(
        arguments.card,
        {
            "name": arguments.name,
            "source": f"generated: reproduction.tasks.{definition.kind}",
            "definition": definition.model_dump(mode="json"),
            "root_seed": arguments.root_seed,
            "rows": len(problems),
            **definition.facts(problems),
            "sha256": sha256_of_file(arguments.output),
            "example": problems[0].prompt,
        },
    )


if __name__ == "__main__":
    main()
