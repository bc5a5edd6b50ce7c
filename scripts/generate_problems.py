"""Write the problems of one synthetic data set and its card."""

import argparse
from pathlib import Path

from reproduction.config import CountdownData
from reproduction.data import read_dataset, write_dataset
from reproduction.files import sha256_of_file, write_json
from reproduction.tasks import countdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="name of the data set")
    parser.add_argument("--definition", required=True, help="JSON of reproduction.config.CountdownData")
    parser.add_argument("--root-seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="Parquet file")
    parser.add_argument("--card", type=Path, required=True, help="JSON file that describes it")
    arguments = parser.parse_args()

    definition = CountdownData.model_validate_json(arguments.definition)
    problems = countdown.generate_problems(
        definition.numbers,
        definition.split,
        root_seed=arguments.root_seed,
        test_share=definition.test_share,
        limit=definition.limit,
    )
    write_dataset(countdown.dataset_rows(problems, arguments.name, definition.split), arguments.output)
    write_json(
        arguments.card,
        {
            "name": arguments.name,
            "source": "generated: reproduction.tasks.countdown",
            "definition": definition.model_dump(mode="json"),
            "root_seed": arguments.root_seed,
            "rows": len(read_dataset(arguments.output)),
            "solutions_per_problem": round(
                sum(len(countdown.solutions(definition.numbers)[p]) for p in problems) / len(problems), 2
            ),
            "sha256": sha256_of_file(arguments.output),
            "example": problems[0].prompt,
        },
    )


if __name__ == "__main__":
    main()
