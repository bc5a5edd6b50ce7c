"""Export the provenance of a scale's report as an RO-Crate."""

import argparse
import json
from pathlib import Path

from reproduction.config import resolve
from reproduction.figures import load_experiments
from reproduction.report import provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--configuration", required=True, help="JSON of the choices in config.yaml")
    parser.add_argument("--datasets", required=True, help="JSON: data set -> its Parquet file")
    parser.add_argument("--results", type=Path, required=True, help="folder of the scale's results")
    parser.add_argument("--report", type=Path, required=True, help="the report; the crate is its folder")
    arguments = parser.parse_args()

    configuration, scale = resolve(arguments.configuration)
    kinds = provenance.export(
        configuration,
        scale,
        load_experiments(),
        {name: Path(path) for name, path in json.loads(arguments.datasets).items()},
        results=arguments.results,
        reports=arguments.report.parent,
    )
    print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))


if __name__ == "__main__":
    main()
