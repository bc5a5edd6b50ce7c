"""Estimate what a figure or a table shows, with intervals where there is data behind it."""

import argparse
import json
from pathlib import Path

from reproduction.figures import ALL_KINDS
from reproduction.files import write_parquet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--request", required=True, help="JSON of the figure's `estimation` (reproduction.figures)"
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--evaluations", type=Path, required=True, help="folder of their evaluations")
    parser.add_argument("--partial", action="store_true", help="runs without results are shown as not run")
    parser.add_argument("--manifest", type=Path, help="of a study of decoding, or of one evaluation")
    parser.add_argument(
        "--problems", type=Path, help="scores by problem (Parquet), which a study also leaves"
    )
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    request = json.loads(arguments.request)
    kind = ALL_KINDS[request.pop("analysis")]
    read = {"runs": arguments.runs, "evaluations": arguments.evaluations, "partial": arguments.partial}
    if arguments.manifest:
        read |= {"manifest": arguments.manifest, "problems": arguments.problems}
    write_parquet(kind.estimate(**request, **read), arguments.output)


if __name__ == "__main__":
    main()
