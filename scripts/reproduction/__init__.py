"""What the Snakemake workflow runs: configuration, data, engines, evaluation, analyses, claims, report."""
