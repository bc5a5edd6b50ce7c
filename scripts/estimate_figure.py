"""Estimate what a figure or a table shows, with intervals where there is data behind it."""

import argparse
import json
from pathlib import Path

import pandas as pd

from reproduction.figures import analyses, theory
from reproduction.files import write_parquet

FROM_RUNS = {"training_curves": analyses.training_curves, "decoder_matrix": analyses.decoder_matrix}
FROM_FORMULAS = {
    "schedules": theory.schedule_curves,
    "propositions": theory.propositions,
    "hyperparameters": lambda rows: pd.DataFrame(rows),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--request", required=True, help="JSON of reproduction.figures.estimation_request")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--evaluations", type=Path, required=True, help="folder of their evaluations")
    parser.add_argument("--partial", action="store_true", help="runs without results are shown as not run")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    request = json.loads(arguments.request)
    kind = request.pop("analysis")
    if kind in FROM_RUNS:
        table = FROM_RUNS[kind](
            **request, runs=arguments.runs, evaluations=arguments.evaluations, partial=arguments.partial
        )
    else:
        table = FROM_FORMULAS[kind](**request)
    write_parquet(table, arguments.output)


if __name__ == "__main__":
    main()
