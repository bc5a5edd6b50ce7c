"""Base models that the project carries, so that every machine starts from the same weights.

A base model is a training: on a processor that sums in another order it becomes another model, and no interval over
seeds of later trainings holds that (docs/claims.md, "Another machine"). The paper starts from published models; so do
the scales whose base models lie in ``workflow/base_models/{scale}/{name}``.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from reproduction.config import WORKFLOW, WarmStartModel
from reproduction.files import checksums, load_json

WEIGHTS = "model.safetensors"


def recipe_sha256(definition: WarmStartModel, root_seed: int, problems: Sequence[str]) -> str:
    """Return a checksum of all that a base model is made from, the code and the machine aside.

    Args:
        problems: the prompts that demonstrations are drawn for, in order.
    """
    recipe = {
        "definition": definition.model_dump(mode="json"),
        "root_seed": root_seed,
        "problems": list(problems),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def folder_of(scale: str) -> Path:
    """Return the folder of a scale's published base models, whether or not it has any."""
    return WORKFLOW / "base_models" / scale


def manifest_of(scale: str, name: str) -> Path:
    """Return where the manifest of a published base model lies, whether or not there is one."""
    return folder_of(scale) / name / "manifest.json"


def is_of(recipe: str, manifest: Path) -> bool:
    """Return whether a published base model is there and is what ``recipe`` asks for.

    Raises ValueError where its files are not those that the manifest states, or the manifest is none.
    """
    if not manifest.exists():
        return False
    remedy = (
        f"restore it with `git checkout {manifest.parent}`, or train here with `--config base_models=trained`"
    )
    try:
        stated = load_json(manifest)
        wanted, files = stated["recipe_sha256"], stated["files"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{manifest} is not the manifest of a base model; {remedy}") from None
    if wanted != recipe:
        return False
    found = checksums(manifest.parent)
    del found[manifest.name]  # it cannot state its own
    for name in sorted(files.keys() | found.keys()):
        if files.get(name) != found.get(name):
            raise ValueError(
                f"{manifest.parent / name} is not the file that {manifest.name} beside it states; {remedy}"
            )
    return True
