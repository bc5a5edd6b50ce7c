"""What the verl engine does around verl: it leaves nothing behind, and never resumes another run's state."""

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from reproduction.cluster import devices, processes
from reproduction.config import WORKFLOW, Verl, load_configuration, load_scale, read_yaml
from reproduction.config.runs import resolve
from reproduction.data import write_dataset
from reproduction.engines import verl
from reproduction.engines.verl import sockets
from reproduction.engines.verl.publishing import publish_checkpoint, publish_missing
from reproduction.tasks import countdown
from reproduction.training import records, warmstart
from reproduction.training.state import StateMismatch

# A process of Ray's kind: in a session of its own, orphaned, deaf to SIGTERM, with a shared-memory segment.
STUBBORN = """
import mmap, os, signal, sys, time
if os.fork():
    os._exit(0)
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.truncate(descriptor, 4096)
segment = mmap.mmap(descriptor, 4096)
open(sys.argv[2], "w").close()
time.sleep(600)
"""


@pytest.fixture
def segment():
    path = Path("/dev/shm") / f"ead_test_{secrets.token_hex(8)}"
    yield path
    path.unlink(missing_ok=True)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_orphans_and_their_shared_memory_are_found_and_removed(segment, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "END_S", 1.0)
    mark, ready = secrets.token_hex(8), tmp_path / "ready"
    subprocess.run(
        [sys.executable, "-c", STUBBORN, str(segment), str(ready)],
        env={**os.environ, verl.MARK: mark},
        check=True,
    )
    wait_for(ready.exists)
    (orphan,) = processes.marked(verl.MARK, mark)
    segments = processes.mapped_segments([orphan])
    assert segments == {str(segment)}
    assert str(segment) not in processes.abandoned_segments()
    processes.end([orphan])
    assert not psutil.pid_exists(orphan.pid) or orphan.status() == psutil.STATUS_ZOMBIE
    assert str(segment) in processes.abandoned_segments()
    processes.remove_abandoned(segments)
    assert not segment.exists()


def test_a_segment_that_another_process_uses_stays(segment, tmp_path):
    ready = tmp_path / "ready"
    subprocess.run([sys.executable, "-c", STUBBORN, str(segment), str(ready)], check=True)
    wait_for(ready.exists)
    (other,) = [p for p in psutil.process_iter() if str(segment) in processes.mapped_segments([p])]
    try:
        processes.remove_abandoned({str(segment)})
        assert segment.exists()
    finally:
        other.kill()


def test_the_state_of_another_run_is_refused(tmp_path):
    path = tmp_path / "identity.json"
    verl._check_identity(path, {"run": "a", "model": "m"})
    verl._check_identity(path, {"run": "a", "model": "m"})
    with pytest.raises(StateMismatch, match="the state is of another run; remove the folder"):
        verl._check_identity(path, {"run": "b", "model": "m"})


def test_the_step_to_resume_from_is_the_one_verl_will_take(tmp_path):
    assert verl._resumed_step(tmp_path) == 0
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("4")
    assert verl._resumed_step(tmp_path) == 0  # the folder is not there: verl starts over
    (tmp_path / "global_step_4").mkdir()
    assert verl._resumed_step(tmp_path) == 4


@pytest.mark.parametrize(("saved", "step"), [((), 0), ((9, 10), 10)])
def test_a_tracker_that_a_kill_left_empty_names_the_last_checkpoint(tmp_path, saved, step):
    """verl would read no number from it, at every start."""
    for number in saved:
        (tmp_path / f"global_step_{number}").mkdir()
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    tracker.write_text("")
    verl._mend_tracker(tmp_path)
    assert verl._resumed_step(tmp_path) == step
    assert tracker.read_text() == "10" if saved else not tracker.exists()
    tracker.write_text("9")
    verl._mend_tracker(tmp_path)
    assert tracker.read_text() == "9"


