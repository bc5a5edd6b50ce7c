"""`snakemake` that asks Slurm every two seconds: the plugin waits ten seconds longer after each look without news."""

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

INTERVAL_S = 2

Executor.next_seconds_between_status_checks = property(lambda self: INTERVAL_S, lambda self, value: None)
main()
