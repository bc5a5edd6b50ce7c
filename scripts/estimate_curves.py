"""Estimate a figure's metrics, with intervals, at every checkpoint of its runs."""

import argparse
import json
from pathlib import Path

from ead.pipeline.analyses import training_curves
from ead.pipeline.files import write_parquet
from ead.pipeline.runs import RunConfiguration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", required=True, help="JSON list of run configurations")
    parser.add_argument("--evaluations", type=Path, required=True, help="folder of the runs' evaluations")
    parser.add_argument("--metrics", nargs="+", required=True)
    parser.add_argument("--root-seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    cells: dict[str, list[tuple[RunConfiguration, Path]]] = {}
    base_models: dict[str, Path] = {}
    for values in json.loads(arguments.runs):
        run = RunConfiguration.from_json(json.dumps(values))
        cells.setdefault(run.cell, []).append((run, arguments.evaluations / run.name / "manifest.json"))
        base_models[run.model] = arguments.evaluations / f"model~{run.model}" / "manifest.json"
    estimates = training_curves(cells, base_models, arguments.metrics, root_seed=arguments.root_seed)
    write_parquet(estimates, arguments.output)


if __name__ == "__main__":
    main()
