"""What happens to the workflow: a full disk, a read-only folder, a second start, a clock that jumps."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from crash_campaign import artefacts, damaged, differences

from reproduction.config import REPOSITORY

DAY_S = 86400


def assert_same_artefacts(workflow, reproduced):
    assert damaged(workflow.folder) == []
    assert differences(artefacts(reproduced.folder), artefacts(workflow.folder)) == []


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this needs a mount of its own, as root: {done.stderr.strip()}")


@pytest.fixture
def results(fresh):
    """The folder that will hold the results, and which a test may mount something on."""
    folder = fresh.folder / "results"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def test_a_full_disk_is_named_and_costs_nothing_that_was_done(fresh, results, reproduced):
    needed = sum(path.stat().st_size for path in (reproduced.folder / "results").rglob("*") if path.is_file())
    mount("-t", "tmpfs", "-o", f"size={needed // 3}", "tmpfs", str(results))
    failed = fresh.run("--keep-going", check=False)
    assert failed.returncode != 0
    logs = "".join(path.read_text() for path in results.rglob("*.log"))
    assert "No space left on device" in failed.stdout + failed.stderr + logs
    assert damaged(fresh.folder) == []

    mount("-o", f"remount,size={10 * needed}", str(results))
    fresh.run("--rerun-incomplete")
    assert_same_artefacts(fresh, reproduced)


def test_a_read_only_results_folder_is_named_before_any_job(fresh, results):
    mount("-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(results))
    failed = fresh.run(check=False)
    said = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert "paths.results: 'results' cannot be written" in said
    assert "Traceback" not in said


def reproduce(folder, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts/reproduce.py"), "--cores", "2"],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_of_two_workflows_started_at_once_one_runs(fresh, reproduced):
    first, second = reproduce(fresh.folder), reproduce(fresh.folder)
    ends = {process.wait(): process.communicate() for process in (first, second)}
    assert sorted(ends) == [0, 1]
    assert "the workflow already runs in results" in ends[1][1]
    assert_same_artefacts(fresh, reproduced)


def test_a_clock_that_was_a_day_ahead_loses_nothing(reproduced, tmp_path):
    """Half of the files carry times of tomorrow: some jobs run again, and what they make is the same."""
    copy = type(reproduced)(tmp_path / "copy")
    shutil.copytree(reproduced.folder, copy.folder)
    tomorrow = time.time() + DAY_S
    for path in sorted((copy.folder / "results/mini").rglob("*"))[::2]:
        os.utime(path, (tomorrow, tomorrow))
    copy.run()
    assert_same_artefacts(copy, reproduced)
