"""Compute what each deviation D01-D20 changes in numbers: JSON, CSV and a page."""

import argparse
from pathlib import Path

import pandas as pd

from reproduction import report
from reproduction.claims import deviations
from reproduction.claims.recorded import Recorded
from reproduction.config import resolve
from reproduction.config.runs import expand_all
from reproduction.figures import load_experiments
from reproduction.files import write_json, write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--configuration", required=True, help="JSON of the choices in config.yaml")
    parser.add_argument("--experiment", required=True, help="entry of workflow/experiments.yaml")
    parser.add_argument("--results", type=Path, required=True, help="folder of the scale's results")
    parser.add_argument(
        "--dataset", type=Path, required=True, help="problems that checkpoints are evaluated on"
    )
    parser.add_argument("--training-card", type=Path, required=True, help="card of the training set")
    parser.add_argument("--real-lm-dataset", type=Path, help="problems of the published language model")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--html", type=Path, required=True)
    arguments = parser.parse_args()

    configuration, scale = resolve(arguments.configuration)
    recorded = Recorded.of(
        configuration.root_seed,
        scale,
        expand_all(configuration, scale, load_experiments())[arguments.experiment],
        arguments.results,
        dataset_file=arguments.dataset,
        training_card=arguments.training_card,
        real_lm_dataset=arguments.real_lm_dataset,
    )
    table = {
        "schema": 1,
        "scale": configuration.scale,
        "decoder": recorded.decoder,
        "root_seed": configuration.root_seed,
        "rows": deviations.tabulate(deviations.load_deviations(), recorded),
    }
    write_json(arguments.json, table)
    measures = [{"id": row["id"], **measure} for row in table["rows"] for measure in row["measures"]]
    frame = pd.DataFrame(measures)
    frame["evidence"] = frame["evidence"].map(" ".join)
    write_text(arguments.csv, frame.to_csv(index=False, float_format="%.6g"))
    write_text(arguments.html, report.render("deviations.html", deviations=table))


if __name__ == "__main__":
    main()
