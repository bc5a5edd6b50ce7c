"""Group advantages and the policy losses of DAPO, GRPO, Dr. GRPO, GSPO, Clip-Cov and KL-Cov.

Tensors have shape ``[batch, response]``; ``mask`` is true (or 1) at response tokens, and what stands outside
it never matters. Losses are minimised. Semantics follow verl 0.9.1; ``tests/verl`` compares losses and
gradients with it, and ``tests/hosts`` with TRL.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

Aggregation = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
Kind = Literal["clip", "clip_cov", "kl_cov", "gspo"]

_LOG_RATIO_LIMIT = 20.0  # exp(20) = 4.9e8; keeps a single wild token from overflowing the loss
_STD_EPSILON = 1e-6  # D13
_K3_LIMIT = 10.0


def group_advantages(
    rewards: torch.Tensor, groups: Sequence | np.ndarray | torch.Tensor, *, standardise: bool = True
) -> torch.Tensor:
    """Return ``(R - mean) / (std + 1e-6)`` within each group, one value per response.

    ``std`` is the sample standard deviation (n - 1), as in the framework (D13). A group of equal rewards gets
    exactly 0. Means are taken in float64.

    Args:
        rewards: shape ``[batch]``.
        groups: the prompt each response belongs to, ``batch`` labels of any sortable type.
        standardise: false returns ``R - mean`` (Dr. GRPO, Liu et al. 2025, section 3.2).

    Returns:
        Shape ``[batch]``, in the rewards' floating type (float32 for integers), without gradient.

    Raises:
        ValueError: shapes differ, a group has a single response and so no baseline, or a reward is not finite.
    """
    if isinstance(groups, torch.Tensor):
        groups = groups.cpu()
    labels, index, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if rewards.ndim != 1 or index.shape != rewards.shape:
        raise ValueError(
            "rewards and groups must have one value per response, "
            f"found shapes {tuple(rewards.shape)} and {index.shape}"
        )
    if (counts < 2).any():
        raise ValueError(f"group {labels[counts < 2][0]} has one response: an advantage needs two or more")

    values = rewards.detach().double()
    finite = torch.isfinite(values)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"reward {row} is {values[row].item()}: every response needs a finite reward")
    index = torch.from_numpy(index).to(values.device)
    count = torch.from_numpy(counts).to(values)

    def total(per_response: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(count).index_add(0, index, per_response)

    deviation = values - (total(values) / count)[index]
    if standardise:
        std = (total(deviation.square()) / (count - 1)).sqrt()
        deviation = deviation / (std[index] + _STD_EPSILON)
    # The mean of equal numbers may differ from them in the last bit, which a tiny std has blown up.
    low = torch.full_like(count, torch.inf).scatter_reduce(0, index, values, "amin")
    equal = (total((values > low[index]).double()) == 0)[index]
    advantages = torch.where(equal, 0.0, deviation)
    return advantages.to(torch.promote_types(rewards.dtype, torch.float32))


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kind: Kind = "clip",
    dual_clip: float | None = None,
    aggregation: Aggregation = "token-mean",
    weights: torch.Tensor | None = None,
    covariance_share: float = 2e-4,
    covariance_bounds: tuple[float, float] = (1.0, 5.0),
    covariance_penalty: float = 1.0,
    generator: torch.Generator | None = None,
    total_tokens: int | None = None,
    total_sequences: int | None = None,
    max_tokens: int | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the policy-gradient loss of one (micro-)batch and its statistics.

    With ``r = pi / pi_old`` and ``A`` the advantage, a token's loss is

    - ``clip``: ``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)``; with ``dual_clip``, tokens of negative
      advantage lose at most ``-dual_clip A``. DAPO is 0.2 / 0.28, GRPO 0.2 / 0.2.
    - ``clip_cov`` (Cui et al. 2025): the same, with the loss of a few tokens set to 0: a random choice of
      ``covariance_share`` of the batch's tokens among the unclipped ones whose covariance
      ``(A - mean A)(log pi - mean log pi)`` lies strictly within ``covariance_bounds``.
    - ``kl_cov`` (ibid.): ``-r A``, plus ``covariance_penalty |log r|`` on the ``covariance_share`` of tokens with
      the largest covariance.
    - ``gspo`` (Zheng et al. 2025, section 4): that of ``clip`` with one ratio for all tokens of a response, the
      geometric mean ``s = exp(mean of log r)``; a token's gradient is ``s A`` times that of its ``log pi``. With
      ``seq-mean-token-mean`` and no weights this is the paper's loss of whole responses.

    Both shares are rounded down, to one token at least, and taken within the tensors of this call.

    Args:
        logprobs: of the sampled tokens under the policy being trained; carries the gradient.
        old_logprobs: the same under the policy before the update.
        advantages: ``[batch, response]``, or ``[batch]`` for one value per response.
        mask: which positions are response tokens.
        clip_low, clip_high: clip range, >= 0 (unused by ``kl_cov``).
        kind, covariance_share, covariance_bounds, covariance_penalty: see above.
        dual_clip: > 1; only with ``clip``.
        aggregation: how token losses become one number, see :func:`aggregate`.
        weights: importance weights that multiply each token's loss after clipping (TIS, D04).
        generator: source of ``clip_cov``'s random choice; required there.
        total_tokens, total_sequences, max_tokens: of the mini-batch, see :func:`aggregate`.

    Returns:
        The scalar loss, and statistics over the mask as floats: ``tokens``; ``clip_low_share`` and
        ``clip_high_share`` (tokens whose ratio the lower and the upper clip stopped; 0 for ``kl_cov``);
        ``dual_clip_share``; ``covariance_share`` (tokens that ``clip_cov`` or ``kl_cov`` chose);
        ``approximate_kl`` (mean of ``log pi_old - log pi``); ``ratio_mean``, ``ratio_min`` and ``ratio_max`` of the
        ratios that the loss takes.

    Raises:
        ValueError: shapes differ, the mask is empty, an advantage or weight within it is not finite, an option is
            out of range or does not fit ``kind``.

    Everything is computed in float32 at least: half precision holds neither the largest ratio nor long sums.
    """
    if advantages.ndim == 1:
        advantages = advantages.unsqueeze(-1).expand_as(logprobs)
    _check_shapes(logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask, weights=weights)
    covariance = _Covariance(covariance_share, covariance_bounds, covariance_penalty, generator)
    options = _Options(kind, clip_low, clip_high, dual_clip, covariance)
    _check_options(options)
    mask = mask.bool()
    if not mask.any():
        raise ValueError("mask selects no token")
    _check_finite(mask, advantages=advantages, weights=weights)

    advantages = torch.where(mask, _wide(advantages.detach()), 0.0)
    tokens = _tokens(options, _wide(logprobs), _wide(old_logprobs.detach()), advantages, mask)
    factors = 1.0 if weights is None else torch.where(mask, _wide(weights.detach()), 0.0)
    totals = {"total_tokens": total_tokens, "total_sequences": total_sequences, "max_tokens": max_tokens}
    loss = aggregate(tokens.losses * factors, mask, aggregation, **totals)
    return loss, _statistics(tokens, advantages, mask)


