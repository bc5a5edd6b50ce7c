"""What a user edits: config.yaml, and the text of that file."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from reproduction.config.yaml_files import dump_yaml, read_yaml
from reproduction.fields import FIGURES, SCALES, WORKFLOW, Folder, Name, Seeds, Strict, unique

# What config.yaml may leave to the scale's ``plan``.
LEFT_TO_SCALE = ("seeds", "seeds_by_experiment", "experiments")


class Paths(Strict):
    """Folders that are read and written; relative paths start at the repository."""

    results: Folder = Field("results", description="everything the rules produce")
    reports: Folder = Field("reports", description="figures, tables and reports")
    real_data: Folder | None = Field(
        None, description="folder with local copies of the real data sets; null fetches them from their hub"
    )
    tokenizers: Folder | None = Field(
        None,
        description="folder with {owner}/{model}/tokenizer.json of the tokenizers that measure training problems; "
        "null fetches them from their hub",
    )


class Tracking(Strict):
    """MLflow is a view of the results; the next run can rebuild it from the files."""

    # Another database needs a driver of its own in every environment, and a server has it once.
    uri: Annotated[str, Field(pattern=r"^(https?://\S+|sqlite:///[^?\x00-\x1f]+)$")] | None = Field(
        None,
        description="address of an MLflow server, or sqlite:///FILE; null keeps a local store in "
        "{results}/mlflow (see `make mlflow`). For another database, start a server on it",
    )
    stream: bool = Field(
        True,
        description="send metrics while a training runs, from its second minute on; false: only when runs are finished",
    )


class Interpreters(Strict):
    """The Python of each environment when Snakemake runs without --sdm conda; null: the current one."""

    cpu: str | None = Field(None, description="envs/cpu: the workflow and the in-process engine")
    verl_cpu: str | None = Field(None, description="envs/verl-cpu: verl and vLLM on CPUs")
    gpu: str | None = Field(None, description="envs/gpu: verl and vLLM on GPUs")


class Configuration(Strict):
    """What a user edits (config.yaml)."""

    scale: Literal[SCALES] = Field(
        "cpu",
        description="mini (tests, a minute), cpu (a laptop), gpu24 and gpu1 (one GPU of 24 or 80 GB), paper (2 or 8 "
        "GPUs per run)",
    )
    seeds: Seeds | None = Field(
        None,
        description="one training per cell and seed; a new seed keeps the finished runs. null: the scale's seeds",
    )
    seeds_by_experiment: dict[Name, Seeds] | None = Field(
        None,
        description="experiment -> the seeds of its cells, in place of `seeds`; a cell that several experiments show "
        "has the seeds of all of them. null: none where `seeds` is given, else the scale's",
    )
    root_seed: int = Field(
        2025, ge=0, description="every random stream of the project is derived from this number"
    )
    base_models: Literal["published", "trained"] = Field(
        "published",
        description="published takes the base models under workflow/base_models that are as the scale defines them, "
        "so every machine starts from the same weights; trained trains all of them here",
    )
    experiments: Annotated[list[Name], AfterValidator(unique)] | None = Field(
        None,
        description="figures and tables that `all` makes, names in workflow/experiments.yaml. null: the scale's",
    )
    overrides: dict[str, Any] = Field(
        {},
        description="numbers that replace those of workflow/scales/{scale}.yaml, e.g. {samplers: {ead: {schedule: "
        "{tau_max: 1.3}}}}",
    )
    paths: Paths = Paths()
    tracking: Tracking = Tracking()
    interpreters: Interpreters = Interpreters()

    def seeds_of(self, experiment: str) -> list[int]:
        """Return the seeds that an experiment asks for; a cell that others show may have more."""
        return (self.seeds_by_experiment or {}).get(experiment, self.seeds)

    @property
    def choices(self) -> dict[str, Any]:
        """What a page, a table or a verdict of the whole scale depends on beside its inputs, as plain data."""
        named = {"scale", "seeds", "seeds_by_experiment", "root_seed", "overrides"}
        return self.model_dump(mode="json", include=named)

    @model_validator(mode="before")
    @classmethod
    def _as_the_scale_plans(cls, values: Any) -> Any:
        """Fill in what is left to the scale: its file's ``plan``, else every figure with one seed."""
        if not isinstance(values, Mapping):
            return values
        scale = values.get("scale", cls.model_fields["scale"].default)
        file = WORKFLOW / "scales" / f"{scale}.yaml"
        planned = {"seeds": [0], "seeds_by_experiment": {}, "experiments": FIGURES}
        if scale in SCALES and isinstance(plan := read_yaml(file).get("plan"), Mapping):
            planned |= {key: value for key, value in plan.items() if value is not None}
        if values.get("seeds") is not None:
            planned["seeds_by_experiment"] = {}  # seeds that somebody asks for are those of every experiment
        left = {key: planned[key] for key in LEFT_TO_SCALE if values.get(key) is None}
        return {**values, **left}


def render_configuration(values: Mapping[str, Any] | None = None) -> str:
    """Return config.yaml with ``values`` (by default the defaults), each key with its description as a comment."""
    values = dict(values or {})
    model = Configuration.model_validate(values)
    left_to_scale = {key: None for key in LEFT_TO_SCALE if values.get(key) is None}
    model = model.model_copy(update=left_to_scale)
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
            text = dump_yaml(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            lines += [f"{margin}{key}: {text}  # {field.description}\n"]
    return lines