def checkpoint_of(folder, gpus):
    """What verl's FSDP trainer names the parts of a state."""
    actor = folder / "verl" / "checkpoints" / "global_step_20" / "actor"
    actor.mkdir(parents=True)
    for rank in range(gpus):
        for part in ("model", "optim", "extra_state"):
            (actor / f"{part}_world_size_{gpus}_rank_{rank}.pt").touch()
    return actor.parent


def test_a_state_of_another_number_of_gpus_is_refused_with_both_numbers(tmp_path):
    found = checkpoint_of(tmp_path, 8)
    with pytest.raises(StateMismatch) as refused:
        verl._check_gpus(found, Verl(gpus_per_node=4))
    message = str(refused.value)
    assert "written on 8 GPUs, and the training now has 4" in message and f"remove {tmp_path} to" in message
    verl._check_gpus(found, Verl(gpus_per_node=8))
    verl._check_gpus(found, Verl(nodes=2, gpus_per_node=4))  # as many, elsewhere
    verl._check_gpus(found.with_name("global_step_0"), Verl(gpus_per_node=4))  # nothing to resume from


# Stands for verl: shows its environment and lives on, deaf to SIGTERM, unless told to end.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--config-path") + 1])
(folder / f"seen_{os.getpid()}.json").write_text(json.dumps(dict(os.environ)))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while not (folder / "end").exists():
    time.sleep(0.05)
"""


def pretend_verl(tmp_path, monkeypatch, program):
    """Let ``program`` be what is started as verl; return the folder that it is told."""
    monkeypatch.setattr(processes, "END_S", 0.5)
    monkeypatch.setattr(verl, "POLL_S", 0.05)
    monkeypatch.setattr(devices, "LOCAL", tmp_path)
    package = tmp_path / "modules" / "verl" / "trainer"
    package.mkdir(parents=True)
    (package / "main_ppo.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    folder = tmp_path / "state" / "verl"
    folder.mkdir(parents=True)
    return folder


def test_what_a_killed_attempt_left_is_ended_before_verl_starts_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    folder = pretend_verl(tmp_path, monkeypatch, STAND_IN)
    machine = load_scale("gpu1").verl
    left = subprocess.Popen(
        [sys.executable, "-m", "verl.trainer.main_ppo", "--config-path", str(folder)],
        env={**os.environ, verl.MARK: verl.mark(tmp_path / "state")},
    )
    wait_for(lambda: list(folder.glob("seen_*.json")))

    def report():
        assert left.poll() is not None, "it lives beside its successor"
        if len(list(folder.glob("seen_*.json"))) == 2:
            (folder / "end").touch()

    assert verl._launch(tmp_path / "state", machine, report) == 0
    (seen,) = [path for path in folder.glob("seen_*.json") if str(left.pid) not in path.name]
    variables = json.loads(seen.read_text())
    assert "RAY_ADDRESS" not in variables, "verl would look for somebody else's cluster"
    assert variables[verl.PARENT] == str(os.getpid())


# Stands for verl where Ray is late so many times, and ends with the last words given.
LATE = """
import sys
from pathlib import Path
times = Path(sys.argv[sys.argv.index("--config-path") + 1]) / "times"
count = int(times.read_text()) if times.exists() else 0
times.write_text(str(count + 1))
if count < int((times.parent / "late").read_text()):
    sys.exit("Exception: The current node timed out during startup. This could happen because")
