"""Write what the verdicts of a run rest on, small enough to commit: counts by problem and metrics by step, with hashes.

python scripts/export_evidence.py --results results/cpu --reports reports/cpu --evidence reports/evidence/cpu
"""

import argparse
import sys
from pathlib import Path

from reproduction.claims import ResultsFolder, export, load_claims
from reproduction.config import load_configuration
from reproduction.files import load_json


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="{results}/{scale}")
    parser.add_argument("--reports", type=Path, required=True, help="{reports}/{scale}, with claims.json")
    parser.add_argument("--evidence", type=Path, required=True, help="folder that is written, or replaced")
    arguments = parser.parse_args()

    claims = arguments.reports / "claims.json"
    if not claims.exists():
        print(f"{claims}: no such file; `make reproduce` writes it", file=sys.stderr)
        return 1
    judged = load_json(claims)
    try:
        configuration = load_configuration(judged["configuration"], str(claims))
        export(load_claims(), judged, ResultsFolder(arguments.results), configuration, arguments.evidence)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    total = sum(path.stat().st_size for path in arguments.evidence.iterdir())
    print(f"{total:,} bytes in {arguments.evidence}; `make judge` judges from them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
