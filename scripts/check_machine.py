"""What `make` asks before it installs or runs anything: is this Python one of those, can Snakemake keep its files?

Standard library only, in words that an old Python reads too.
"""

import os
import sys
from pathlib import Path

# Of envs/cpu.txt: immutables 0.21, the newest, has no wheel for 3.14.
OLDEST, NEWEST = (3, 11), (3, 13)
OLDEST_VERL, NEWEST_VERL = (3, 11), (3, 12)  # verl 0.9.1 and its vLLM ask for less than 3.13


def wrong_python(version, verl=False):
    """Return why ``version`` (3, 13) cannot hold the environment, or nothing."""
    oldest, newest = (OLDEST_VERL, NEWEST_VERL) if verl else (OLDEST, NEWEST)
    if oldest <= version <= newest:
        return ""
    what = "the environment of verl and vLLM" if verl else "this project"
    say = ".".join
    found, first, last = (say(map(str, numbers)) for numbers in (version, oldest, newest))
    return (
        f"{what} needs Python {first} to {last}, and {sys.executable} is Python {found}. "
        f"Name another one, for instance: make PYTHON=python{last} ..."
    )


def cache_folder(environment):
    """Return the folder that Snakemake keeps copies of workflow files in."""
    given = environment.get("XDG_CACHE_HOME", "").strip()
    return Path(given) if given else Path("~").expanduser() / ".cache"


def wrong_cache(environment):
    """Return what to set where Snakemake could not make its folder, or nothing."""
    folder = cache_folder(environment)
    try:
        (folder / "snakemake").mkdir(parents=True, exist_ok=True)
        writable = os.access(str(folder / "snakemake"), os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if writable:
        return ""
    return (
        f"{folder} cannot be written, and Snakemake keeps files in it. Set XDG_CACHE_HOME to a folder that can be, "
        'for instance: export XDG_CACHE_HOME="$PWD/.cache"'
    )


def main(words):
    problems = (wrong_python(sys.version_info[:2], verl="verl" in words), wrong_cache(os.environ))
    for problem in filter(None, problems):
        print(problem, file=sys.stderr)
    return 1 if any(problems) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
