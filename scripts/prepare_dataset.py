"""Prepare one real data set: results/data/{dataset}.parquet and its data card.

    python scripts/prepare_dataset.py --dataset math500 --real-data FOLDER \\
        --output math500.parquet --card math500.card.json

Without --real-data the files come from the hub, at the revision that workflow/datasets.yaml pins.
"""

import argparse
import sys
from pathlib import Path

from reproduction.data.prepare import prepare_dataset
from reproduction.data.table import TABLE, find_dataset, load_datasets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="name in the table")
    parser.add_argument("--table", type=Path, default=TABLE, help="table of data sets")
    parser.add_argument("--real-data", type=Path, help="folder with local copies; without it, the hub")
    parser.add_argument("--cache", type=Path, help="the hub client's cache folder (default: its own)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--tokenizer", type=Path, help="tokenizer.json that counts the tokens of a problem")
    length.add_argument("--any-length", action="store_true", help="leave out no problem for its length")
    parser.add_argument(
        "--accept-unpinned",
        action="store_true",
        help="use hub files for which the table pins no revision; the card says so",
    )
    parser.add_argument("--output", type=Path, required=True, help="data set (Parquet)")
    parser.add_argument("--card", type=Path, required=True, help="data card (JSON)")
    arguments = parser.parse_args()
    try:
        card = prepare_dataset(
            arguments.dataset,
            find_dataset(arguments.dataset, load_datasets(arguments.table)),
            arguments.output,
            arguments.card,
            real_data=arguments.real_data,
            cache=arguments.cache,
            tokenizer=arguments.tokenizer,
            any_length=arguments.any_length,
            accept_unpinned=arguments.accept_unpinned,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    rows = card["rows"]
    print(f"{card['name']}: read {rows['read']} rows, kept {rows['kept']}, dropped {rows['dropped']}")
    for reason, dropped in card["dropped"].items():
        print(f"  {reason}: {dropped['count']}")


if __name__ == "__main__":
    main()
