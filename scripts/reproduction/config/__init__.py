"""The typed configuration: what a user edits, what a scale defines, what an experiment asks for.

These files are read and validated here before Snakemake builds its graph:

- ``config.yaml``: the user's choices (:class:`Configuration`)
- ``workflow/samplers.yaml``, ``workflow/algorithms.yaml``: the methods, in the paper's units, for all scales
- ``workflow/scales/{scale}.yaml``: models, data sets, budgets, and what differs there (:class:`Scale`)

``workflow/experiments.yaml`` (``reproduction.figures``), ``workflow/datasets.yaml`` (``reproduction.data``),
``workflow/models.yaml`` (``reproduction.models.pretrained``) and
``workflow/claims.yaml`` (``reproduction.claims``) are read where they are used.

Everything is strict: an unknown key, a wrong type or a value out of range is an error that names the file,
the key, what was found and what is allowed. ``workflow/schemas/`` holds the generated JSON schemas.
"""

from reproduction.config.choices import Configuration, render_configuration
from reproduction.config.drawing import (
    AnyStudy,
    Decoder,
    EntropyStudy,
    Evaluation,
    EvaluationRequest,
    ForkingStudy,
    InferenceRequest,
    MajorityStudy,
    RealLanguageModel,
    Study,
)
from reproduction.config.explain import MOST_LINES, suggest, validate
from reproduction.config.methods import (
    Importance,
    NamedSampler,
    SamplerDefinition,
    Samplers,
    SharedSampler,
    Style,
    adapt_schedule,
)
from reproduction.config.scale import (
    PretrainedModel,
    RealData,
    Recipe,
    Role,
    Scale,
    ScalePlan,
    ScheduleUnits,
    Training,
    Verl,
    VerlModel,
    WarmStartModel,
)
from reproduction.config.tables import (
    load_algorithms,
    load_configuration,
    load_samplers,
    load_scale,
    resolve,
    scale_values,
)
from reproduction.config.yaml_files import dump_yaml, merge, parse_yaml, read_yaml, scalar
from reproduction.fields import (
    FIGURES,
    REPOSITORY,
    ROLE_LABELS,
    ROLES,
    SAMPLERS_FILE,
    SCALES,
    WORKFLOW,
    ConfigurationError,
    Count,
    Name,
    RelativeFile,
    Rollouts,
    Share,
    Strict,
)
