"""How many training seeds each claim needs for an effect of its margin's size, from what has run or is assumed."""

import argparse
from pathlib import Path

import pandas as pd

from reproduction.claims import ResultsFolder, load_claims, power_table
from reproduction.config import resolve
from reproduction.files import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=Path, required=True, help="workflow/claims.yaml")
    parser.add_argument("--configuration", required=True, help="JSON: scale, seeds, root_seed and overrides")
    parser.add_argument("--results", type=Path, required=True, help="{results}/{scale}")
    parser.add_argument("--csv", type=Path, required=True)
    arguments = parser.parse_args()

    configuration, scale = resolve(arguments.configuration)
    claims = load_claims(arguments.claims)
    table = pd.DataFrame(power_table(claims, ResultsFolder(arguments.results), configuration, scale))
    table = table.astype(dict.fromkeys(["seeds_planned", "seeds_alone", "seeds_corrected"], "Int64"))
    with atomic_path(arguments.csv) as temporary:
        table.to_csv(temporary, index=False)
    print(table.astype(object).fillna("-").to_string(index=False))
    print(
        "Planned: seeds that all sides of the claim have in this configuration; with fewer than needed it is "
        "inconclusive.\n"
        f"Seeds with which an effect of the margin's size is found with a probability of {claims.power:.0%}: for the "
        "claim\nalone, and after the correction over all claims of its reading. A dash: not known, or none is enough."
    )


if __name__ == "__main__":
    main()
