"""The samplers that look at logits, written down a second time: token by token, in Python's floats."""

import math

import numpy as np

from ead.schedule import Annealed, Dynamic, EntropyBased, EntropyThreshold, FirstToken, Fixed, Truncated

EAD = Annealed(tau_max=1.4, tau_min=0.4, d0=6, alpha=1, start=2)
RULED = [
    EntropyBased(Fixed(1.2), theta=0.3),
    EntropyBased(EAD, theta=0.05, n=0.5),
    Dynamic(Fixed(1.0), spread=0.6, exponent=0.5),
    EntropyThreshold(Fixed(0.8), tau_high=1.5, bound=1.5),
    Truncated(Fixed(1.3), min_p=0.1),
    Truncated(EAD, min_p=0.2),
    Truncated(Fixed(1.0), top_p=0.8),
    Truncated(EAD, top_p=0.7),
    FirstToken(Fixed(1.1), candidates=4, place=1),
]


def probabilities(schedule, logits, position, step=0):
    """Return the distribution that ``schedule`` samples from, float64, for one row of ``logits``."""
    logits = [float(value) for value in logits]
    tau = schedule.temperature(position, step)
    plain = _softmax(logits)
    entropy = -sum(p * math.log(p) for p in plain if p > 0)
    match schedule:
        case EntropyBased(theta=theta, n=n):
            tau = max(tau * n ** (theta / entropy), 0.01)
        case Dynamic(spread=spread, exponent=exponent):
            low, high = tau - spread, tau + spread
            tau = low + (high - low) * (entropy / math.log(len(logits))) ** exponent
        case EntropyThreshold(tau_high=high, bound=bound):
            tau = high if entropy > bound else tau
    drawn = _softmax([value / tau for value in logits])
    order = sorted(range(len(drawn)), key=lambda token: -drawn[token])
    kept = set(order)
    match schedule:
        case Truncated(min_p=min_p) if min_p:
            kept = {token for token in order if drawn[token] >= min_p * max(drawn)}
        case Truncated(top_p=top_p):
            kept, held = set(), 0.0
            for token in order:
                if held >= top_p:
                    break
                kept.add(token)
                held += drawn[token]
        case FirstToken(place=place, candidates=candidates) if place == position:
            kept = set(order[:candidates])
            drawn = [1.0] * len(drawn)
    found = np.array([p if token in kept else 0.0 for token, p in enumerate(drawn)])
    return found / found.sum()


def _softmax(values):
    highest = max(values)
    exponentials = [math.exp(value - highest) for value in values]
    total = sum(exponentials)
    return [value / total for value in exponentials]
