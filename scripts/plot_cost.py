"""Draw how cost grows, from the times that the runs of a scale recorded: PDF, PNG, and the CSV of what it shows."""

import argparse
from pathlib import Path

from reproduction import figures
from reproduction.config import resolve
from reproduction.config.runs import expand_all
from reproduction.costs import growth
from reproduction.costs import plot as plots
from reproduction.figures import load_experiments, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--configuration", required=True, help="JSON of the choices in config.yaml")
    parser.add_argument("--experiments", nargs="*", default=[], help="those whose runs are counted")
    parser.add_argument("--results", type=Path, required=True, help="folder of the scale's results")
    parser.add_argument("--pdf", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    arguments = parser.parse_args()

    configuration, scale = resolve(arguments.configuration, experiments=arguments.experiments)
    runs_of = expand_all(configuration, scale, load_experiments())
    runs = {name: run for experiment in arguments.experiments for name, run in runs_of[experiment].items()}
    found = growth.tabulate(arguments.results, runs)
    models = {role.model: figures.model_label(role.model, name) for name, role in scale.roles.items()}
    figure = plots.growth(found, models, scale.description)
    style.save(figure, found.table, arguments.pdf, arguments.png, arguments.csv)


if __name__ == "__main__":
    main()
