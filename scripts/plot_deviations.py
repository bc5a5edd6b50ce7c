"""Draw the paired differences of the deviations page."""

import argparse
import json
from pathlib import Path

from reproduction.figures import deviations, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deviations", type=Path, required=True, help="JSON of tabulate_deviations.py")
    parser.add_argument("--title", required=True)
    parser.add_argument("--pdf", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    arguments = parser.parse_args()

    table = json.loads(arguments.deviations.read_text(encoding="utf-8"))
    drawn = deviations.differences(table["rows"])
    style.save(deviations.forest(drawn, arguments.title), drawn, arguments.pdf, arguments.png, arguments.csv)


if __name__ == "__main__":
    main()
