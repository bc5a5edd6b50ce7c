"""What a user edits: config.yaml, and the text of that file."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, Field

from reproduction.config.base import FIGURES, SCALES, Folder, Name, Strict, unique


class Paths(Strict):
    """Where things are read and written; relative paths start at the repository."""

    results: Folder = Field("results", description="everything the rules produce")
    reports: Folder = Field("reports", description="figures, tables and reports")
    real_data: Folder | None = Field(
        None, description="folder with local copies of the real data sets; null fetches them from their hub"
    )


class Tracking(Strict):
    """MLflow. Files are the truth; MLflow is a view that can be rebuilt from them."""

    uri: Annotated[str, Field(pattern=r"^(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?://\S+$")] | None = (
        Field(
            None,
            description="tracking server; null keeps a local store in {results}/mlflow (see `make mlflow`)",
        )
    )
    stream: bool = Field(
        True,
        description="send metrics while a training runs, from its second minute on; false leaves it to the job that "
        "ingests finished runs",
    )


class Interpreters(Strict):
    """Python of each environment when Snakemake runs without --sdm conda; null is the current one."""

    cpu: str | None = Field(None, description="envs/cpu: the workflow and the in-process engine")
    verl_cpu: str | None = Field(None, description="envs/verl-cpu: verl and vLLM on CPUs")
    gpu: str | None = Field(None, description="envs/gpu: verl and vLLM on GPUs")


class Configuration(Strict):
    """What a user edits (config.yaml)."""

    scale: Literal[SCALES] = Field(
        "cpu",
        description="mini (tests, a minute), cpu (a laptop), gpu1 (one 80 GB GPU), paper (8 GPUs per run)",
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], AfterValidator(unique)] = Field(
        [0], min_length=1, description="one training per cell and seed; adding a seed reuses what ran"
    )
    root_seed: int = Field(
        2025, ge=0, description="every random stream of the project is derived from this number"
    )
    experiments: Annotated[list[Name], AfterValidator(unique)] = Field(
        FIGURES, description="entries of workflow/experiments.yaml that `all` makes"
    )
    overrides: dict[str, Any] = Field(
        {},
        description="laid over workflow/scales/{scale}.yaml, e.g. {samplers: {ead: {schedule: {tau_max: 1.3}}}}",
    )
    paths: Paths = Paths()
    tracking: Tracking = Tracking()
    interpreters: Interpreters = Interpreters()


def render_configuration(values: Mapping[str, Any] | None = None) -> str:
    """Return config.yaml with ``values`` (by default the defaults), each key with its description as a comment."""
    model = Configuration.model_validate(dict(values or {}))
    header = "# What you edit. `make config` rewrites this file from the typed model and keeps your values.\n"
    return header + "".join(_render(model, indent=0))


def _render(model: BaseModel, indent: int) -> list[str]:
    lines = []
    margin = "  " * indent
    for key, field in type(model).model_fields.items():
        value = getattr(model, key)
        if isinstance(value, BaseModel):
            about = (type(value).__doc__ or "").strip().splitlines()[0]
            lines += [f"\n{margin}# {about}\n", f"{margin}{key}:\n", *_render(value, indent + 1)]
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            lines += [f"{margin}{key}: {text}  # {field.description}\n"]
    return lines
