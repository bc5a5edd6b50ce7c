"""Draw the verdicts with their intervals."""

import argparse
import json
from pathlib import Path

from reproduction.figures import claims, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=Path, required=True, help="claims.json")
    parser.add_argument("--pdf", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    arguments = parser.parse_args()

    judged = json.loads(arguments.claims.read_text(encoding="utf-8"))
    drawn = claims.rows(judged)
    style.save(claims.forest(judged, drawn), drawn, arguments.pdf, arguments.png, arguments.csv)


if __name__ == "__main__":
    main()
