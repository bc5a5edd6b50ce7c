"""`make reproduce`: what it does before Snakemake starts."""

import subprocess
import sys
from contextlib import contextmanager

import pytest

from reproduction.config import REPOSITORY

sys.path.append(str(REPOSITORY / "scripts"))
import reproduce  # noqa: E402


@contextmanager
def running(folder, *arguments):
    """A process that looks like Snakemake's, and waits."""
    (folder / "snakemake.py").write_text("print('up', flush=True)\ninput()\n")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, **pipes) as process:
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_the_lock_of_a_snakemake_that_still_runs_is_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / ".snakemake" / "locks" / "0.input.lock").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("the lock was removed"))
    monkeypatch.setattr(reproduce, "ended", lambda _: pytest.fail("a second one was started"))
    with running(tmp_path) as process:
        assert reproduce.reproduce(None, ["fig04"], "1") == 1
    said = capsys.readouterr().err
    assert said == f"a Snakemake (process {process}) runs here; wait for it, or stop it first\n"


def test_a_lock_that_a_kill_left_is_removed_whatever_runs_elsewhere_or_as_a_job(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    here.mkdir()
    with running(there), running(here, "--mode", "subprocess"):
        assert reproduce.snakemake_in(here) is None
        assert reproduce.snakemake_in(there) is not None
