"""Draw a figure of estimates by training step."""

import argparse
import json
from pathlib import Path

import pandas as pd

from ead.pipeline.config import NamedSampler
from ead.pipeline.plotting import curves, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--estimates", type=Path, required=True)
    parser.add_argument("--metrics", nargs="+", required=True, help="panels, from top to bottom")
    parser.add_argument("--decoder-labels", required=True, help="JSON: decoder -> its name in figures")
    parser.add_argument("--samplers", required=True, help="JSON: sampler -> ead.pipeline.config.NamedSampler")
    parser.add_argument("--title", required=True)
    parser.add_argument("--pdf", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    arguments = parser.parse_args()

    estimates = pd.read_parquet(arguments.estimates)
    samplers = {
        name: NamedSampler.model_validate(values) for name, values in json.loads(arguments.samplers).items()
    }
    figure = curves.training_curves(
        estimates, arguments.metrics, json.loads(arguments.decoder_labels), samplers, arguments.title
    )
    style.save(figure, estimates, arguments.pdf, arguments.png, arguments.csv)


if __name__ == "__main__":
    main()
