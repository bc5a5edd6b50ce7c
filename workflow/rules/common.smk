# What every rule file uses: the validated configuration, the run table, and helpers for wildcards.

import json
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

from reproduction.cluster import resources, slurm
from reproduction.cluster import devices
from reproduction import figures
from reproduction import layout
from reproduction.config import runs as run_table
from reproduction.claims import ResultsFolder, problems_file, required
from reproduction.config import (
    REPOSITORY,
    WORKFLOW,
    ConfigurationError,
    EvaluationRequest,
    InferenceRequest,
    PretrainedModel,
    RealData,
    WarmStartModel,
)
from reproduction.figures import InferenceFigure
from reproduction.files import sha256_of_file, write_text
from reproduction.models import published
from reproduction.plan import SO_FAR, read_files, read_plan
from reproduction.config.command_line import selected
from reproduction.tasks import GeneratedData

try:
    # Not from `config`: Snakemake reads the same files by YAML 1.1, where 010 is 8.
    replaced = workflow.config_settings.replace_workflow_config
    files = [] if replaced else [*workflow.configfiles]
    files += workflow.overwrite_configfiles or []
    plan = read_plan(read_files(*files), workflow.config_settings.config)
except ConfigurationError as error:
    raise WorkflowError(str(error)) from None
request, configuration, scale = plan.request, plan.configuration, plan.scale
experiments, runs_of, runs = plan.experiments, plan.runs_of, plan.runs
site, estimates = plan.site, plan.estimates

RESULTS = configuration.paths.results
REPORTS = f"{configuration.paths.reports}/{configuration.scale}"
SCALE = f"{RESULTS}/{configuration.scale}"
SCRIPTS = f"{REPOSITORY}/scripts"
# With --sdm conda each job's environment brings its own.
CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
CURRENT_PYTHON = "python" if CONDA else sys.executable
PYTHON = configuration.interpreters.cpu or CURRENT_PYTHON


def environment_python(name, configured):
    """The Python of an environment: as configured, or the environment's own where `make` has built it."""
    built = REPOSITORY / f".venv-{name}" / "bin" / "python"
    return configured or (
        str(built) if built.exists() and not CONDA else CURRENT_PYTHON
    )


# Training and sampling of models: the workflow's own environment, or the one of verl and vLLM.
if scale.engine == "verl":
    MODEL_ENVIRONMENT = "../../envs/gpu.yaml"
    MODEL_PYTHON = environment_python("gpu", configuration.interpreters.gpu)
    # Not parameters of the jobs: another machine is no reason to train again.
    TRAIN_MACHINE = shlex.join(["--machine", scale.verl.model_dump_json()])
    SAMPLE_MACHINE = shlex.join(["--vllm", scale.verl.model_dump_json()])
else:
    MODEL_ENVIRONMENT, MODEL_PYTHON = "../../envs/cpu.yaml", PYTHON
    TRAIN_MACHINE = SAMPLE_MACHINE = ""
# Not a parameter of the jobs: to track elsewhere is no reason to train again.
TRACKING = shlex.join(
    ["--tracking-folder", f"{RESULTS}/mlflow"]
    + (
        ["--tracking-uri", configuration.tracking.uri]
        if configuration.tracking.uri
        else []
    )
    + ([] if configuration.tracking.stream else ["--no-stream"])
)
# A scale lacks an inference figure whose study it does not define.
studies = {
    name: scale.study(experiment.study)
    for name, experiment in experiments.items()
    if isinstance(experiment, InferenceFigure) and scale.study(experiment.study)
}
# What rules/analyse.smk estimates and rules/figures.smk draws; other kinds have rules of their own.
estimated = {
    name: experiment
    for name, experiment in experiments.items()
    if not experiment.own_rules
}


wildcard_constraints:
    run=run_table.NAME_PATTERN,
    model="|".join(scale.models),
    dataset=r"[^/]+",
    figure=r"(?!(claims|cost)$)[^/]+",  # these figures have rules of their own


# What a page or a table of the whole scale depends on beside its inputs; a script resolves the rest from it.
CHOICES = json.dumps(configuration.choices)
# Not a parameter of a training: what its numbers depend on is in the run.
OVERRIDES = json.dumps(configuration.overrides)
# The tables that such a script reads again; `extends` chains the scales, so each counts.
TABLES = [
    f"{WORKFLOW}/{name}.yaml"
    for name in ("samplers", "algorithms", "experiments", "datasets", "models")
] + sorted(str(path) for path in (WORKFLOW / "scales").glob("*.yaml"))


