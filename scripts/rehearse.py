"""Rehearse a scale of the verl engine on CPUs: `snakemake rehearse --config scale=gpu1`.

Every distinct training configuration is trained for two steps with a stand-in for its model; the first of each model
and algorithm is killed and resumed. Passed cells are kept below --folder; what is printed is also in --table.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from reproduction.cluster import compute
from reproduction.config import ConfigurationError
from reproduction.config.command_line import selected
from reproduction.files import write_json, write_text
from reproduction.plan import read_plan
from reproduction.rehearsal import rehearse
from reproduction.rehearsal.cells import distinct
from reproduction.rehearsal.exercise import clean_environment
from reproduction.rehearsal.stand_in import load_stand_ins


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
    parser.add_argument("--folder", type=Path, required=True, help="where rehearsals are kept")
    parser.add_argument(
        "--table", type=Path, required=True, help="JSON; a Markdown file is written beside it"
    )
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    compute.set_up(threads=1)  # what it computes itself is small
    try:
        plan = read_plan(json.loads(arguments.configuration))
        runs = rehearse.first_runs(plan)
        chosen = selected(runs, arguments.select) if arguments.select else None
        stage = rehearse.Stage(
            scale_name=plan.configuration.scale,
            scale=plan.scale,
            experiments=plan.experiments,
            runs_of=plan.runs_of,
            models=plan.models,
            table=load_stand_ins(),
            datasets={name: Path(path).resolve() for name, path in json.loads(arguments.datasets).items()},
            tokenizers=arguments.tokenizers and arguments.tokenizers.resolve(),
            folder=arguments.folder.resolve(),
            environment=clean_environment(),
            root_seed=plan.configuration.root_seed,
        )
        cells = distinct(runs.values(), plan.scale.verl)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1

    def report(rows: list[rehearse.Row]) -> None:
        write_json(arguments.table, rehearse.as_data(rows, stage.scale_name, list(runs)))
        write_text(arguments.table.with_suffix(".md"), rehearse.as_markdown(rows, stage.scale_name))

    rows = rehearse.rehearse(cells, stage, report, chosen)
    print(rehearse.as_markdown(rows, stage.scale_name))
    return int(any(row.status == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
