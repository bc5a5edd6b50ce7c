"""The model card of a checkpoint: README.md with the metadata that the Hugging Face hub reads.

It is written when a run is published, before the checkpoint is evaluated, so it has no evaluation results
(``model-index``): its metrics are those of the training step, and it says so. It holds no times and no versions, so
that publishing a run again gives the same bytes.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from reproduction.config import RealData
from reproduction.config.runs import RunConfiguration, flatten
from reproduction.data.table import load_datasets

# The hub's identifiers of licences; it calls every other one "other" and takes its name beside that.
_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "Llama 3.2 Community License": "llama3.2"}
_OWN_LICENCE = (
    "Apache-2.0"  # of what this project makes itself: generated problems, models trained from scratch
)


def model_card(
    run: RunConfiguration, base: Mapping[str, Any], step: int, metrics: Mapping[str, float]
) -> str:
    """Return the card of the checkpoint after ``step``.

    Args:
        base: manifest of the model that training started from.
        metrics: what the training recorded for that step.
    """
    licence = base.get("licence", _OWN_LICENCE)
    known = _LICENCES.get(licence)
    source = base["source"]
    origin, is_what = None, ""
    if "stand_in" in base:
        is_what = f", a small stand-in for {base['model']}"
    elif not isinstance(source, Mapping):
        is_what = f" ({source})"
    else:  # from a hub, or from a package that was made from a hub's model
        origin = source["repository" if source["kind"] == "hub" else "original"]
        is_what = f", which is {origin}"
    dataset = run.dataset_definition
    entry = load_datasets().get(dataset.source) if isinstance(dataset, RealData) else None
    hub = entry.hub if entry else None
    metadata = {
        "license": known or "other",
        "license_name": None if known else licence,
        "base_model": origin,
        "base_model_relation": "finetune" if origin else None,
        "datasets": [hub.repository] if hub else None,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["reinforcement-learning", "exploratory-annealed-decoding", run.algorithm, run.sampler],
    }
    front = yaml.safe_dump({key: value for key, value in metadata.items() if value}, sort_keys=False)
    lines = [
        f"# {run.name}, step {step}",
        "",
        f"A checkpoint of a reinforcement-learning run: {run.algorithm} with the sampler `{run.sampler}`, "
        f"{run.n} responses per prompt, seed {run.seed}. It is one of the runs that reproduce *Let It Calm: "
        "Exploratory Annealed Decoding for Verifiable Reinforcement Learning*, and not a model of the paper's authors.",
        "",
        f"- Started from: `{run.model}`{is_what}. Licence: {licence}.",
        *(f"- Differs from it: {text}." for text in base.get("differences", [])),
        f"- Trained on: `{run.training.dataset}`" + (f", which is {hub.repository}." if hub else "."),
        f"- Configuration hash: `{run.hash}`. The run's `config.yaml` has every number behind it, its `manifest.json` "
        "the version of the code.",
        "",
        "## Training metrics",
        "",
        f"Of step {step}, on the prompts and with the sampler of the training. They are no evaluation; this card was "
        "written before there was one.",
        "",
        *_table("metric", {name: f"{value:.6g}" for name, value in sorted(metrics.items())}),
        "",
        "## Training parameters",
        "",
        *_table("parameter", flatten(run.parameters())),
        "",
    ]
    return f"---\n{front}---\n\n" + "\n".join(lines)


def _table(title: str, values: Mapping[str, str]) -> list[str]:
    return [
        f"| {title} | value |",
        "| --- | --- |",
        *(f"| `{name}` | {value} |" for name, value in values.items()),
    ]
