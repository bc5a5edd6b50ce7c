"""Rehearse a scale of the verl engine on CPUs: `snakemake rehearse --config scale=gpu1`.

Every distinct training configuration is trained for two steps with a stand-in for its model; the first of each model
and algorithm is killed and resumed. Passed cells are kept below --folder; what is printed is also in --table.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

import psutil

from reproduction.config import ConfigurationError
from reproduction.files import write_json, write_text
from reproduction.rehearsal import rehearse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configuration", required=True, help="JSON of reproduction.config.Configuration")
    parser.add_argument(
        "--datasets", required=True, help="JSON: name in workflow/datasets.yaml -> prepared file"
    )
    parser.add_argument(
        "--tokenizers", type=Path, help="folder with {owner}/{model}/tokenizer.json; else the hub"
    )
    parser.add_argument("--select", help="parts of run names, as for `snakemake runs`")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="cores, each for a cell at a time where memory allows",
    )
    parser.add_argument("--folder", type=Path, required=True, help="where rehearsals are kept")
    parser.add_argument(
        "--table", type=Path, required=True, help="JSON; a Markdown file is written beside it"
    )
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    rehearsal = rehearse.Rehearsal(
        configuration=json.loads(arguments.configuration),
        datasets={name: Path(path).resolve() for name, path in json.loads(arguments.datasets).items()},
        tokenizers=arguments.tokenizers and arguments.tokenizers.resolve(),
        folder=arguments.folder.resolve(),
        environment=dict(os.environ),
    )

    def report(stage: rehearse.Stage, rows: list[rehearse.Row]) -> None:
        write_json(arguments.table, rehearse.as_data(rows, stage.scale_name, list(stage.runs)))
        write_text(arguments.table.with_suffix(".md"), rehearse.as_markdown(rows, stage.scale_name))

    # A training's processes are started one after another, and each imports for seconds: one core is little more idle.
    jobs = max(1, min(arguments.threads, psutil.virtual_memory().available // rehearse.CELL_BYTES))
    try:
        stage, rows = rehearse.rehearse(rehearsal, report, arguments.select, jobs)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    print(rehearse.as_markdown(rows, stage.scale_name))
    return int(any(row.status == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
