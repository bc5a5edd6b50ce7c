"""The project's two Snakemake loggers: where they are, and how a call of Snakemake finds them.

Snakemake imports every module named ``snakemake_logger_plugin_*`` that it can, in each of its calls. So they are not
installed: only a call that is started with this environment sees them.
"""

import os

from reproduction.config import WORKFLOW

LOGGERS = WORKFLOW / "loggers"


def with_loggers() -> dict[str, str]:
    """Return this process's environment with ``--logger calm`` and ``--logger jobs`` to be found."""
    path = os.pathsep.join(filter(None, [str(LOGGERS), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
