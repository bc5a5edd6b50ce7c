"""Trainer state: kept, checked, and never resumed by something else."""

import json

import pytest
import torch

from reproduction.training.state import KEPT, State, StateMismatch, StateStore

IDENTITY = {"run": "a", "model": "b", "torch": "2"}


def state(step):
    return State(step, {"x": torch.full((3,), float(step))}, {"note": step})


@pytest.fixture
def store(tmp_path):
    store = StateStore(tmp_path, IDENTITY)
    for step in (10, 20, 30):
        store.save(state(step))
    return store


def test_the_newest_state_is_restored(store):
    restored = store.restore()
    assert (restored.step, restored.values) == (30, {"note": 30})
    assert torch.equal(restored.tensors["x"], torch.full((3,), 30.0))


def test_older_states_are_removed(store, tmp_path):
    assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.glob("*.json"))) == KEPT


def test_nothing_to_restore_is_no_error(tmp_path):
    assert StateStore(tmp_path / "absent", IDENTITY).restore() is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(store, tmp_path, caplog, damage):
    newest = tmp_path / "step_000030.safetensors"
    content = newest.read_bytes()
    if damage == "flip":
        newest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        newest.write_bytes(content[:20])
    else:
        newest.unlink()
    assert store.restore().step == 20
    assert "step_000030.safetensors is damaged" in caplog.text


def test_a_record_cut_short_falls_back_too(store, tmp_path, caplog):
    record = tmp_path / "step_000030.json"
    record.write_text(record.read_text()[:25])
    assert store.restore().step == 20
    assert "step_000030.json is damaged" in caplog.text


def test_when_every_state_is_damaged_nothing_is_started_over_silently(store, tmp_path):
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(RuntimeError, match="every trainer state is damaged; delete the folder"):
        store.restore()


def test_a_state_written_before_its_record_is_ignored(store, tmp_path):
    """A kill between the two writes leaves tensors without a record."""
    (tmp_path / "step_000040.safetensors").write_bytes(b"half")
    assert store.restore().step == 30


@pytest.mark.parametrize("key", sorted(IDENTITY))
def test_the_state_of_something_else_is_refused_with_the_reason(store, tmp_path, key):
    other = StateStore(tmp_path, IDENTITY | {key: "other"})
    with pytest.raises(StateMismatch, match=f"written with {key} = {IDENTITY[key]}, the run has other"):
        other.restore()


def test_the_record_names_the_identity(store, tmp_path):
    assert json.loads((tmp_path / "step_000030.json").read_text())["identity"] == IDENTITY
