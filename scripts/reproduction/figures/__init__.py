"""What the jobs of a figure are asked, as plain data: an entry of workflow/experiments.yaml at a scale.

An estimation request holds what numbers depend on and nothing else, so that a new title or colour re-estimates
nothing; a drawing request holds the words and styles. A new kind of figure needs an entry in each of
``scripts/estimate_figure.py`` and ``scripts/plot_figure.py``.
"""

import json
from collections.abc import Mapping
from typing import Any

from reproduction.config import (
    ROLE_LABELS,
    WORKFLOW,
    ConfigurationError,
    DecoderMatrix,
    Experiment,
    Hyperparameters,
    Propositions,
    Scale,
    Schedules,
    TrainingCurves,
    read_yaml,
    suggest,
)
from reproduction.config.runs import RunConfiguration
from reproduction.figures import hyperparameters
from reproduction.figures.analyses import CONFIDENCE, METRICS, TRAINING_METRICS
from reproduction.training import contract


def estimation_request(
    experiment: Experiment, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
) -> dict[str, Any]:
    """Return what ``scripts/estimate_figure.py`` is asked.

    Raises ConfigurationError for a decoder or a sampler that the scale lacks, or a metric that its engine does not
    record.
    """
    if isinstance(experiment, TrainingCurves):
        asked = [*experiment.metrics, *experiment.tabulated]
        for metric in contract.lacking(scale.engine, asked):
            recorded = [name for name in TRAINING_METRICS if not contract.lacking(scale.engine, [name])]
            raise ConfigurationError(
                f"experiments.yaml: {experiment.title!r}: the engine {scale.engine} does not record {metric!r}; "
                f"allowed at this scale: {', '.join([*METRICS, *recorded])}"
            )
        return {
            "analysis": experiment.analysis,
            "names": list(runs),
            "metric_names": [*experiment.metrics, *experiment.tabulated],
            "decoders": _decoders(experiment, scale),
            "windows": {run.model: run.training.window for run in runs.values()},
            "root_seed": root_seed,
        }
    if isinstance(experiment, DecoderMatrix):
        return {
            "analysis": experiment.analysis,
            "names": list(runs),
            "metric_names": experiment.metrics,
            "decoders": _decoders(experiment, scale),
            "root_seed": root_seed,
        }
    if isinstance(experiment, Schedules):
        return {"analysis": experiment.analysis, "panels": _schedule_panels(experiment, scale)}
    if isinstance(experiment, Propositions):
        keys = ("temperatures", "vocabularies", "distributions", "spread")
        values = {key: getattr(experiment, key) for key in keys}
        return {"analysis": experiment.analysis, **values, "root_seed": root_seed}
    if isinstance(experiment, Hyperparameters):
        return {"analysis": experiment.analysis, "rows": hyperparameters.compare(experiment.paper, scale)}
    raise TypeError(f"no estimation request for {experiment.analysis!r}")


def reads_evaluations(experiment: TrainingCurves | DecoderMatrix) -> bool:
    """Whether a figure shows evaluations, and not quantities of the training alone."""
    tabulated = getattr(experiment, "tabulated", [])
    return any(metric in METRICS for metric in [*experiment.metrics, *tabulated])


def records(experiment: TrainingCurves | DecoderMatrix) -> list[str]:
    """Return the files of a run's folder that a figure's numbers come from."""
    tables = {TRAINING_METRICS[metric] for metric in experiment.metrics if metric in TRAINING_METRICS}
    return ["manifest.json", *(f"{table}.parquet" for table in sorted(tables))]


def drawing_request(
    name: str, experiment: Experiment, scale: Scale, runs: Mapping[str, RunConfiguration]
) -> dict[str, Any]:
    """Return what ``scripts/plot_figure.py`` is asked."""
    request = {"analysis": experiment.analysis, "title": experiment.title}
    if not isinstance(experiment, (TrainingCurves, DecoderMatrix)):
        return request
    roles = dict.fromkeys(role for grid in experiment.runs for role in grid.role)
    present = {scale.roles[role].model: role for role in roles if role in scale.roles}
    samplers = dict.fromkeys(run.sampler for run in runs.values())
    request |= {
        "models": {model: model_label(model, role) for model, role in present.items()},
        "absent": [ROLE_LABELS[role] for role in roles if role not in scale.roles],
        "algorithms": {run.algorithm: scale.algorithms[run.algorithm].label for run in runs.values()},
        "samplers": {
            # In the order of workflow/samplers.yaml, so that legends agree.
            key: {"label": sampler.label, "style": sampler.style.model_dump()}
            for key, sampler in scale.samplers.items()
            if key in samplers
        },
        "metrics": experiment.metrics,
        "decoders": {key: scale.decoders[key].label for key in _decoders(experiment, scale)},
    }
    if isinstance(experiment, TrainingCurves):
        request |= {
            "curves": experiment.curves,
            "windows": {run.model: run.training.window for run in runs.values()},
            "published": published_curves(name, present) if scale.published_curves else [],
        }
    return request


