"""Make a figure or a table of its estimates: PDF, PNG and the CSV of what is drawn, or CSV and HTML."""

import argparse
import json
from pathlib import Path

from reproduction.figures import ALL_KINDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--estimates", type=Path, required=True, help="what it shows, as its kind reads it")
    parser.add_argument(
        "--request", required=True, help="JSON of the figure's `drawing` (reproduction.figures)"
    )
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="what is written, by suffix")
    arguments = parser.parse_args()

    request = json.loads(arguments.request)
    kind = ALL_KINDS[request["analysis"]]
    kind.write(arguments.estimates, request, {path.suffix[1:]: path for path in arguments.files})


if __name__ == "__main__":
    main()
