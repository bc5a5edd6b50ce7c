"""A real Chromium, headless, without a network; and a report that the mini workflow wrote."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Path:
    """The report of EAD_REPORT, or of a small workflow run here with the interpreter EAD_PYTHON (default: .venv's)."""
    if given := os.environ.get("EAD_REPORT"):
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("reproduced")
    choices = {
        "scale": "mini",
        "experiments": ["fig04"],
        "tracking": {"stream": False},
        "overrides": {"roles": {"qwen_1_5b": None, "qwen_7b": None, "qwen3_8b": None}},
    }
    (folder / "config.yaml").write_text(json.dumps(choices))
    python = os.environ.get("EAD_PYTHON", str(REPOSITORY / ".venv" / "bin" / "python"))
    command = [python, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "2", "--quiet", "all", "--"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # One after the other: the verdicts are on what has run, and the report shows them.
    for targets in (["fig04"], ["claims_so_far"], ["report", "provenance"]):
        done = subprocess.run(
            [*command, *targets], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return folder / "reports" / "mini" / "report.html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium: install the package chromium (tests/browser/install_chromium.sh)")
    with sync_playwright() as playwright:
        # A fresh profile in a temporary folder is playwright's default.
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=FLAGS)
        yield browser
        browser.close()
