"""Write docs/licences.md: every pinned package of the environments with its version and licence. `make licences`.

Licences are what the installed packages say of themselves: their SPDX expression, else their classifier, else their
own words, else the licence file that they bring.
"""

import argparse
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

from reproduction.config import REPOSITORY
from reproduction.files import write_text

PAGE = REPOSITORY / "docs" / "licences.md"
ENVIRONMENTS = {"cpu": ".venv", "verl-cpu": ".venv-verl-cpu"}
COPYLEFT = re.compile(r"GPL|General Public|Mozilla|MPL|EUPL|Eclipse|EPL|CDDL", re.IGNORECASE)
SHORT = {
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "The MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
HEADER = """# Licences

This page lists the packages that `envs/*.txt` pin, each with the licence that it states: its SPDX expression, or
else its classifier, its own words, or the licence file that it brings. `make licences` writes the page from the
installed environments, and a test compares names and versions with the pinned lists. None of the packages is part
of this repository, which is under Apache-2.0; they are installed beside it.
"""


def pins(environment: str) -> dict[str, str]:
    """Return package -> pinned version of ``envs/{environment}.txt``; names in their normal form."""
    text = (REPOSITORY / "envs" / f"{environment}.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;+]+)", text, re.MULTILINE)
    return {normal(name): version for name, version in found}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(package: Distribution) -> str:
    """Return what a package says of its licence, in a few words."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    prefix = "License :: "
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith(prefix)]
    named = [c.split(" :: ")[-1] for c in classifiers if c != f"{prefix}OSI Approved"]
    if named:
        return ", ".join(dict.fromkeys(SHORT.get(name, name) for name in named))
    words = next((line.strip() for line in (metadata.get("License") or "").splitlines() if line.strip()), "")
    words = SHORT.get(words, words)
    words = words if len(words) <= 60 else f"{words[:57]}..."
    return words or licence_file_of(package)


# A phrase that opens or names a licence -> its SPDX name.
PHRASES = {
    "Permission is hereby granted, free of charge": "MIT",
    "Apache License": "Apache-2.0",
    "Redistribution and use in source and binary forms": "BSD",
    "GNU GENERAL PUBLIC LICENSE": "GPL",
    "NVIDIA": "NVIDIA Proprietary Software",
}


def licence_file_of(package: Distribution) -> str:
    """Return the licence that a package's own licence file is, or nothing."""
    for file in package.files or []:
        if re.match(r"(licen[cs]e|copying)", file.name, re.IGNORECASE) and ".dist-info" in str(file):
            text = " ".join(Path(file.locate()).read_text(encoding="utf-8", errors="replace").split())
            for phrase, name in PHRASES.items():
                if phrase in text:
                    return f"{name} (by its licence file)"
    return ""


def table(environments: dict[str, Path]) -> list[tuple[str, str, str, str]]:
    """Return rows ``(package, versions, environments, licence)``.

    Raises LookupError for a pinned package that its environment lacks or has in another version.
    """
    rows: dict[tuple[str, str], list] = {}
    for environment, folder in environments.items():
        site = next((folder / "lib").glob("python3*/site-packages"))
        installed = {normal(package.name): package for package in distributions(path=[str(site)])}
        for name, version in pins(environment).items():
            if name not in installed:
                raise LookupError(f"{folder}: {name} is pinned and not installed")
            package = installed[name]
            if package.version.split("+")[0] != version:
                raise LookupError(f"{folder}: {name} {package.version} is installed, {version} is pinned")
            row = rows.setdefault((name, version), [licence_of(package) or "not stated", []])
            row[1].append(environment)
    return [
        (name, version, ", ".join(where), licence)
        for (name, version), (licence, where) in sorted(rows.items())
    ]


def page(rows: list[tuple[str, str, str, str]]) -> str:
    """Return the page for ``rows``."""

    def lines(chosen) -> str:
        head = "| package | version | environment | licence |\n| --- | --- | --- | --- |\n"
        return head + "".join(
            "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |\n" for row in chosen
        )

    copyleft = [row for row in rows if COPYLEFT.search(row[3])]
    closed = [row for row in rows if re.search(r"proprietary", row[3], re.IGNORECASE)]
    silent = [row for row in rows if row[3] == "not stated"]
    text = HEADER + "\n## Copyleft\n\n"
    text += (
        "The licences of these packages set conditions for distributing them: to pass on changes to their own\n"
        "files (MPL), to license the whole work alike (GPL), or to let others relink it (LGPL). This project neither\n"
        "changes nor distributes them.\n\n"
    )
    text += lines(copyleft) if copyleft else "None.\n"
    if closed:
        text += "\n## Proprietary\n\n"
        text += "Libraries for CUDA and of Intel that torch brings: free to use, not free software.\n\n"
        text += lines(closed)
    if silent:
        text += (
            "\n## Without a statement\n\nTheir metadata names no licence; look into the package.\n\n"
            + lines(silent)
        )
    return text + "\n## All\n\n" + lines(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PAGE)
    for environment, folder in ENVIRONMENTS.items():
        parser.add_argument(
            f"--{environment}", type=Path, default=Path(folder), help="its virtual environment"
        )
    arguments = vars(parser.parse_args())
    folders = {environment: arguments[environment.replace("-", "_")] for environment in ENVIRONMENTS}
    try:
        rows = table(folders)
    except (LookupError, StopIteration) as error:
        print(f"{error or 'no such environment'}; `make licences` builds both first", file=sys.stderr)
        return 1
    write_text(arguments["output"], page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
