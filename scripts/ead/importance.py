"""Truncated importance sampling (TIS): correcting for the temperature a response was sampled at.

EAD samples from ``pi_EAD`` while the objective is written for ``pi_old``, so each token's loss is multiplied
by ``min(pi_old(y_t) / pi_EAD(y_t), cap)`` (paper, appendix B.2; D03 for the cap, D04 for the level). The
behaviour log-probabilities are those of the distribution really sampled from, after the temperature.

All tensors have shape ``[batch, response]``; ``mask`` is true (or 1) at response tokens. What stands outside
the mask never matters, not even an infinity or a NaN.
"""

from numbers import Real
from typing import Literal

import torch

Level = Literal["token", "sequence"]

_CERTAIN = -0.05  # log-probability above which no temperature changes a token much
_FAR_FROM_ONE = 0.1
_LEAST_DIFFERENCE = 1e-3  # nats

LOG_RATIO_LIMIT = 20.0
"""Weights are computed from log-ratios clamped to +-20, so an uncapped weight is at most exp(20) = 4.9e8."""


def truncated_weights(
    old_logprobs: torch.Tensor,
    behaviour_logprobs: torch.Tensor,
    mask: torch.Tensor,
    cap: float | None,
    level: Level = "token",
) -> torch.Tensor:
    """Return the weights ``min(pi_old / pi_behaviour, cap)``, without gradient.

    Args:
        old_logprobs, behaviour_logprobs: log-probabilities of the sampled tokens, in nats.
        mask: which positions are response tokens.
        cap: the paper's epsilon, > 0; ``None`` leaves the ratios untruncated.
        level: ``token`` gives each token its own ratio (the release, D04); ``sequence`` gives every token of
            a response the same weight, from the product of its ratios (the paper's formula).

    Returns:
        Shape ``[batch, response]``, at least float32; 0 outside the mask.

    Raises:
        ValueError: shapes differ, ``cap`` or ``level`` is not allowed, or a log-ratio inside the mask is not
            finite (a token the behaviour policy cannot have sampled, or a NaN).
    """
    log_ratio, mask = _log_ratio(old_logprobs, behaviour_logprobs, mask)
    _check(cap, level)
    if level == "sequence":
        log_ratio = log_ratio.sum(dim=-1, keepdim=True)
    return torch.where(mask, _weight(log_ratio, cap), 0.0)


def weight_statistics(
    old_logprobs: torch.Tensor,
    behaviour_logprobs: torch.Tensor,
    mask: torch.Tensor,
    cap: float | None,
    level: Level = "token",
) -> dict[str, float]:
    """Summarise the ratios and weights over all tokens (level ``token``) or all responses (``sequence``).

    Returns:
        ``ratio_mean``, ``ratio_max``: of the ratios before the cap. The mean estimates exactly 1 when the
            behaviour log-probabilities are those really sampled from. It is 1, too, where they are raw ones:
            :func:`check_behaviour_logprobs` finds that.
        ``weight_mean``: of the weights, after the cap.
        ``share_capped``: share of the ratios above the cap.
        ``effective_sample_share``: ``mean(w)^2 / mean(w^2)``, the effective over the actual sample size.
        ``behaviour_kl``: mean of ``log pi_behaviour - log pi_old``, estimates KL(behaviour || old), in nats.

    Raises:
        ValueError: as for :func:`truncated_weights`, or the mask is empty.
    """
    statistics = _statistics(old_logprobs, behaviour_logprobs, mask, cap, level, by_position=False)
    if not statistics.pop("count"):
        raise ValueError("mask selects no token")
    return {name: float(value) for name, value in statistics.items()}


