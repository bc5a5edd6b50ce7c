"""The paper's two propositions, checked on distributions small enough to sum over (claims C19 and C20)."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ead.importance import truncated_weights
from ead.metrics import token_entropy
from ead.schedule import Annealed

TEMPERATURES = np.concatenate([np.linspace(0.55, 1, 10), np.linspace(1.05, 3, 10)])
AT_ONE = 9  # index of temperature 1

logits = st.lists(st.floats(-5, 0), min_size=2, max_size=8)
tables = st.integers(2, 3).flatmap(
    lambda size: st.lists(
        st.lists(st.floats(-2, 0), min_size=size, max_size=size), min_size=size, max_size=size
    )
)


def _logprobs(logits, tau):
    return torch.log_softmax(torch.as_tensor(logits, dtype=torch.float64) / tau, dim=-1)


def _response_logprobs(table, taus):
    """Per-token log-probabilities of every response of a first-order policy, ``[responses, length]``."""
    conditional = [_logprobs(table, tau) for tau in taus]
    rows = [
        [conditional[t][response[t - 1] if t else 0, token] for t, token in enumerate(response)]
        for response in itertools.product(range(len(table)), repeat=len(taus))
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _variance_inflation(old, behaviour):
    """Equation 2: the mean of the squared weight over responses sampled from the behaviour policy."""
    weights = truncated_weights(old, behaviour, torch.ones_like(old), cap=None, level="sequence")[:, 0]
    return float((behaviour.sum(dim=-1).exp() * weights.square()).sum())


@given(logits)
def test_b1_one_token(logits):
    """Variance inflation falls until tau = 1, where it is 1, and rises from there (Proposition B.1)."""
    old = _logprobs(logits, 1.0)[:, None]
    inflation = np.array([_variance_inflation(old, _logprobs(logits, tau)[:, None]) for tau in TEMPERATURES])
    assert inflation[AT_ONE] == pytest.approx(1, abs=1e-12)
    assert (np.diff(inflation[: AT_ONE + 1]) <= 1e-12).all()
    assert (np.diff(inflation[AT_ONE:]) >= -1e-12).all()


@given(logits)
def test_b1_is_the_papers_closed_form(logits):
    h = np.exp(logits)  # in [0, 1], as the proposition supposes
    for tau in (0.6, 0.9, 1.0, 1.2, 3.0):
        closed = (h ** (2 - 1 / tau)).sum() * (h ** (1 / tau)).sum() / h.sum() ** 2
        inflation = _variance_inflation(_logprobs(logits, 1.0)[:, None], _logprobs(logits, tau)[:, None])
        assert inflation == pytest.approx(closed, rel=1e-9)


@given(tables)
def test_b1_many_tokens(table):
    """The paper's induction: the same holds for whole responses, here of three tokens."""
    old = _response_logprobs(table, [1.0] * 3)
    inflation = np.array(
        [_variance_inflation(old, _response_logprobs(table, [tau] * 3)) for tau in TEMPERATURES[::3]]
    )
    assert inflation[AT_ONE // 3] == pytest.approx(1, abs=1e-12)
    assert (np.diff(inflation[: AT_ONE // 3 + 1]) <= 1e-12).all()
    assert (np.diff(inflation[AT_ONE // 3 :]) >= -1e-12).all()


@given(table=tables, tau_max=st.floats(1, 2), tau_min=st.floats(0.55, 1))
def test_b1_under_annealing(table, tau_max, tau_min):
    """A schedule inflates the variance too, and every further token away from 1 adds to it."""
    schedule = Annealed(tau_max=tau_max, tau_min=tau_min, d0=2, alpha=0, d_max=2, start=1)
    taus = schedule.temperature(np.arange(4)).tolist()
    inflation = [
        _variance_inflation(
            _response_logprobs(table, [1.0] * length), _response_logprobs(table, taus[:length])
        )
        for length in (1, 2, 3, 4)
    ]
    assert inflation[0] == pytest.approx(1, abs=1e-12)  # the template phase
    assert (np.diff(inflation) >= -1e-12).all()


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=30))
def test_c1_entropy_does_not_decrease_with_temperature(logits):
    """Proposition C.1, up to its limit, the log of the vocabulary's size."""
    taus = torch.logspace(-2, 3, 60, dtype=torch.float64)
    entropy = token_entropy(torch.tensor(logits, dtype=torch.float64).expand(60, -1), taus).numpy()
    assert (np.diff(entropy) >= -1e-9).all()
    assert entropy[-1] <= np.log(len(logits)) + 1e-9
    assert entropy[-1] == pytest.approx(np.log(len(logits)), abs=1e-3)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6), st.floats(0.3, 3))
def test_c1_slope_is_the_variance_of_the_logits(logits, tau):
    """The proof's identity, dH/dbeta = -beta Var(h), by finite differences."""
    h, beta, delta = torch.tensor(logits, dtype=torch.float64), 1 / tau, 1e-5
    p = torch.softmax(beta * h, dim=-1)
    variance = (p * h.square()).sum() - (p * h).sum().square()
    slope = (token_entropy(h, 1 / (beta + delta)) - token_entropy(h, 1 / (beta - delta))) / (2 * delta)
    assert slope.item() == pytest.approx(-beta * variance.item(), abs=1e-6)
