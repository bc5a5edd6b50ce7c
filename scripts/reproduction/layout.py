"""Where results lie: each path that a rule and a script must agree on, once."""

from pathlib import Path

from reproduction.config import PretrainedModel, Scale


def model_manifest(results: Path, scale_name: str, scale: Scale, model: str) -> Path:
    """Return the manifest of a base model below ``results``, the folder of all scales.

    An imported model is the same at every scale; a trained one belongs to its scale.
    """
    imported = isinstance(scale.models[model], PretrainedModel)
    return (results if imported else results / scale_name) / "models" / model / "manifest.json"
