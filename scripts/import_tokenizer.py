"""Fetch the tokenizer.json of a published model, without its weights.

The models are the keys of workflow/models.yaml.
"""

import argparse
import sys
from pathlib import Path

from reproduction.models.pretrained import TABLE, import_tokenizer, load_models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="name in the table")
    parser.add_argument("--table", type=Path, default=TABLE, help="table of pretrained models")
    parser.add_argument("--cache", type=Path, help="the hub client's cache folder (default: its own)")
    parser.add_argument("--output", type=Path, required=True, help="tokenizer.json")
    arguments = parser.parse_args()
    try:
        import_tokenizer(
            arguments.model, arguments.output, table=load_models(arguments.table), cache=arguments.cache
        )
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