class _Covariance(NamedTuple):
    """What ``clip_cov`` and ``kl_cov`` choose tokens by, as :func:`policy_loss` takes it."""

    share: float
    bounds: tuple[float, float]
    penalty: float
    generator: torch.Generator | None


class _Options(NamedTuple):
    """A loss, as :func:`policy_loss` takes it."""

    kind: Kind
    clip_low: float
    clip_high: float
    dual_clip: float | None
    covariance: _Covariance


class _Tokens(NamedTuple):
    """The losses of tokens before weights, and what led to them; each ``[batch, response]``, the last three bool."""

    losses: torch.Tensor
    log_ratio: torch.Tensor
    ratio: torch.Tensor
    stopped: torch.Tensor
    dual_clipped: torch.Tensor
    chosen: torch.Tensor


def _tokens(
    options: _Options,
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
) -> _Tokens:
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    if options.kind == "gspo":
        of_response = log_ratio.detach().sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        log_ratio = torch.where(mask, logprobs - logprobs.detach() + of_response, 0.0)
    log_ratio = log_ratio.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    losses = -advantages * ratio
    stopped = dual_clipped = chosen = torch.zeros_like(mask)

    if options.kind != "kl_cov":
        clipped = -advantages * ratio.clamp(1 - options.clip_low, 1 + options.clip_high)
        stopped = clipped > losses
        losses = torch.maximum(losses, clipped)
    if options.dual_clip is not None:
        bound = -advantages * options.dual_clip
        dual_clipped = (advantages < 0) & (losses > bound)
        losses = torch.where(advantages < 0, torch.minimum(losses, bound), losses)
    if options.kind == "clip_cov":
        chosen = _within_bounds(
            options.covariance, _covariance(advantages, logprobs, mask), mask, mask & ~stopped
        )
        losses = torch.where(chosen, 0.0, losses)
    if options.kind == "kl_cov":
        chosen = _largest(options.covariance, _covariance(advantages, logprobs, mask), mask)
        losses = losses + torch.where(chosen, options.covariance.penalty * log_ratio.abs(), 0.0)
    return _Tokens(losses, log_ratio, ratio, stopped, dual_clipped, chosen)


