"""What a vLLM worker of an evaluation can do besides: start its random stream anew."""

import torch


class Worker:
    """Mixed into vLLM's worker (``worker_extension_cls``), whose ``device`` it uses."""

    def seed(self, value: int) -> None:
        """Seed what requests without a seed of their own are drawn from."""
        torch.manual_seed(value)  # of every device
