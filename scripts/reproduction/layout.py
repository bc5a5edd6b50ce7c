"""Where results lie: each path that a rule and a script must agree on, once."""

import os
from pathlib import Path

from reproduction.config import PretrainedModel, RealData, Scale
from reproduction.config.runs import RunConfiguration


def model_manifest(results: Path, scale_name: str, scale: Scale, model: str) -> Path:
    """Return the manifest of a base model below ``results``, the folder of all scales.

    An imported model is the same at every scale; a trained one belongs to its scale.
    """
    imported = isinstance(scale.models[model], PretrainedModel)
    return (results if imported else results / scale_name) / "models" / model / "manifest.json"


def model_from_scale(scale: Scale, model: str) -> str:
    """Return the same manifest as seen from the scale's folder, which is how verdicts name their evidence."""
    manifest = model_manifest(Path("results"), "scale", scale, model)
    return os.path.relpath(manifest, Path("results") / "scale")


def dataset_file(results: Path, scale_name: str, scale: Scale, name: str) -> Path:
    """Return the file of a data set of the scale; a real one carries its name in workflow/datasets.yaml."""
    definition = scale.datasets[name]
    if isinstance(definition, RealData):
        return results / "data" / f"{definition.source}.parquet"
    return results / scale_name / "data" / f"{name}.parquet"


def data_card(dataset: Path) -> Path:
    """Return what describes the problems in ``dataset``."""
    return dataset.with_name(f"{dataset.stem}.card.json")


def run_manifest(results: Path, scale_name: str, run: str) -> Path:
    """Return the manifest of a run, by its name; the run's folder is its parent."""
    return results / scale_name / "runs" / run / "manifest.json"


def state_folder(results: Path, scale_name: str, run: RunConfiguration) -> Path:
    """Return the trainer's private folder, named by the run's hash: a changed configuration resumes no old weights."""
    return results / scale_name / "state" / run.hash
