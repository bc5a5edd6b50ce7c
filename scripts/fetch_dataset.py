"""Fetch a data set's files from the hub into the client's cache, check them, and note what they are.

Preparing the data set then needs no connection. The names are those of workflow/datasets.yaml.
"""

import argparse
import sys
from pathlib import Path

from reproduction.data.sources import describe, hub_files
from reproduction.data.table import TABLE, find_dataset, load_datasets
from reproduction.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="name in the table")
    parser.add_argument("--table", type=Path, default=TABLE, help="table of data sets")
    parser.add_argument("--cache", type=Path, help="the hub client's cache folder (default: its own)")
    parser.add_argument("--output", type=Path, required=True, help="what was fetched (JSON)")
    arguments = parser.parse_args()
    try:
        source = find_dataset(arguments.dataset, load_datasets(arguments.table)).hub
        if source is None:
            raise ValueError(
                f"{arguments.dataset}: the table has only a local copy; set paths.real_data to its folder"
            )
        revision, files = hub_files(source, cache=arguments.cache)
    except ValueError as error:
        sys.exit(f"error: {error}")
    write_json(arguments.output, describe(source, revision, files))


if __name__ == "__main__":
    main()
