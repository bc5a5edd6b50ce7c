"""Python imports this at its start where this folder is on its path: vLLM's CPU build then has its second runner.

That runner's kernels are written in Triton. Triton's own interpreter runs them on a CPU; vLLM looks for a backend of
Triton's instead, so it is shown one.
"""

import os
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"

import triton.backends  # noqa: E402

triton.backends.backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))
