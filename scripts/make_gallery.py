"""Copy the pictures and verdicts of one full run into reports/gallery, small enough to commit, and draw the schedule.

  python scripts/make_gallery.py --reports reports/cpu --gallery reports/gallery --readme README.md
  python scripts/make_gallery.py --gallery reports/gallery --readme README.md

The project's README gets the verdicts too, between two comments that mark their place. The gallery is outside the
rules' outputs: no rule reads or writes it. Without --reports the pages and the picture of the verdicts are made again
from what the gallery holds.
"""

import argparse
import sys
from pathlib import Path

from reproduction.config import ConfigurationError
from reproduction.report import gallery

REMEDIES = (
    "`git checkout` restores the gallery, --reports makes it from a run.",
    "`make reproduce` makes this file again where it is missing or was deleted; the tables and pictures of rivals are "
    "made by `snakemake rivals_tuning rivals`.",
)  # for what the gallery holds, and for the reports of a run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--reports", type=Path, help="reports of the scale; without it, what the gallery holds"
    )
    parser.add_argument("--gallery", type=Path, required=True)
    parser.add_argument("--readme", type=Path, help="page that shows the verdicts in short")
    arguments = parser.parse_args()

    try:
        gallery.make(arguments.reports, arguments.gallery, arguments.readme)
    except ConfigurationError as error:
        print(f"{error}\nNothing was written. {REMEDIES[arguments.reports is not None]}", file=sys.stderr)
    except ValueError as error:
        print(f"{error}\nNothing was written.", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
