"""AdamW with the steps of ``torch.optim.AdamW``, to the bit.

The classes of ``torch.optim`` load torch's compiler when they are made, which takes more than a second of a processor
and is never used here. The functions behind them do not.
"""

from collections.abc import Iterable

import torch
from torch.optim.adamw import adamw

EPSILON = 1e-8  # torch's default


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019); ``state`` is parameter -> step, exp_avg, exp_avg_sq."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], *, betas: tuple[float, float], weight_decay: float
    ) -> None:
        self._betas, self._weight_decay = betas, weight_decay
        self.state = {
            parameter: {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            for parameter in parameters
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Change every parameter by its gradient; one without a gradient stays."""
        moved = [parameter for parameter in self.state if parameter.grad is not None]
        states = [self.state[parameter] for parameter in moved]
        adamw(
            moved,
            [parameter.grad for parameter in moved],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.state:
            parameter.grad = None
