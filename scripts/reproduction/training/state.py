"""The trainer's private state: atomic, checksummed, never resumed by another run.

A state is a pair of files in one folder: ``step_000030.safetensors`` and, written after it,
``step_000030.json`` with the checksum and the identity of the run. The newest whole pair is resumed; a
damaged one is reported and the one before it is taken. An identity that differs is refused, not resumed.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from reproduction.files import atomic_path, load_json, sha256_of_file, write_json

log = logging.getLogger(__name__)

KEPT = 2  # the newest state, and the one to fall back to


class StateMismatch(RuntimeError):
    """The folder holds the state of another run, model, data set or library version."""


@dataclass(frozen=True)
class State:
    """What a trainer needs to go on after ``step``."""

    step: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


class StateStore:
    """Saves and restores :class:`State` in ``folder`` for the run that ``identity`` describes."""

    def __init__(self, folder: Path, identity: Mapping[str, str]):
        self.folder = Path(folder)
        self.identity = dict(identity)

    def save(self, state: State) -> None:
        """Write ``state``; afterwards remove all but the newest ``KEPT``."""
        tensors = self.folder / f"step_{state.step:06d}.safetensors"
        with atomic_path(tensors) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in state.tensors.items()}, temporary)
        write_json(
            tensors.with_suffix(".json"),
            {
                "step": state.step,
                "sha256": sha256_of_file(tensors),
                "identity": self.identity,
                "values": state.values,
            },
        )
        for old in sorted(self.folder.glob("step_*.json"))[:-KEPT]:
            old.unlink()
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def restore(self) -> State | None:
        """Return the newest undamaged state, or None if there is none at all.

        Raises StateMismatch if a state belongs to something else, RuntimeError if every state is damaged.
        """
        records = sorted(self.folder.glob("step_*.json"), reverse=True)
        for record in records:
            try:
                description = load_json(record)
                identity, checksum = description["identity"], description["sha256"]
                state = description["step"], description["values"]
            except (ValueError, KeyError, TypeError) as error:
                log.warning("%s is damaged (%s); falling back to the state before it", record, error)
                continue
            self._check(identity, record)
            tensors = record.with_suffix(".safetensors")
            found = sha256_of_file(tensors) if tensors.exists() else "no file"
            if found != checksum:
                log.warning(
                    "%s is damaged (sha256 %s, expected %s); falling back to the state before it",
                    tensors,
                    found,
                    checksum,
                )
                continue
            return State(step=state[0], tensors=load_file(tensors), values=state[1])
        if records:
            raise RuntimeError(
                f"{self.folder}: every trainer state is damaged; delete the folder to train from the start"
            )
        return None

    def _check(self, identity: Mapping[str, str], record: Path) -> None:
        for key in sorted(self.identity.keys() | identity.keys()):
            ours, theirs = self.identity.get(key), identity.get(key)
            if ours != theirs:
                raise StateMismatch(
                    f"{record}: this state was written with {key} = {theirs}, the run has {ours}; "
                    f"delete {self.folder} to train from the start"
                )
