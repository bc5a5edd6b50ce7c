"""Draw the figure of an inference study."""

import argparse
import json
from pathlib import Path

import pandas as pd
from pydantic import TypeAdapter

from reproduction.config import AnyStudy
from reproduction.figures import inference, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--estimates", type=Path, required=True)
    parser.add_argument("--study", required=True, help="JSON of one of reproduction.config's studies")
    parser.add_argument("--decoders", required=True, help="JSON: decoder -> {label, style}")
    parser.add_argument("--title", required=True)
    parser.add_argument("--subject", required=True, help="what was looked at, in words")
    parser.add_argument("--pdf", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    arguments = parser.parse_args()

    estimates = pd.read_parquet(arguments.estimates)
    figure = inference.draw(
        TypeAdapter(AnyStudy).validate_json(arguments.study),
        estimates,
        json.loads(arguments.decoders),
        title=arguments.title,
        subject=arguments.subject,
    )
    style.save(figure, estimates, arguments.pdf, arguments.png, arguments.csv)


if __name__ == "__main__":
    main()
