"""List the problems that a training set and an evaluation set share (reproduction.data.contamination)."""

import argparse
import sys
from pathlib import Path

from reproduction.data import read_dataset
from reproduction.data.contamination import report
from reproduction.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=Path, required=True, help="data set (Parquet)")
    parser.add_argument("--evaluation", type=Path, required=True, help="data set (Parquet)")
    parser.add_argument("--output", type=Path, required=True, help="shared problems (JSON)")
    arguments = parser.parse_args()
    try:
        found = report(read_dataset(arguments.training), read_dataset(arguments.evaluation))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    write_json(arguments.output, found)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["problems_by_kind"].items())
    print(
        f"{found['training']['name']} has {found['contaminated_problems']} of the "
        f"{found['evaluation']['problems']} problems of {found['evaluation']['name']} ({kinds})"
    )


if __name__ == "__main__":
    main()