sys.exit((times.parent / "end").read_text() or None)
"""


@pytest.mark.parametrize(
    ("late", "end", "starts"),
    [(0, "", 1), (2, "", 3), (0, "RuntimeError: no space left", 1), (1, "RuntimeError: no space left", 2)],
)
def test_verl_is_started_again_where_ray_was_late_and_nowhere_else(
    tmp_path, monkeypatch, caplog, late, end, starts
):
    folder = pretend_verl(tmp_path, monkeypatch, LATE)
    (folder / "late").write_text(str(late))
    (folder / "end").write_text(end)
    with caplog.at_level("WARNING"):
        assert bool(verl._run(tmp_path / "state", load_scale("gpu1").verl, lambda: None)) == bool(end)
    assert int((folder / "times").read_text()) == starts
    assert caplog.text.count(verl.RAY_WAS_LATE) == late


def test_a_ray_that_is_always_late_ends_the_training_and_says_so(tmp_path, monkeypatch):
    folder = pretend_verl(tmp_path, monkeypatch, LATE)
    (folder / "late").write_text("99")
    with pytest.raises(RuntimeError, match="Ray did not start within its 30 seconds in any of 4 attempts"):
        verl._run(tmp_path / "state", load_scale("gpu1").verl, lambda: None)
    assert int((folder / "times").read_text()) == verl.RAY_STARTS


# Starts a process that asks to end with it, and is killed.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline().strip(), flush=True)
time.sleep(600)
"""
CHILD = """
import os, time
from reproduction.cluster import compute
compute.end_with_parent()
print(os.getpid(), flush=True)
time.sleep(600)
"""


def test_a_process_ends_with_the_one_that_started_it_also_when_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.kill()
    parent.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_two_trainings_have_sockets_in_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "LOCAL", tmp_path)
    theirs = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock"  # of every first job of a Ray
    handles = set()
    for state in ("a", "b"):
        monkeypatch.setenv(verl.MARK, verl.mark(tmp_path / state))
        handles.add(sockets.own(theirs))
    assert len(handles) == 2
    for handle in handles:
        path = Path(handle.removeprefix("ipc://"))
        assert path.name == theirs.rsplit("/", 1)[1] and path.parent.is_dir()
    assert tmp_path.joinpath(f"ead-{os.getuid()}").stat().st_mode & 0o777 == 0o700
    # A socket's whole path has 107 characters at most.
    assert len(theirs) + len(f"/tmp/ead-4294967295/verl-{verl.mark(tmp_path)}") - len("ipc:///tmp") < 107


@pytest.mark.parametrize(("loss", "diverged"), [(0.5, False), (float("nan"), True), (float("inf"), True)])
def test_a_step_that_is_not_finite_ends_the_run_as_diverged(tmp_path, loss, diverged):
    records.append(tmp_path / "metrics.jsonl", {"step": 1, "loss": 0.1, "gradient_norm": 1.0})
    records.append(tmp_path / "metrics.jsonl", {"step": 2, "loss": loss, "gradient_norm": 1.0})
    assert verl._diverged(tmp_path) == diverged


@pytest.mark.parametrize("found", [0, 1])
def test_a_training_on_a_node_that_lacks_its_gpus_says_so_and_starts_nothing(tmp_path, monkeypatch, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    monkeypatch.setattr(verl, "version", lambda package: "0")  # this environment need not have verl
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "problems.parquet").touch()
    with pytest.raises(RuntimeError, match=f"verl.gpus_per_node asks for 8 GPUs, .* finds {found} here"):
        verl.train(
            # Nothing else of the run is asked for before.
            SimpleNamespace(hash="of no run", model="of no run"),
            load_scale("paper").verl,
            model=tmp_path,
            dataset=tmp_path / "problems.parquet",
            validation=tmp_path / "problems.parquet",
            state=tmp_path / "state",
            progress=None,
        )
    assert [path.name for path in (tmp_path / "state" / "verl").iterdir()] == ["identity.json"]


