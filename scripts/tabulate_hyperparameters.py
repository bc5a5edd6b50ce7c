"""Write Table 1 as CSV and HTML."""

import argparse
from pathlib import Path

import pandas as pd

from reproduction.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--html", type=Path, required=True)
    arguments = parser.parse_args()

    table = pd.read_parquet(arguments.table)
    write_text(arguments.csv, table.to_csv(index=False))
    write_text(arguments.html, table.to_html(index=False, border=0))


if __name__ == "__main__":
    main()
