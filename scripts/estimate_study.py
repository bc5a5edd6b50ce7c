"""Estimate an inference study, with intervals over problems, from its recorded responses."""

import argparse
import json
from pathlib import Path

from pydantic import TypeAdapter

from reproduction.config import AnyStudy
from reproduction.figures.inference import estimate_study
from reproduction.files import write_parquet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--study", required=True, help="JSON of one of reproduction.config's studies")
    parser.add_argument("--subject", required=True, help="JSON: cell, model, algorithm, sampler, n")
    parser.add_argument("--root-seed", type=int, required=True)
    parser.add_argument("--problems", type=Path, required=True, help="scores by problem (Parquet)")
    parser.add_argument("--output", type=Path, required=True, help="estimates (Parquet)")
    arguments = parser.parse_args()

    study = TypeAdapter(AnyStudy).validate_json(arguments.study)
    estimates, scores = estimate_study(
        study, arguments.manifest, json.loads(arguments.subject), root_seed=arguments.root_seed
    )
    write_parquet(scores, arguments.problems)
    write_parquet(estimates, arguments.output)


if __name__ == "__main__":
    main()