def check_behaviour_logprobs(
    old_logprobs: torch.Tensor,
    behaviour_logprobs: torch.Tensor,
    mask: torch.Tensor,
    temperatures: torch.Tensor,
) -> float:
    """Check that the behaviour log-probabilities were taken after the schedule's temperature.

    Raw log-probabilities are those of ``pi_old``: every ratio is 1 and so is ``ratio_mean``, which shows nothing.
    Where the temperature is not 1 the two must differ, by far more than where it is (there the difference is what
    two engines compute differently). Tokens that were nearly certain do not count: no temperature changes them.

    Args:
        temperatures: of the schedule, ``[response]`` or ``[batch, response]``; 1 at some positions helps.

    Returns:
        The mean of ``|log pi_old - log pi_behaviour|`` over the tokens that tell, in nats; NaN where none does
        (every temperature is within 10 % of 1, or every token nearly certain).

    Raises:
        ValueError: as for :func:`truncated_weights`, or the log-probabilities know nothing of the temperature:
            they are raw, or the schedule does not reach the sampler.
    """
    log_ratio, mask = _log_ratio(old_logprobs, behaviour_logprobs, mask)
    temperatures = torch.as_tensor(temperatures, dtype=log_ratio.dtype, device=log_ratio.device)
    try:
        temperatures = temperatures.expand_as(log_ratio)
    except RuntimeError:
        raise ValueError(
            f"temperatures have the shape {tuple(temperatures.shape)}, the log-probabilities {tuple(log_ratio.shape)}: "
            "one temperature per position of a response is needed, [response] or [batch, response]"
        ) from None
    uncertain = mask & (old_logprobs.to(log_ratio.dtype) < _CERTAIN)
    difference = log_ratio.abs()
    annealed = difference[uncertain & ((1 / temperatures - 1).abs() >= _FAR_FROM_ONE)]
    plain = difference[uncertain & (temperatures == 1)]
    if len(annealed) == 0:
        return float("nan")
    found = annealed.double().mean().item()
    noise = plain.double().mean().item() if len(plain) else 0.0
    if found <= max(_LEAST_DIFFERENCE, 2 * noise):
        raise ValueError(
            f"at {len(annealed)} tokens whose temperature is not 1, the behaviour log-probabilities are those at "
            f"temperature 1 (mean difference {found:.2g} nats): "
            "they are raw, or the schedule does not reach the sampler"
        )
    return found


def weight_statistics_by_position(
    old_logprobs: torch.Tensor, behaviour_logprobs: torch.Tensor, mask: torch.Tensor, cap: float | None
) -> dict[str, torch.Tensor]:
    """Return the token-level statistics of :func:`weight_statistics` at every position.

    Returns:
        The same names and ``count``, the number of responses that reach the position; each a float64 tensor
        of shape ``[response]``, NaN where the count is 0.
    """
    return _statistics(old_logprobs, behaviour_logprobs, mask, cap, "token", by_position=True)


def _statistics(
    old_logprobs: torch.Tensor,
    behaviour_logprobs: torch.Tensor,
    mask: torch.Tensor,
    cap: float | None,
    level: Level,
    by_position: bool,
) -> dict[str, torch.Tensor]:
    log_ratio, mask = _log_ratio(old_logprobs, behaviour_logprobs, mask)
    _check(cap, level)
    log_ratio = log_ratio.double()
    if level == "sequence":
        log_ratio, mask = log_ratio.sum(dim=-1), mask.any(dim=-1)
    if not by_position:  # one column
        log_ratio, mask = log_ratio.reshape(-1, 1), mask.reshape(-1, 1)

    ratio = log_ratio.clamp(max=700.0).exp()  # finite in float64: the ratio is reported as it is
    weight = _weight(log_ratio, cap)
    capped = ratio > (torch.inf if cap is None else cap)
    count = mask.sum(dim=0)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, values.double(), 0.0).sum(dim=0) / count

    largest = torch.where(mask, ratio, -torch.inf).amax(dim=0)
    return {
        "ratio_mean": mean(ratio),
        "ratio_max": torch.where(count > 0, largest, torch.nan),
        "weight_mean": mean(weight),
        "share_capped": mean(capped),
        "effective_sample_share": mean(weight).square() / mean(weight.square()),
        "behaviour_kl": -mean(log_ratio),
        "count": count.double(),
    }


def _log_ratio(
    old_logprobs: torch.Tensor, behaviour_logprobs: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-ratios (no gradient, 0 outside the mask, at least float32) and the boolean mask."""
    if not old_logprobs.shape == behaviour_logprobs.shape == mask.shape or mask.ndim != 2:
        raise ValueError(
            "old_logprobs, behaviour_logprobs and mask must share one shape [batch, response], found "
            f"{tuple(old_logprobs.shape)}, {tuple(behaviour_logprobs.shape)} and {tuple(mask.shape)}"
        )
    mask = mask.bool()
    dtype = torch.promote_types(old_logprobs.dtype, torch.float32)
    difference = old_logprobs.detach().to(dtype) - behaviour_logprobs.detach().to(dtype)
    log_ratio = torch.where(mask, difference, 0.0)
    if not torch.isfinite(log_ratio).all():
        row, position = (~torch.isfinite(log_ratio)).nonzero()[0].tolist()
        raise ValueError(
            f"log-probabilities at row {row}, position {position} give no finite ratio: "
            f"old {old_logprobs[row, position].item()}, behaviour {behaviour_logprobs[row, position].item()}"
        )
    return log_ratio, mask


def _weight(log_ratio: torch.Tensor, cap: float | None) -> torch.Tensor:
    weight = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return weight if cap is None else weight.clamp(max=cap)


def _check(cap: float | None, level: str) -> None:
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, Real) or not cap > 0):
        raise ValueError(f"cap must be greater than 0 or None, found {cap!r}")
    if level not in ("token", "sequence"):
        raise ValueError(f"level must be one of token, sequence, found {level!r}")