# --- a checkpoint that verl has saved and nobody has published -----------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """verl's checkpoints of a run that has just saved step 3; steps 1 and 2 are published."""
    (tmp_path / "model").mkdir()
    warmstart.write_tokenizer(tmp_path / "model", countdown.VOCABULARY)
    (tmp_path / "model" / "config.json").write_text("{}")
    save_file({"w": torch.zeros(2)}, tmp_path / "model" / "model.safetensors")
    checkpoints = tmp_path / "state" / "verl" / "checkpoints"
    huggingface = checkpoints / "global_step_3" / "actor" / "huggingface"
    huggingface.mkdir(parents=True)
    (huggingface / "config.json").write_text("{}")
    (huggingface / "tokenizer.json").write_text("as transformers writes it")
    save_file({"w": torch.tensor([1 / 3, 2.0])}, huggingface / "model.safetensors")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("3")
    for step in (1, 2):
        (tmp_path / "state" / "checkpoints" / f"step_{step}").mkdir(parents=True)
    return tmp_path


def test_what_is_published_late_is_what_would_have_been_published(saved):
    state, model = saved / "state", saved / "model"
    source = state / "verl" / "checkpoints"
    publish_checkpoint(source / "global_step_3", saved / "in_time", model=model, dtype="bfloat16")
    (state / "checkpoints" / ".step_3.0123456789ab.tmp").mkdir()  # killed while it was written
    publish_missing(source, state / "checkpoints", 3, model=model, dtype="bfloat16")
    assert sorted(path.name for path in (state / "checkpoints").iterdir()) == ["step_1", "step_2", "step_3"]
    found = {path.name: path.read_bytes() for path in (state / "checkpoints" / "step_3").iterdir()}
    assert found == {path.name: path.read_bytes() for path in (saved / "in_time").iterdir()}
    assert found["tokenizer.json"] == (model / "tokenizer.json").read_bytes()
    weights = load_file(state / "checkpoints" / "step_3" / "model.safetensors")["w"]
    assert weights.dtype == torch.bfloat16 and torch.equal(weights, torch.tensor([1 / 3, 2.0]).bfloat16())


def test_a_published_checkpoint_is_left_alone(saved):
    published = saved / "state" / "checkpoints"
    publish_missing(saved / "nowhere", published, 2, model=saved / "model", dtype="float32")
    assert not list((published / "step_2").iterdir())


def test_a_checkpoint_without_weights_is_named(saved):
    source = saved / "state" / "verl" / "checkpoints"
    (source / "global_step_3" / "actor" / "huggingface" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="huggingface: no weights; remove the trainer's state"):
        publish_missing(source, saved / "state" / "checkpoints", 3, model=saved / "model", dtype="float32")
    assert not (saved / "state" / "checkpoints" / "step_3").exists()


def test_a_run_that_was_killed_before_its_last_checkpoint_was_published_ends_with_it(saved, monkeypatch):
    """verl has nothing left to do, so it is not started; the run ends as if nothing had happened."""
    monkeypatch.setattr(verl, "version", lambda package: "0")
    monkeypatch.setattr(verl, "_launch", lambda *_: pytest.fail("verl was started"))
    state = saved / "state"
    for step in (1, 2, 3):
        row = {"step": step, "loss": 0.1, "gradient_norm": 1.0}
        for name in verl.RECORDS:
            records.append(state / name, row)
    for name in ("train", "validation"):
        countdown_file(saved / f"{name}.parquet")
    scale = load_scale("mini", read_yaml(WORKFLOW / "verl_smoke.yaml"))
    run = resolve(
        load_configuration({"scale": "mini"}),
        scale,
        role="llama_1b",
        algorithm="dapo",
        sampler="ead_tis",
        rollouts=None,
        seed=0,
    )
    result = verl.train(
        run,
        scale.verl,
        model=saved / "model",
        dataset=saved / "train.parquet",
        validation=saved / "validation.parquet",
        state=state,
        progress=None,
    )
    assert (result.status, result.steps, result.checkpoints) == ("finished", 3, [1, 2, 3])
    assert json.loads((state / "verl" / "ended.json").read_text())["checkpoints"] == [1, 2, 3]


def countdown_file(path):
    problems = countdown.generate_problems(3, "train", root_seed=0, test_share=0.2, limit=40)
    write_dataset(list(countdown.dataset_rows(problems, "train", "train")), path)