def run_of(wildcards):
    """The resolved configuration of the run that a job is about."""
    if wildcards.run not in runs:
        raise WorkflowError(
            f"no experiment defines the run {wildcards.run!r} with the seeds that `config.yaml` or the scale gives it"
        )
    return runs[wildcards.run]


def definition_json(table, name):
    """The definition of a data set or model as a job's parameter: a change of it re-runs that job."""
    return table[name].model_dump_json()


def dataset_file(name):
    return str(layout.dataset_file(Path(RESULTS), configuration.scale, scale, name))


def data_card(name):
    return str(layout.data_card(Path(dataset_file(name))))


def as_argument(request):
    """A script's request as JSON, or the file that has it."""
    return arguments([json.dumps(request)])[0]


LONGEST_ARGUMENTS = 64_000  # bytes; a shell command may have 131,072 in all (Linux)


def arguments(values):
    """Return `values` for a command line: where they are too long, a file that the script reads them from (@FILE)."""
    if len(shlex.join(values).encode()) <= LONGEST_ARGUMENTS:
        return values
    text = "".join(f"{value}\n" for value in values)
    path = Path(SCALE) / "arguments" / f"{run_table.digest(text)}.txt"
    if not workflow.dryrun:
        write_text(path, text)
    return [f"@{path}"]


def content_of(path):
    """A file that a job reads where it exists, as a parameter: the job runs again for another content, and starts none.

    Nothing where there is no such file.
    """
    return [f"{path}@{sha256_of_file(Path(path))}"] if os.path.exists(path) else []


def model_manifest(name):
    return str(layout.model_manifest(Path(RESULTS), configuration.scale, scale, name))


def figure_files(figure):
    """What a figure's target makes; nothing where the scale lacks its study."""
    experiment = experiments[figure.removesuffix(SO_FAR)]
    if isinstance(experiment, InferenceFigure) and figure not in studies:
        return []
    return [
        f"{REPORTS}/{experiment.folder}/{figure}.{suffix}"
        for suffix in experiment.suffixes
    ]


# Where Snakemake starts the jobs itself, their GPUs are what this machine shows; on a cluster Slurm has them, and
# the Snakemake of a job counts nothing.
on_this_machine = workflow.is_main_process and workflow.resource_settings.nodes is None
gpus_here = (
    devices.visible()
    if on_this_machine and scale.engine == "verl" and scale.verl.device == "cuda"
    else None
)
if gpus_here is not None:  # --resources gpu=N goes before it
    workflow.global_resources.setdefault("gpu", len(gpus_here))


def too_few_gpus(rule, gpus, nodes):
    """What to say of a job that asks for more GPUs than there are here; None where there are enough."""
    if gpus_here is None:
        return None
    limit = min(len(gpus_here), workflow.global_resources["gpu"].value)
    return resources.too_few_gpus(rule, gpus, nodes, gpus_here[:limit])


told = set()


def slurm_logs(rule, wildcards):
    """Where Slurm's executor keeps the logs of a job's attempts; in the Snakemake of a job there are none to look at."""
    root = (
        getattr(workflow.executor_settings, "logdir", None) or ".snakemake/slurm_logs"
    )
    return slurm.log_folder(Path(root), rule, wildcards)


def needs(rule, of_job=None):
    """A rule's resources on a cluster; `of_job` finds a job's needs by its wildcards. Here only GPUs are shared out."""

    def resource(name):
        def value(wildcards, attempt):
            need = of_job(wildcards) if of_job else estimates.rule(rule)
            if workflow.dryrun:  # a plan for another machine is worth reading, too
                problem = too_few_gpus(rule, need.gpus, need.nodes)
                if problem and problem not in told:
                    told.add(problem)
                    logger.warning(problem)
            if on_this_machine:
                return slurm.slurm_resources(need, slurm.Site())[name]
            growth = slurm.growth_after(slurm_logs(rule, wildcards), attempt)
            return slurm.slurm_resources(need, site, growth)[name]

        return value

    return {name: resource(name) for name in slurm.SLURM_RESOURCES}


onstart:
    for job in workflow.dag.needrun_jobs():
        asked = {
            name: job.resources.get(name, 0) for name in ("gpus_per_node", "nodes")
        }
        if problem := too_few_gpus(job.rule.name, *asked.values()):
            raise WorkflowError(problem)
    # Snakemake's limit on submissions makes it choose jobs anew every second, and once more per second for each job
    # that has ended (9.27, `_schedule_reevalutation`). A machine's own cores are limit enough.
    if on_this_machine:
        workflow.scheduler.job_rate_limiter = None
