"""Judge the paper's claims from what has run: claims.json and claims.csv."""

import argparse
import logging
from pathlib import Path

from reproduction.claims import ResultsFolder, as_table, judge, load_claims
from reproduction.config import resolve
from reproduction.files import atomic_path, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=Path, required=True, help="workflow/claims.yaml")
    parser.add_argument("--configuration", required=True, help="JSON: scale, seeds, root_seed and overrides")
    parser.add_argument("--results", type=Path, required=True, help="{results}/{scale}")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    configuration, scale = resolve(arguments.configuration)
    judged = judge(load_claims(arguments.claims), ResultsFolder(arguments.results), configuration, scale)
    for row in judged["verdicts"]:
        logging.info("%s %-20s %s. %s", row["id"], row["reading"], row["verdict_in_full"], row["reason"])
    with atomic_path(arguments.csv) as temporary:
        as_table(judged).to_csv(temporary, index=False)
    write_json(arguments.json, judged)


if __name__ == "__main__":
    main()
