"""Write the HTML report from recorded artefacts: one file that opens from disk, offline."""

import argparse
from pathlib import Path

from reproduction import report
from reproduction.config import resolve
from reproduction.figures import load_experiments
from reproduction.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--configuration", required=True, help="JSON of the choices in config.yaml")
    parser.add_argument("--experiments", nargs="*", default=[], help="those that config.yaml switches on")
    parser.add_argument("--results", type=Path, required=True, help="folder of the scale's results")
    parser.add_argument("--ingested", type=Path, required=True, help="what ingest_runs.py reported")
    parser.add_argument("--output", type=Path, required=True, help="HTML file among the scale's reports")
    arguments = parser.parse_args()

    configuration, scale = resolve(arguments.configuration, experiments=arguments.experiments)
    values = report.collect(
        configuration,
        scale,
        load_experiments(),
        results=arguments.results,
        reports=arguments.output.parent,
        ingested=arguments.ingested,
    )
    write_text(arguments.output, report.render("report.html", **values))


if __name__ == "__main__":
    main()
