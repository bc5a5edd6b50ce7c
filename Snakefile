# The workflow, from the repository's root: `snakemake`, `snakemake fig04`, `snakemake --profile slurm`. Its rules and
# targets are in workflow/Snakefile, where the Snakemake catalogue looks for them.


include: "workflow/Snakefile"


# Snakemake keeps no default target of an included file.
workflow.default_target = "all"
