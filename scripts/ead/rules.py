"""Samplers that look at the logits: temperatures that follow the entropy, and supports that are cut.

A rule takes a row's logits and the temperature of the row's schedule, and returns the logits of the distribution that
is sampled from, ``-inf`` outside its support. Their log-softmax is the exact behaviour log-probability that importance
weights need. Rules are written once, in tensor methods; every integration calls :func:`apply`.

The schedules that name a rule are classes of :mod:`ead.schedule`. Nothing here loads torch: the logits bring it.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

LOWEST_TEMPERATURE = 0.01
"""A temperature computed from logits is raised to this, which keeps their float32 logits finite; vLLM has the same."""

MOST_FIRST_TOKENS = 64
"""The most candidates of :func:`first_token`, which a device must know before it counts them."""

# Of logits [rows, vocabulary], temperature [rows, 1], numbers, each [rows, 1], and position, an integer or [rows, 1].
Rule = Callable[[Any, Any, Sequence[Any], Any], Any]


def apply(rule: Rule, logits: Any, temperature: Any, numbers: Sequence[Any], position: Any) -> Any:
    """Return the logits of the distribution that ``rule`` samples from, a new tensor of the shape of ``logits``.

    Args:
        logits: of the policy at temperature 1, float32 or float64, shape (rows, vocabulary).
        temperature: of the schedule, a number or a tensor or array of shape (rows,) or (rows, 1).
        numbers: what the rule takes (``Schedule.rule_numbers``), each as ``temperature`` is.
        position: in the response, an integer or int64 of shape (rows,) or (rows, 1).
    """
    if not isinstance(position, int):
        position = position.reshape(-1, 1)
    columns = [_column(number, logits) for number in numbers]
    return rule(logits, _column(temperature, logits), columns, position)


def _column(value: Any, logits: Any) -> Any:
    """Return a number, or one for each row, as a tensor that broadcasts against ``logits``."""
    if hasattr(value, "to"):
        return value.to(logits).reshape(-1, 1)
    return logits.new_tensor(value).reshape(-1, 1)


def tempered(logits: Any, temperature: Any) -> Any:
    """Return ``logits / temperature``, shifted so that the largest is 0 and none overflows."""
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def entropy(logits: Any) -> Any:
    """Return the entropy in nats at temperature 1, shape (rows, 1)."""
    logprobs = logits.log_softmax(-1)
    # A token of probability 0 adds 0, not 0 times infinity.
    return -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1, keepdim=True)


def entropy_based(logits: Any, temperature: Any, numbers: Sequence[Any], position: Any) -> Any:
    """EDT (arXiv 2403.14541, equation 7): ``T = T0 N^(theta / H)``; numbers are theta and N."""
    theta, base = numbers
    power = theta / entropy(logits).clamp(min=sys.float_info.epsilon)
    return tempered(logits, (temperature * base**power).clamp(min=LOWEST_TEMPERATURE))


def dynamic(logits: Any, temperature: Any, numbers: Sequence[Any], position: Any) -> Any:
    """llama.cpp's ``temp_ext``: from ``T - range`` to ``T + range`` with ``(H / ln V)^exponent``."""
    spread, exponent = numbers
    share = (entropy(logits) / math.log(max(logits.shape[-1], 2))).clamp(0.0, 1.0) ** exponent
    return tempered(logits, (temperature + spread * (2 * share - 1)).clamp(min=LOWEST_TEMPERATURE))


def threshold(logits: Any, temperature: Any, numbers: Sequence[Any], position: Any) -> Any:
    """Another temperature where the entropy exceeds a bound; numbers are that temperature and the bound in nats."""
    other, bound = numbers
    high = entropy(logits) > bound
    return tempered(logits, other.where(high, temperature))


def truncated(logits: Any, temperature: Any, numbers: Sequence[Any], position: Any) -> Any:
    """Min-p or top-p of the tempered distribution; numbers are top_p (1: off) and min_p (0: off).

    min-p (arXiv 2407.01082) keeps what is at least ``min_p`` times as probable as the most probable token; top-p
    (arXiv 1904.09751) the smallest set, most probable first, that holds at least ``top_p``.
    """
    top_p, min_p = numbers
    scaled = tempered(logits, temperature)
    probabilities = scaled.double().softmax(-1)
    # Equal tokens keep their order, so that the set is the same one wherever it is computed.
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    kept = (ordered >= min_p * ordered[..., :1]) & (ordered.cumsum(-1) - ordered < top_p)
    outside = ~kept.new_zeros(kept.shape).scatter(-1, order, kept)
    return scaled.masked_fill(outside, -math.inf)


def first_token(logits: Any, temperature: Any, numbers: Sequence[Any], position: Any) -> Any:
    """REFT (arXiv 2605.28295): one token uniform among the most probable; numbers are how many, and its position."""
    candidates, place = numbers
    scaled = tempered(logits, temperature)
    at = position == place
    if isinstance(position, int) and not bool(at.any()):  # known without asking a device
        return scaled
    best = logits.topk(min(MOST_FIRST_TOKENS, logits.shape[-1]), -1).indices
    chosen = (best.new_ones(best.shape).cumsum(-1) <= candidates).expand(best.shape)
    # What a grammar or a mask forbids is no candidate, even where fewer are left than are asked for.
    inside = chosen.new_zeros(logits.shape).scatter(-1, best, chosen) & (logits > -math.inf)
    uniform = scaled.new_zeros(scaled.shape).masked_fill(~inside, -math.inf)
    return uniform.where(at, scaled)
