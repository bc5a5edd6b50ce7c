"""Draw a figure from its estimates: PDF, PNG, and the CSV of what it shows."""

import argparse
import json
from pathlib import Path

import pandas as pd

from reproduction.figures import KINDS, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--estimates", type=Path, required=True)
    parser.add_argument(
        "--request", required=True, help="JSON of the figure's `drawing` (reproduction.figures)"
    )
    parser.add_argument("--pdf", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    arguments = parser.parse_args()

    estimates = pd.read_parquet(arguments.estimates)
    request = json.loads(arguments.request)
    figure = KINDS[request["analysis"]].plot(estimates, request)
    style.save(figure, estimates, arguments.pdf, arguments.png, arguments.csv)


if __name__ == "__main__":
    main()