def caption(experiment: Experiment, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, str]:
    """Return what the figure's caption (workflow/report/) says of estimators, intervals and scale."""
    words = {
        "title": experiment.title,
        "section": experiment.section,
        "scale": scale.description,
        "confidence": f"{CONFIDENCE:.0%}",
    }
    if isinstance(experiment, (TrainingCurves, DecoderMatrix)):
        samples = {scale.evaluation_of(run.model).samples for run in runs.values()}
        windows = sorted({run.training.window for run in runs.values()})
        words |= {
            "evaluated": "yes" if any(metric in METRICS for metric in experiment.metrics) else "",
            "k": " or ".join(map(str, sorted(samples))),
            "window": " or ".join(map(str, windows)),
            "logged": "yes" if any(metric not in METRICS for metric in experiment.metrics) else "",
            "decoders": "; ".join(scale.decoders[key].label for key in _decoders(experiment, scale)),
            "published": "yes" if scale.published_curves else "",
        }
    if isinstance(experiment, Propositions):
        words |= {"distributions": f"{experiment.distributions:,}", "spread": f"{experiment.spread:g}"}
    return words


def cost_caption(scale: Scale) -> dict[str, str]:
    """Return what the caption of the figure of costs (workflow/report/cost.rst) says of the scale."""
    return {
        "scale": scale.description,
        "files": "CPU seconds in timings.parquet of each training and evaluation, and in its manifest"
        if scale.engine == "inprocess"
        else "seconds on the wall in timings.parquet of each training and evaluation",
    }


def model_label(model: str, role: str) -> str:
    """Return a model's name in figures: the paper's, or its own and the one it stands for."""
    label = ROLE_LABELS[role]
    return label if model.lower() == label.lower() else f"{model}, for {label}"


def published_curves(figure: str, models: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the paper's own curves of a figure, for the models (model -> role) shown; values are shares or nats."""
    table = json.loads((WORKFLOW / "published_curves.json").read_text(encoding="utf-8"))
    of_role = {role: model for model, role in models.items()}
    return [
        {**curve, "model": of_role[curve["role"]], "label": ROLE_LABELS[curve["role"]]}
        for curve in table["curves"]
        if curve["figure"] == figure and curve["role"] in of_role
    ]


def _decoders(experiment: TrainingCurves | DecoderMatrix, scale: Scale) -> list[str]:
    models = {
        scale.roles[role].model for grid in experiment.runs for role in grid.role if role in scale.roles
    }
    evaluations = [scale.evaluation_of(model) for model in sorted(models)] or [scale.evaluation]
    if isinstance(experiment, DecoderMatrix):
        return list(
            dict.fromkeys(key for asked in evaluations for key in (*asked.decoders, *asked.final_decoders))
        )
    chosen = experiment.decoders or evaluations[0].decoders[:1]
    for decoder in chosen:
        for asked in evaluations:
            if decoder not in asked.decoders:
                raise ConfigurationError(
                    f"experiments.yaml: {experiment.title!r}: no checkpoint is evaluated with the decoder "
                    f"{decoder!r} at this scale{suggest(decoder, asked.decoders)}"
                )
    return chosen


def _schedule_panels(experiment: Schedules, scale: Scale) -> list[dict[str, Any]]:
    samplers = read_yaml(WORKFLOW / "samplers.yaml")
    panels = []
    for panel in experiment.panels:
        if panel.sampler not in samplers:
            raise ConfigurationError(
                f"experiments.yaml: unknown sampler {panel.sampler!r}{suggest(panel.sampler, samplers)}"
            )
        if panel.d is not None:
            written = samplers[panel.sampler]["schedule"]
            curves = [
                {"label": f"d = {d:g}", "schedule": {**written, "d0": d, "alpha": 0, "d_max": d}, "step": 0}
                for d in panel.d
            ]
            panels.append({"title": panel.title, "positions": experiment.positions, "curves": curves})
        else:
            own = scale.samplers[panel.sampler].schedule
            steps = dict.fromkeys(round(share * scale.training.steps) for share in panel.steps)
            curves = [{"label": f"step {step:,}", "schedule": own, "step": step} for step in steps]
            length = scale.training.max_new_tokens
            panels.append({"title": panel.title, "positions": length, "curves": curves})
    return panels
