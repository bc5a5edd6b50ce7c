"""List finished runs that were made by other code than the present one, and the files that differ.

A run's manifest holds the checksum of every file of the project that its training had loaded. Nothing is run again
because of a difference: it may be a comment. To train a run again, delete its folder and its state.
"""

import argparse
from pathlib import Path

from reproduction.files import load_json
from reproduction.versions import changed_sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of finished runs")
    arguments = parser.parse_args()

    manifests = sorted(arguments.runs.rglob("manifest.json"))
    stale = 0
    for path in manifests:
        manifest = load_json(path)
        code = manifest["code"]
        changed = changed_sources(code["sources"])
        if changed:
            stale += 1
            print(f"{manifest['run']}  made at {code['commit'][:8]}: {', '.join(changed)}")
    print(f"{stale} of {len(manifests)} runs were made by other code.")


if __name__ == "__main__":
    main()