def _within_bounds(
    options: _Covariance, covariance: torch.Tensor, mask: torch.Tensor, unclipped: torch.Tensor
) -> torch.Tensor:
    """Choose the share of the mask's tokens at random, among unclipped ones of a covariance within the bounds."""
    low, high = options.bounds
    eligible = (unclipped & (covariance > low) & (covariance < high)).nonzero()
    order = torch.randperm(len(eligible), generator=options.generator, device=options.generator.device)
    rows, columns = eligible[order[: _token_count(mask, options.share)].to(mask.device)].T
    chosen = torch.ones_like(rows, dtype=torch.bool)
    return torch.zeros_like(mask).index_put((rows, columns), chosen)


def _largest(options: _Covariance, covariance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Choose the share of the mask's tokens whose covariance is largest."""
    inside = torch.where(mask, covariance, -torch.inf).flatten()
    largest = inside.topk(_token_count(mask, options.share)).indices
    return torch.zeros_like(mask).flatten().index_fill(0, largest, True).view_as(mask)


def _statistics(tokens: _Tokens, advantages: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    with torch.no_grad():
        ratio = tokens.ratio[mask]
        statistics = {
            "tokens": mask.sum(),
            "clip_low_share": (tokens.stopped & (advantages < 0))[mask].double().mean(),
            "clip_high_share": (tokens.stopped & (advantages > 0))[mask].double().mean(),
            "dual_clip_share": tokens.dual_clipped[mask].double().mean(),
            "covariance_share": tokens.chosen[mask].double().mean(),
            "approximate_kl": -tokens.log_ratio[mask].double().mean(),
            "ratio_mean": ratio.double().mean(),
            "ratio_min": ratio.min(),
            "ratio_max": ratio.max(),
        }
        values = torch.stack([value.double() for value in statistics.values()]).tolist()  # one transfer
    return dict(zip(statistics, values, strict=True))


def aggregate(
    values: torch.Tensor,
    mask: torch.Tensor,
    mode: Aggregation,
    *,
    total_tokens: int | None = None,
    total_sequences: int | None = None,
    max_tokens: int | None = None,
) -> torch.Tensor:
    """Reduce token values to one number, in float32 at least.

    ``token-mean``: mean over all tokens (DAPO). ``seq-mean-token-sum``: sum over each response's tokens, then
    mean over responses. ``seq-mean-token-mean``: mean over each response's tokens, then over responses (GRPO
    as first published). ``seq-mean-token-sum-norm``: ``seq-mean-token-sum`` over ``max_tokens``, one number for all
    responses (Dr. GRPO, Liu et al. 2025). Responses without a token do not count.

    A trainer that splits a mini-batch into micro-batches passes the mini-batch's number of tokens
    (``token-mean``) or of responses (the other modes); the micro-batches' results then sum to the
    mini-batch's.

    Raises:
        ValueError: ``mode`` is unknown, the mask is empty and no total is given, or ``max_tokens`` is wanted and not
            positive.
    """
    mask = mask.bool()
    per_sequence = torch.where(mask, _wide(values), 0.0).sum(dim=-1)
    lengths = mask.sum(dim=-1)
    if mode == "token-mean":
        total = lengths.sum() if total_tokens is None else total_tokens
    elif mode in get_args(Aggregation):
        total = (lengths > 0).sum() if total_sequences is None else total_sequences
        if mode == "seq-mean-token-mean":
            per_sequence = per_sequence / lengths.clamp(min=1)
        if mode == "seq-mean-token-sum-norm":
            if max_tokens is None or max_tokens <= 0:
                raise ValueError(f"{mode} wants max_tokens, the limit of a response, found {max_tokens!r}")
            per_sequence = per_sequence / max_tokens
    else:
        raise ValueError(f"aggregation: found {mode!r}, allowed: {', '.join(get_args(Aggregation))}")
    if total <= 0:
        raise ValueError("mask selects no token and no positive total is given")
    return per_sequence.sum() / total


def kl_penalty(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, kind: Literal["k1", "k2", "k3"] = "k3"
) -> torch.Tensor:
    """Return a per-token estimate of KL(policy || reference), with gradient: the inputs' shape, float32 at least.

    With ``x = log pi_ref - log pi``: ``k1 = -x`` (unbiased, high variance), ``k2 = x^2 / 2``,
    ``k3 = exp(x) - 1 - x`` (unbiased, never negative; verl's ``low_var_kl``, its default for GRPO) with ``x``
    clamped to +-20 and ``k3`` to at most 10. ``exp(x) - 1`` is taken as one function: near 0, where a policy starts,
    the difference of rounded numbers is noise of either sign. Add ``beta * aggregate(kl_penalty(...), mask, mode)``
    to the loss.

    Raises:
        ValueError: ``kind`` is unknown.
    """
    difference = _wide(reference_logprobs.detach()) - _wide(logprobs)
    if kind == "k1":
        return -difference
    if kind == "k2":
        return 0.5 * difference.square()
    if kind == "k3":
        difference = difference.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
        return (difference.expm1() - difference).clamp(min=0.0, max=_K3_LIMIT)
    raise ValueError(f"KL penalty: found {kind!r}, allowed: k1, k2, k3")


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check_finite(mask: torch.Tensor, **tensors: torch.Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and (wrong := mask & ~torch.isfinite(tensor)).any():
            row, position = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{name} at row {row}, position {position}: found {tensor[row, position].item()}"
            )


def _covariance(advantages: torch.Tensor, logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return each token's share of the covariance between advantage and log-probability, without gradient."""
    logprobs = torch.where(mask, logprobs.detach(), 0.0)
    count = mask.sum()
    return (advantages - advantages.sum() / count) * (logprobs - logprobs.sum() / count)


def _token_count(mask: torch.Tensor, share: float) -> int:
    return max(1, int(share * mask.sum().item()))


def _check_shapes(logprobs: torch.Tensor, **others: torch.Tensor | None) -> None:
    if logprobs.ndim != 2:
        raise ValueError(f"logprobs must have shape [batch, response], found {tuple(logprobs.shape)}")
    for name, tensor in others.items():
        if tensor is not None and tensor.shape != logprobs.shape:
            raise ValueError(
                f"{name} must have the shape of logprobs {tuple(logprobs.shape)}, found {tuple(tensor.shape)}"
            )


def _check_options(options: _Options) -> None:
    kind, dual_clip, covariance = options.kind, options.dual_clip, options.covariance
    if kind not in get_args(Kind):
        raise ValueError(f"loss kind: found {kind!r}, allowed: {', '.join(get_args(Kind))}")
    if not 0 <= options.clip_low <= 1:
        raise ValueError(f"clip_low must be within [0, 1], found {options.clip_low!r}")
    if not options.clip_high >= 0:
        raise ValueError(f"clip_high must be at least 0, found {options.clip_high!r}")
    if dual_clip is not None and kind != "clip":
        raise ValueError(f"dual_clip applies to the loss kind clip only, found kind {kind!r}")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip must be greater than 1, found {dual_clip!r}")
    if not 0 < covariance.share <= 1:
        raise ValueError(f"covariance_share must be within (0, 1], found {covariance.share!r}")
    if not covariance.bounds[0] < covariance.bounds[1]:
        raise ValueError(f"covariance_bounds must increase, found {covariance.bounds!r}")
    if kind == "clip_cov" and covariance.generator is None:
        raise ValueError("the loss kind clip_cov draws tokens at random: pass a torch.Generator as generator")
