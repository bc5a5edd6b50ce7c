# The EAD paper, whole, at the scale that config.yaml names.
#
#   snakemake                                         every experiment that config.yaml switches on, and the report's tables
#   snakemake fig04                                   one figure, by name
#   snakemake runs --config select=sampler~ead/n~4    some runs, by parts of their names
#   snakemake budget --config targets=fig04           what it would cost
#   snakemake --profile slurm fig04                   on a cluster (docs/cluster.md)

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/configuration.smk"


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/problems.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tracking.smk"
include: "workflow/rules/inference.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/deviations.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/verl_smoke.smk"
include: "workflow/rules/rehearse.smk"
include: "workflow/rules/targets.smk"


rule all:
    default_target: True
    input:
        [figure_files(name) for name in configuration.experiments],
        f"{RESULTS}/mlflow/ingested_{configuration.scale}.json",
        f"{REPORTS}/report.html",
        f"{REPORTS}/ro-crate-metadata.json",
