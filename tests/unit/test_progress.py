"""The status files that jobs write and the terminal view reads."""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from reproduction import progress
from reproduction.progress import Progress, read


def test_a_job_reports_start_steps_and_end(tmp_path):
    path = tmp_path / "progress" / "train.json"
    with Progress(path, "tiny ead", total=10, unit="step") as job:
        assert read(path).done == 0
        job.update(3, message="Pass@1 0.31")
    status = read(path)
    assert (status.label, status.done, status.total, status.unit) == ("tiny ead", 3, 10, "step")
    assert status.message == "Pass@1 0.31"
    assert status.outcome == status.state == "finished"
    assert status.fraction == pytest.approx(0.3)
    assert [p.name for p in path.parent.iterdir()] == ["train.json"]


def test_numpy_numbers_are_numbers(tmp_path):
    with Progress(tmp_path / "a.json", "a", np.int64(10), "step") as job:
        job.update(np.float32(2.5))
    assert read(tmp_path / "a.json").fraction == 0.25


def test_an_exception_is_a_failure_and_goes_on(tmp_path):
    path = tmp_path / "train.json"
    with pytest.raises(RuntimeError, match="boom"), Progress(path, "a", 10, "step") as job:
        job.update(4)
        raise RuntimeError("boom")
    assert read(path).state == "failed"
    assert read(path).done == 4


def test_at_most_one_write_per_interval(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    path = tmp_path / "a.json"
    with Progress(path, "a", 1000, "step") as job:
        seen = []
        for step in range(1, 11):
            clock[0] += progress.MIN_INTERVAL_S / 4
            job.update(step)
            seen.append(read(path).done)
    assert seen == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8]
    assert read(path).done == 10, "the last update is never lost"


def test_remaining_time_counts_from_where_a_resumed_job_started(tmp_path):
    path = tmp_path / "a.json"
    with Progress(path, "a", 60, "step", done=30):
        pass
    status = replace(read(path), started=1000.0, updated=1020.0)
    assert status.remaining_s is None
    assert replace(status, done=40).remaining_s == pytest.approx(40.0)  # 10 steps in 20 s, 20 steps left


def test_a_killed_job_is_stale(tmp_path):
    path = tmp_path / "a.json"
    code = (
        "import os, sys; from reproduction.progress import Progress\n"
        "Progress(sys.argv[1], 'a', 10, 'step').__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    status = read(path)
    assert status.outcome == "running"
    assert status.state == "stale"
    assert replace(status, host="elsewhere").state == "running", "another host's process cannot be asked"


def test_a_reused_process_id_is_not_taken_for_the_job(tmp_path):
    with Progress(tmp_path / "a.json", "a", 10, "step"):
        status = read(tmp_path / "a.json")
        assert status.state == "running"
        # The same process id, but the job that wrote this file started long before this process did.
        assert replace(status, started=status.started - 10 * 365 * 86400).state == "stale"


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "MIN_INTERVAL_S", 0.0)
    path = tmp_path / "a.json"
    stop = threading.Event()

    def write():
        with Progress(path, "a" * 4000, 10**9, "step") as job:
            done = 0
            while not stop.is_set():
                done += 1
                job.update(done, message="m" * (done % 4000))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while read(path) is None:
            pass
        assert all(read(path).label == "a" * 4000 for _ in range(500))
    finally:
        stop.set()
        writer.join()


def test_an_unwritable_folder_warns_once_and_the_job_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.json"
    warning = pytest.warns(UserWarning, match="no longer reported")
    with warning as caught, Progress(path, "a", 10, "step") as job:
        job.update(5)
    assert len(caught) == 1


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Progress(None, "a", 10, "step") as job:
        job.update(5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("total", [0, -1, float("nan")])
def test_a_total_that_is_not_positive_is_refused(total):
    with pytest.raises(ValueError, match="total must be positive"):
        Progress(None, "a", total, "step")


def test_a_file_that_is_not_there_is_no_status_and_a_foreign_one_is_named(tmp_path):
    assert read(tmp_path / "absent.json") is None
    (tmp_path / "c.json").write_text(json.dumps({"label": "c"}))
    with pytest.raises(ValueError, match=r"c\.json is not a progress file"):
        read(tmp_path / "c.json")
