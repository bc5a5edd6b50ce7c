"""From verl's own checkpoint to the Hugging Face form that the run contract wants; needs neither verl nor Ray.

verl calls this after each save (``workers.PublishCheckpoint``), after it has written the file that says from which step
it resumes. A kill between the two leaves a checkpoint that verl will not save again, so :func:`publish_missing` looks
for it before verl starts.
"""

import logging
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from reproduction.files import atomic_directory, link
from reproduction.models.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def publish_checkpoint(checkpoint: Path, target: Path, *, model: Path, dtype: str) -> None:
    """Write the weights of verl's ``checkpoint`` (``global_step_N``) to the folder ``target``, whole or not at all.

    verl keeps the trainer's weights in float32 and samples from a copy in the rollout type ``dtype``; the published
    checkpoint is that copy, so that what is evaluated is what sampled, at half the size in bfloat16. ``model`` is the
    folder that training started from. Raises FileNotFoundError for a checkpoint without weights in Hugging Face form.
    """
    source = checkpoint / "actor" / "huggingface"
    if not list(source.glob("*.safetensors")):
        raise FileNotFoundError(f"{source}: no weights; remove the trainer's state to train from the start")
    wanted = getattr(torch, dtype)
    with atomic_directory(target) as folder:
        # The tokenizer as the model came with it: transformers would write it anew.
        Tokenizer(model).save(folder)
        for file in source.iterdir():
            if (folder / file.name).exists():
                continue
            if file.suffix == ".safetensors":
                tensors = load_file(file)
                if any(tensor.dtype != wanted for tensor in tensors.values()):
                    converted = {name: tensor.to(wanted) for name, tensor in tensors.items()}
                    save_file(converted, folder / file.name, metadata={"format": "pt"})
                    continue
            link(file, folder / file.name)


def publish_missing(checkpoints: Path, published: Path, step: int, *, model: Path, dtype: str) -> None:
    """Publish verl's checkpoint of ``step``, below ``checkpoints``, if a kill came before that; remove what it left."""
    for left in published.glob(".step_*.tmp"):
        shutil.rmtree(left)
    target = published / f"step_{step}"
    if not target.exists():
        log.info("step %d was saved and not published; it is published now", step)
        publish_checkpoint(checkpoints / f"global_step_{step}", target, model=model, dtype=dtype)
