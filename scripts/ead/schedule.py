"""Temperature schedules: fixed, annealed (EAD), reverse annealed (RevEAD), and others in use.

A schedule maps the position ``t`` of a response token (counted from 0) and the trainer's global step ``s``
to the temperature that divides the logits of that token (paper, section 4)::

    d_s     = min(d0 + alpha s, d_max)
    EAD     = max(1 + tau_max - exp(t / d_s), tau_min)     for t >= start, 1 before
    RevEAD  = min(tau_min + exp(t / d_s), tau_max)         for t >= start, 1 before

A schedule at a step is a row of numbers (:meth:`Schedule.parameters`), and its class's ``curve`` turns rows and
positions into temperatures, for numpy arrays and for tensors on a device: the only place where a formula is written.
:class:`ScheduleTable` evaluates a batch that mixes them.

A formula of your own is one class, named in :data:`KINDS`. It gives ``parameters``, ``curve`` and ``bounds``, and each
of its fields that counts tokens or training steps says so (:func:`measured`), so that a scale can convert it. No field
is called one of :data:`BESIDE`.

A sampler whose temperature or support depends on the logits (:class:`OfLogits`) is a schedule of the position, its
``base``, and a rule of :mod:`ead.rules` on top. What samples asks for ``rule``; where it is None, nothing but the row
counts.
"""

import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from ead import rules

PARAMETERS = ("sign", "offset", "scale", "floor", "ceiling", "origin", "start")
"""The row of :func:`annealed_temperature`, in order."""

ORIGINS = ("response", "start")
"""What the position ``t`` of the curve is counted from (D14); see :class:`Annealed`."""

UNITS = ("length", "length/steps", "steps", "start")
"""What a field can be measured in: tokens, tokens per training step, steps, or the template's length in tokens."""

BESIDE = ("step", "position")
"""What requests to a host say beside the fields of a schedule, in the same mapping."""

_LARGEST_FLOAT = sys.float_info.max
_LARGEST_EXPONENT = 700.0  # exp(700) is finite in float64 and beyond every ceiling
_MOST_POINTS = 16  # of a list in a schedule: a request may come from anyone
_LEAST_ENTROPY = 1e-6  # nats: of a step whose every token was certain
_RELEASED_STRETCH = 20.0  # D01: the released sampler computes exp(t / (20 d_s))


def measured(unit: str, default: Any = MISSING) -> Any:
    """Return a dataclass field whose values are in ``unit``, one of :data:`UNITS`."""
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, found {unit!r}")
    return field(default=default, metadata={"unit": unit})


def annealed_temperature(parameters: Any, position: Any, xp: ModuleType = np) -> Any:
    """Return ``clip(offset + sign (exp((position - origin) / scale) - 1), floor, ceiling)``, 1 before start.

    Args:
        parameters: float64, shape ``(7, ...)``: the rows named by :data:`PARAMETERS`. For a batch of
            schedules stack their :meth:`Schedule.parameters` along the last axis, shape ``(7, batch)``.
        position: response-token positions counted from 0, broadcast against ``parameters.shape[1:]``;
            of type float64 for torch.
        xp: the module of the arrays, ``numpy`` or ``torch``.

    Returns:
        Temperatures, float64, of the broadcast shape; never NaN and never outside ``[floor, ceiling]``
        from ``start`` on, however large the position.
    """
    sign, offset, scale, floor, ceiling, origin, start = parameters
    exponent = xp.clip((position - origin) / scale, None, _LARGEST_EXPONENT)
    annealed = xp.clip(offset + sign * xp.expm1(exponent), floor, ceiling)
    return xp.where(position >= start, annealed, 1.0)


class Schedule:
    """What every schedule offers; not meant to be instantiated."""

    kind: ClassVar[str]

    curve: ClassVar[Callable[[Any, Any, ModuleType], Any]] = staticmethod(annealed_temperature)
    """Temperatures from ``(parameters, position, xp)``, element by element, as :func:`annealed_temperature`.

    ``xp`` is numpy or torch; ``minimum`` and the like that both have under one name are what a curve is written with.
    """

    rule: ClassVar[rules.Rule | None] = None
    """What is done with the logits, of :mod:`ead.rules`; None: they are divided by the temperature."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        taken = [name for name in BESIDE if name in cls.__dict__.get("__annotations__", {})]
        if taken:
            raise TypeError(
                f"{cls.__name__}: a field cannot be called {taken[0]!r}: requests say theirs beside it"
            )

    @property
    def by_position(self) -> "Schedule":
        """The schedule of the position that the rule starts from; without a rule, the schedule itself."""
        return self

    @property
    def rule_numbers(self) -> tuple[float, ...]:
        """What the rule takes; see :func:`ead.rules.apply`."""
        return ()

    def resolved(self, entropies: Sequence[float], vocabulary: int, steps: int) -> "Schedule":
        """Return the schedule of the next training step; only :class:`HeldEntropy` is not that of every step.

        Args:
            entropies: of the steps taken so far, nats per token at the sampling temperature, as they were recorded.
            vocabulary: number of tokens that a logit stands for.
            steps: of the whole training.
        """
        return self

    def parameters(self, step: int = 0) -> np.ndarray:
        """Return this schedule at ``step`` as the numbers that ``curve`` takes, a float64 vector."""
        raise NotImplementedError

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest temperature of the curve, in any position and at any step."""
        raise NotImplementedError

    def temperature(self, position: Any, step: int = 0) -> float | np.ndarray:
        """Return the temperature at ``position``, an integer or an array or tensor of integers, >= 0.

        Returns a float for a scalar, else a float64 numpy array of the same shape.

        Raises:
            ValueError: a position or the step is negative or not an integer.
        """
        positions = _positions(position)
        temperatures = self.curve(self.parameters(step), positions, np)
        return temperatures if positions.ndim else float(temperatures)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which :func:`from_config` rebuilds an equal schedule."""
        return {"kind": self.kind, **asdict(self)}

    def converted(self, convert: Callable[[str, Any], Any]) -> "Schedule":
        """Return this schedule in other units: each :func:`measured` number is ``convert(unit, number)``."""
        changed = {}
        for each in fields(self):
            if "unit" in each.metadata:
                unit, value = each.metadata["unit"], getattr(self, each.name)
                several = isinstance(value, tuple)
                changed[each.name] = (
                    tuple(convert(unit, number) for number in value) if several else convert(unit, value)
                )
        return replace(self, **changed)


@dataclass(frozen=True)
class Fixed(Schedule):
    """The same temperature ``tau > 0`` everywhere: plain temperature sampling."""

    kind: ClassVar[str] = "fixed"
    tau: float

    def __post_init__(self) -> None:
        _set_float(self, "tau")
        _require(self.tau > 0, "tau", self.tau, "greater than 0")

    def parameters(self, step: int = 0) -> np.ndarray:
        _integer("step", step)
        return np.array([0.0, self.tau, 1.0, self.tau, self.tau, 0.0, 0.0])

    @property
    def bounds(self) -> tuple[float, float]:
        return self.tau, self.tau

    def __str__(self) -> str:
        return f"tau(t) = {_number(self.tau)}"


@dataclass(frozen=True)
class StepAware(Schedule):
    """Fields of every curve with a length, which grows with the step.

    The defaults are the paper's, ``tau_min`` that of its 1B and 1.5B models.
    """

    tau_max: float = 1.2
    tau_min: float = 0.1
    d0: float = measured("length", 25.0)
    alpha: float = measured("length/steps", 5.0)
    d_max: float = measured("length", 40000.0)
    start: int = measured("start", 10)

    def __post_init__(self) -> None:
        for name in ("tau_max", "tau_min", "d0", "alpha", "d_max"):
            _set_float(self, name)
        object.__setattr__(self, "start", _integer("start", self.start))
        _require(self.start < 2**31, "start", self.start, "less than 2**31")
        _require(self.tau_min > 0, "tau_min", self.tau_min, "greater than 0")
        _require(self.tau_max >= self.tau_min, "tau_max", self.tau_max, f"at least tau_min = {self.tau_min}")
        _require(self.d0 > 0, "d0", self.d0, "greater than 0")
        _require(self.alpha >= 0, "alpha", self.alpha, "at least 0")
        _require(self.d_max >= self.d0, "d_max", self.d_max, f"at least d0 = {self.d0}")
        _require(self.origin in ORIGINS, "origin", self.origin, f"one of {', '.join(ORIGINS)}")

    @property
    def bounds(self) -> tuple[float, float]:
        return self.tau_min, self.tau_max

    def decay_rate(self, step: int = 0) -> float:
        """Return ``d_s = min(d0 + alpha * step, d_max)``, in tokens.

        Raises:
            ValueError: ``step`` is negative or not an integer.
        """
        step = _integer("step", step)
        # Compared before multiplied: a step too large for a float is still a valid step.
        if self.alpha > 0 and step >= (self.d_max - self.d0) / self.alpha:
            return self.d_max
        # A growth so slow that no step brings it there leaves the rate at its bounds.
        return min(self.d0 + self.alpha * min(step, 2**1000), self.d_max) if self.alpha > 0 else self.d0

    @property
    def _counted_from(self) -> int:
        return self.start if self.origin == "start" else 0

    def _elapsed(self, stretch: float = 1.0) -> str:
        elapsed = f"(t - {self.start})" if self._counted_from else "t"
        d0, alpha, d_max = (_number(value) for value in (self.d0, self.alpha, self.d_max))
        rate = f"min({d0} + {alpha} s, {d_max})" if self.alpha > 0 else d0
        if stretch != 1:
            rate = f"({_number(stretch)} * {rate})"
        return f"{elapsed} / {rate}"

    def _formula(self, annealed: str) -> str:
        variables = "t, s" if self.alpha > 0 else "t"
        before = f"1 for t < {self.start}, else " if self.start else ""
        return f"tau({variables}) = {before}{annealed}"


@dataclass(frozen=True)
class _Exponential(StepAware):
    """Fields and row shared by EAD and RevEAD."""

    readings: ClassVar[tuple[str, ...]]
    reading: str = "printed"
    origin: str = "response"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.reading in self.readings, "reading", self.reading, f"one of {', '.join(self.readings)}")

    def _row(self, sign: float, offset: float, scale: float) -> np.ndarray:
        return np.array(
            [sign, offset, scale, self.tau_min, self.tau_max, self._counted_from, self.start],
            dtype=np.float64,
        )

    def _exponential(self, stretch: float = 1.0) -> str:
        return f"exp({self._elapsed(stretch)})"


@dataclass(frozen=True)
class Annealed(_Exponential):
    """Exploratory Annealed Decoding (EAD): hot early, cooling with position (paper, section 4).

    Attributes:
        tau_max: temperature at the origin of the curve.
        tau_min: floor of the temperature, > 0.
        d0, alpha, d_max: the decay rate in tokens is ``d_s = min(d0 + alpha s, d_max)`` at global step ``s``.
        start: the paper's ``c``; the temperature is 1 for ``t < start``.
        reading: ``printed`` is the paper's ``exp(t / d_s)``; ``released`` the authors' sampler's
            ``exp(t / (20 d_s))``, which also stretches ``d_max`` (D01, D12).
        origin: ``response`` counts ``t`` from the response's first token, so the curve is entered at
            ``t = start``; ``start`` counts from position ``start``, so it begins at ``tau_max`` (D14).

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    kind: ClassVar[str] = "annealed"
    readings: ClassVar[tuple[str, ...]] = ("printed", "released")

    @property
    def _stretch(self) -> float:
        return _RELEASED_STRETCH if self.reading == "released" else 1.0

    def parameters(self, step: int = 0) -> np.ndarray:
        return self._row(sign=-1.0, offset=self.tau_max, scale=self._stretch * self.decay_rate(step))

    def __str__(self) -> str:
        curve = f"1 + {_number(self.tau_max)} - {self._exponential(self._stretch)}"
        return self._formula(f"max({curve}, {_number(self.tau_min)})")


@dataclass(frozen=True)
class ReverseAnnealed(_Exponential):
    """Reverse annealing (RevEAD, the paper's Figure 10 control): warming with position.

    The attributes are those of :class:`Annealed`, except ``reading`` (D02): ``printed`` is the paper's
    ``min(tau_min + exp(t / d_s), tau_max)``, which starts at ``tau_min + 1`` and so is nearly fixed at
    ``tau_max``; ``mirrored`` subtracts 1, so that the curve starts at ``tau_min``.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    kind: ClassVar[str] = "reverse_annealed"
    readings: ClassVar[tuple[str, ...]] = ("printed", "mirrored")

    def parameters(self, step: int = 0) -> np.ndarray:
        offset = self.tau_min if self.reading == "mirrored" else self.tau_min + 1
        return self._row(sign=1.0, offset=offset, scale=self.decay_rate(step))

    def __str__(self) -> str:
        shift = " - 1" if self.reading == "mirrored" else ""
        curve = f"{_number(self.tau_min)}{shift} + {self._exponential()}"
        return self._formula(f"min({curve}, {_number(self.tau_max)})")


@dataclass(frozen=True)
class _Fall(StepAware):
    """From tau_max to tau_min within d_s tokens; the attributes are those of :class:`Annealed`, but ``reading``."""

    origin: str = "response"

    def parameters(self, step: int = 0) -> np.ndarray:
        return np.array(
            [self.tau_max, self.tau_min, self.decay_rate(step), self._counted_from, self.start],
            dtype=np.float64,
        )

    @staticmethod
    def _share(elapsed: Any, xp: ModuleType) -> Any:
        """Return the share of the fall that is done, from the share of its tokens, both from 0 to 1."""
        raise NotImplementedError

    @classmethod
    def curve(cls, parameters: Any, position: Any, xp: ModuleType = np) -> Any:
        highest, lowest, scale, origin, start = parameters
        share = cls._share(xp.clip((position - origin) / scale, 0.0, 1.0), xp)
        fallen = xp.clip(highest * (1 - share) + lowest * share, lowest, highest)
        return xp.where(position >= start, fallen, 1.0)


@dataclass(frozen=True)
class Linear(_Fall):
    """A straight fall from ``tau_max`` to ``tau_min`` within ``d_s`` tokens."""

    kind: ClassVar[str] = "linear"

    @staticmethod
    def _share(elapsed: Any, xp: ModuleType) -> Any:
        return elapsed

    def __str__(self) -> str:
        fall = f"{_number(self.tau_max)} - {_number(self.tau_max - self.tau_min)} * min({self._elapsed()}, 1)"
        return self._formula(fall)


@dataclass(frozen=True)
class Cosine(_Fall):
    """Half a cosine from ``tau_max`` to ``tau_min`` within ``d_s`` tokens: flat at both ends."""

    kind: ClassVar[str] = "cosine"

    @staticmethod
    def _share(elapsed: Any, xp: ModuleType) -> Any:
        return (1 - xp.cos(np.pi * elapsed)) / 2

    def __str__(self) -> str:
        middle, half = (self.tau_max + self.tau_min) / 2, (self.tau_max - self.tau_min) / 2
        return self._formula(f"{_number(middle)} + {_number(half)} * cos(pi * min({self._elapsed()}, 1))")


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Temperatures at named positions, and lines or steps between them.

    Attributes:
        at: positions in tokens, >= 0 and rising, at most 16.
        tau: the temperature at each, > 0.
        interpolation: ``linear``, or ``constant``: each temperature holds until the next position.

    Before the first position its temperature holds, after the last one that one's.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    kind: ClassVar[str] = "piecewise"
    interpolations: ClassVar[tuple[str, ...]] = ("linear", "constant")
    at: tuple[float, ...] = measured("length")
    tau: tuple[float, ...] = field()
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        for name in ("at", "tau"):
            values = getattr(self, name)
            if (
                isinstance(values, str)
                or not isinstance(values, Sequence)
                or not 1 <= len(values) <= _MOST_POINTS
            ):
                raise ValueError(f"{name} must be a list of 1 to {_MOST_POINTS} numbers, found {values!r}")
            object.__setattr__(self, name, tuple(_float(name, value) for value in values))
        _require(len(self.at) == len(self.tau), "tau", list(self.tau), f"as many as at has, {len(self.at)}")
        rising = all(before < after for before, after in zip((-1.0, *self.at), self.at, strict=False))
        _require(rising and self.at[0] >= 0, "at", list(self.at), "rising numbers from 0 on")
        _require(min(self.tau) > 0, "tau", list(self.tau), "greater than 0")
        _require(
            self.interpolation in self.interpolations,
            "interpolation",
            self.interpolation,
            f"one of {', '.join(self.interpolations)}",
        )

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.tau), max(self.tau)

    def parameters(self, step: int = 0) -> np.ndarray:
        _integer("step", step)
        return np.array([*self.at, *self.tau, self.interpolation == "linear"], dtype=np.float64)

    @staticmethod
    def curve(parameters: Any, position: Any, xp: ModuleType = np) -> Any:
        points = len(parameters) // 2
        at, tau, linear = parameters[:points], parameters[points : 2 * points], parameters[-1]
        temperature = tau[0] + 0.0 * position
        for left, right, here, there in zip(at, at[1:], tau, tau[1:], strict=False):
            share = linear * xp.clip((position - left) / (right - left), 0.0, 1.0)
            temperature = xp.where(position >= left, here * (1 - share) + there * share, temperature)
        return xp.where(position >= at[-1], tau[-1], temperature)

    def __str__(self) -> str:
        points = ", ".join(f"{_number(t)} at {_number(at)}" for at, t in zip(self.at, self.tau, strict=True))
        between = "lines between" if self.interpolation == "linear" else "each until the next"
        return f"tau(t) = {points}; {between}"

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "at": list(self.at), "tau": list(self.tau)}


@dataclass(frozen=True)
class Switched(Schedule):
    """One schedule until a token has been drawn, another after it, for instance after ``</think>``.

    Attributes:
        before: the schedule of the tokens up to and including the first of ``tokens`` that is drawn.
        after: that of the tokens after it; their positions are counted from 0 again.
        tokens: ids of one to 16 tokens; the first of any of them switches, later ones change nothing.

    The position of the switch is a fact of the response, so :meth:`temperature` is told it, and what samples keeps
    track of it: each integration finds the first of ``tokens`` in the response, not in the prompt.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    kind: ClassVar[str] = "switched"
    before: Schedule
    after: Schedule
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            part = getattr(self, name)
            if not isinstance(part, Schedule):
                try:
                    part = from_config(part)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
                object.__setattr__(self, name, part)
            _require_plain(name, part)
        tokens = self.tokens if isinstance(self.tokens, (Sequence, np.ndarray)) else [self.tokens]
        if isinstance(tokens, str) or not 1 <= len(tokens) <= _MOST_POINTS:
            raise ValueError(f"tokens must be a list of 1 to {_MOST_POINTS} token ids, found {self.tokens!r}")
        object.__setattr__(self, "tokens", tuple(_integer("tokens", token) for token in tokens))
        _require(max(self.tokens) < 2**31, "tokens", max(self.tokens), "less than 2**31")

    @property
    def bounds(self) -> tuple[float, float]:
        lowest, highest = zip(self.before.bounds, self.after.bounds, strict=True)
        return min(lowest), max(highest)

    def temperature(self, position: Any, step: int = 0, switched_at: Any = None) -> float | np.ndarray:
        """Return the temperature at ``position``, as :meth:`Schedule.temperature` does.

        Args:
            switched_at: position of the first token after the switch, broadcast against ``position``; None, or a
                position that is not reached, where there was none.
        """
        before = self.before.temperature(position, step)
        if switched_at is None:
            return before
        positions, since = _positions(position), _positions(switched_at)
        after = self.after.temperature(np.maximum(positions - since, 0), step)
        temperatures = np.where(positions >= since, after, before)
        return temperatures if temperatures.ndim else float(temperatures)

    def converted(self, convert: Callable[[str, Any], Any]) -> "Schedule":
        return replace(self, before=self.before.converted(convert), after=self.after.converted(convert))

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "tokens": list(self.tokens),
        }

    def __str__(self) -> str:
        tokens = " or ".join(map(str, self.tokens))
        return f"{self.before} until token {tokens}, then {self.after} from there"


@dataclass(frozen=True)
class BySteps(Schedule):
    """One temperature for all tokens of a training step, on a straight line from the first step to the last.

    Attributes:
        tau_first: temperature at training step 0, > 0 (``by_steps``).
        tau_last: temperature from step ``steps`` on, > 0 (``by_steps``).
        steps: training steps from the one to the other; the paper trains 440 (``by_steps``).
    """

    kind: ClassVar[str] = "by_steps"
    tau_first: float = 1.2
    tau_last: float = 0.8
    steps: float = measured("steps", 440.0)

    def __post_init__(self) -> None:
        for name in ("tau_first", "tau_last", "steps"):
            _set_float(self, name)
            _require(getattr(self, name) > 0, name, getattr(self, name), "greater than 0")

    def parameters(self, step: int = 0) -> np.ndarray:
        step = _integer("step", step)
        share = step / self.steps if step < self.steps else 1.0  # a step may be too large for a float
        return Fixed(self.tau_first * (1 - share) + self.tau_last * share).parameters()

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.tau_first, self.tau_last), max(self.tau_first, self.tau_last)

    def __str__(self) -> str:
        first, change, steps = map(_number, (self.tau_first, self.tau_last - self.tau_first, self.steps))
        return f"tau(s) = {first} + {change} * min(s / {steps}, 1)"


@dataclass(frozen=True)
class HeldEntropy(Schedule):
    """E3's controller (arXiv 2505.18573, its released ``TemperatureScheduler``): the temperature holds the entropy.

    With ``H_s`` the mean entropy of step s at its temperature ``T_s``, the target ``H*`` that of the first step, and
    ``V`` the vocabulary::

        T_{s+1} = T_s (1 + T_s ln(H* / H_s) / (ln V + ln ln V))     for s >= 2, tau before

    Within the last ``annealed_share`` of the training the target falls, along half a cosine, to ``annealed_factor``
    of its value. Temperatures are a function of the entropies that the trainer has recorded (:meth:`resolved`), so a
    trainer that resumes finds the same ones. The source bounds no temperature; here none is below 0.01.

    Attributes:
        tau: temperature of the first two steps, > 0.
        annealed_share: share of the training in which the target falls, from 0 to 1 (``held_entropy``).
        annealed_factor: what it falls to, in terms of the first target, > 0 (``held_entropy``).
    """

    kind: ClassVar[str] = "held_entropy"
    tau: float = 1.0
    annealed_share: float = 0.4
    annealed_factor: float = 0.9

    def __post_init__(self) -> None:
        for name in ("tau", "annealed_share", "annealed_factor"):
            _set_float(self, name)
        _require(self.tau > 0, "tau", self.tau, "greater than 0")
        _require(0 <= self.annealed_share <= 1, "annealed_share", self.annealed_share, "from 0 to 1")
        _require(self.annealed_factor > 0, "annealed_factor", self.annealed_factor, "greater than 0")

    def resolved(self, entropies: Sequence[float], vocabulary: int, steps: int) -> "Fixed":
        tau = self.tau
        _require(vocabulary > 1, "vocabulary", vocabulary, "greater than 1")
        if len(entropies) < 2:
            return Fixed(tau)
        first = target = max(entropies[0], _LEAST_ENTROPY)
        factor = math.log(vocabulary) + math.log(math.log(vocabulary))
        annealed = steps - int(steps * self.annealed_share)
        for step, found in enumerate(entropies[1:], start=2):
            change = math.log(target / max(found, _LEAST_ENTROPY)) / factor
            tau = max(tau * (1 + tau * change), rules.LOWEST_TEMPERATURE)
            if self.annealed_share and step >= annealed and steps > annealed:
                left = (1 + math.cos(math.pi * (step - annealed) / (steps - annealed))) / 2
                target = first * ((1 - self.annealed_factor) * left + self.annealed_factor)
        return Fixed(tau)

    def parameters(self, step: int = 0) -> np.ndarray:
        raise ValueError(
            f"schedule {self.kind}: its temperature follows from the entropies that the trainer has recorded; ask for "
            "the fixed one that resolved() returns"
        )

    @property
    def bounds(self) -> tuple[float, float]:
        return rules.LOWEST_TEMPERATURE, _LARGEST_FLOAT

    def __str__(self) -> str:
        return f"tau(s) from {_number(self.tau)}, holding the entropy"


@dataclass(frozen=True)
class OfLogits(Schedule):
    """Fields and forwarding of every sampler that looks at the logits; ``temperature`` is its base's.

    Attributes:
        base: a schedule of position and step, whose temperature a kind that looks at the logits starts from.
    """

    base: Schedule = field(default_factory=lambda: Fixed(1.0))

    def __post_init__(self) -> None:
        if not isinstance(self.base, Schedule):
            try:
                object.__setattr__(self, "base", from_config(self.base))
            except ValueError as error:
                raise ValueError(f"base: {error}") from error
        _require_plain("base", self.base)
        for each in fields(self):
            if each.type is float:
                _set_float(self, each.name)

    @property
    def by_position(self) -> Schedule:
        return self.base

    @property
    def rule_numbers(self) -> tuple[float, ...]:
        return tuple(getattr(self, name) for name in self._names_of_numbers())

    @classmethod
    def _names_of_numbers(cls) -> list[str]:
        """The fields beside the base, in their order: what the rule takes."""
        return [each.name for each in fields(cls) if each.name != "base"]

    def parameters(self, step: int = 0) -> np.ndarray:
        return self.base.parameters(step)

    def temperature(self, position: Any, step: int = 0) -> float | np.ndarray:
        return self.base.temperature(position, step)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.base.bounds

    def converted(self, convert: Callable[[str, Any], Any]) -> "Schedule":
        return replace(super().converted(convert), base=self.base.converted(convert))

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "base": self.base.to_dict()}

    def __str__(self) -> str:
        named = zip(self._names_of_numbers(), map(_number, self.rule_numbers), strict=True)
        numbers = ", ".join(f"{name} = {number}" for name, number in named)
        return f"{self.kind} ({numbers}) of {self.base}"


@dataclass(frozen=True)
class EntropyBased(OfLogits):
    """EDT (arXiv 2403.14541, equation 7): ``T = T0 N^(theta / H)``, with ``T0`` the base's; cooler where it is sure.

    Attributes:
        theta: how much cooler a sure policy is sampled, > 0 (``entropy_based``).
        n: base of the power, between 0 and 1; the source sets 0.8 (``entropy_based``).
    """

    kind: ClassVar[str] = "entropy_based"
    rule: ClassVar[rules.Rule] = staticmethod(rules.entropy_based)
    theta: float = 0.1
    n: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.theta > 0, "theta", self.theta, "greater than 0")
        _require(0 < self.n < 1, "n", self.n, "between 0 and 1")

    @property
    def bounds(self) -> tuple[float, float]:
        return rules.LOWEST_TEMPERATURE, self.base.bounds[1]


@dataclass(frozen=True)
class Dynamic(OfLogits):
    """llama.cpp's dynamic temperature, ``T - spread + 2 spread (H / ln V)^exponent`` with ``T`` the base's.

    Attributes:
        spread: llama.cpp's ``dynatemp_range``, at least 0 and less than every temperature of the base (``dynamic``).
        exponent: llama.cpp's ``dynatemp_exponent``, > 0 (``dynamic``).
    """

    kind: ClassVar[str] = "dynamic"
    rule: ClassVar[rules.Rule] = staticmethod(rules.dynamic)
    spread: float = 0.5
    exponent: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        lowest = self.base.bounds[0]
        _require(0 <= self.spread < lowest, "spread", self.spread, f"at least 0 and less than {lowest}")
        _require(self.exponent > 0, "exponent", self.exponent, "greater than 0")

    @property
    def bounds(self) -> tuple[float, float]:
        lowest, highest = self.base.bounds
        return max(lowest - self.spread, rules.LOWEST_TEMPERATURE), highest + self.spread


@dataclass(frozen=True)
class EntropyThreshold(OfLogits):
    """Another temperature where the entropy exceeds a bound: exploration at the tokens that are open.

    Attributes:
        tau_high: temperature of tokens with more entropy than ``bound``, > 0 (``entropy_threshold``).
        bound: in nats, at least 0 (``entropy_threshold``).
    """

    kind: ClassVar[str] = "entropy_threshold"
    rule: ClassVar[rules.Rule] = staticmethod(rules.threshold)
    tau_high: float = 1.2
    bound: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.tau_high > 0, "tau_high", self.tau_high, "greater than 0")
        _require(self.bound >= 0, "bound", self.bound, "at least 0")

    @property
    def bounds(self) -> tuple[float, float]:
        lowest, highest = self.base.bounds
        return min(lowest, self.tau_high), max(highest, self.tau_high)


@dataclass(frozen=True)
class Truncated(OfLogits):
    """Min-p or top-p of the base's distribution, one of the two.

    Attributes:
        top_p: probability that the kept tokens hold; 1 is off (``truncated``).
        min_p: least probability of a kept token, in terms of the most probable one's; 0 is off (``truncated``).
    """

    kind: ClassVar[str] = "truncated"
    rule: ClassVar[rules.Rule] = staticmethod(rules.truncated)
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "greater than 0 and at most 1")
        _require(0 <= self.min_p < 1, "min_p", self.min_p, "at least 0 and less than 1")
        _require(
            (self.top_p < 1) != (self.min_p > 0), "top_p, min_p", (self.top_p, self.min_p), "set, one of them"
        )


@dataclass(frozen=True)
class FirstToken(OfLogits):
    """REFT (arXiv 2605.28295): the first token behind the template is uniform among the policy's most probable.

    Its source also deals the tokens evenly to the rollouts of a prompt; here each rollout draws for itself, as requests
    to a server do. Each has the same distribution either way.

    Attributes:
        candidates: how many most probable tokens the first is drawn from, 2 to 64; the source has 20 (``first_token``).
        place: position of that token, behind a template of so many tokens (``first_token``).
    """

    kind: ClassVar[str] = "first_token"
    rule: ClassVar[rules.Rule] = staticmethod(rules.first_token)
    candidates: int = 20
    place: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("candidates", "place"):
            object.__setattr__(self, name, _integer(name, getattr(self, name)))
        most = rules.MOST_FIRST_TOKENS
        _require(2 <= self.candidates <= most, "candidates", self.candidates, f"from 2 to {most}")
        _require(self.place < 2**24, "place", self.place, "less than 2**24")


KINDS: dict[str, type[Schedule]] = {
    cls.kind: cls
    for cls in (
        *(Fixed, Annealed, ReverseAnnealed, Linear, Cosine, Piecewise, Switched, BySteps, HeldEntropy),
        *(EntropyBased, Dynamic, EntropyThreshold, Truncated, FirstToken),
    )
}
"""Every schedule by the name under which a configuration asks for it."""


class ScheduleTable:
    """The schedules of a batch, a column of numbers for each row of the batch, evaluated in one call per formula.

    For what samples many responses at once, each at a position, a step and with a schedule of its own. A row that was
    not set has temperature 1. :class:`Switched` has no curve: put its part that holds into the table.

    Attributes:
        parameters: float64, shape (height, rows): what the curves take; a shorter column ends in zeros.
        formulas: integers, shape (rows,): which of ``curves`` each row follows.
        curves: the formulas seen so far, each with the number of its parameters.
    """

    def __init__(self, rows: int) -> None:
        neutral = Fixed(1.0)
        self._neutral = neutral.parameters()
        self.curves: list[tuple[Callable[[Any, Any, ModuleType], Any], int]] = [
            (neutral.curve, len(self._neutral))
        ]
        self.parameters = np.tile(self._neutral[:, None], rows)
        self.formulas = np.zeros(rows, dtype=np.int64)

    def set(self, row: int, schedule: Schedule, step: int = 0) -> None:
        """Let ``row`` follow ``schedule`` at ``step``."""
        column = schedule.parameters(step)
        formula = (schedule.curve, len(column))
        if formula not in self.curves:
            self.curves.append(formula)
        self.parameters = with_column(self.parameters, row, column)
        self.formulas[row] = self.curves.index(formula)

    def clear(self, row: int) -> None:
        """Let ``row`` have temperature 1."""
        self.parameters[: len(self._neutral), row] = self._neutral
        self.formulas[row] = 0

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
        pair, swapped = [one, other], [other, one]
        self.parameters[:, pair] = self.parameters[:, swapped]
        self.formulas[pair] = self.formulas[swapped]

    def temperatures(self, position: np.ndarray) -> np.ndarray:
        """Return the temperatures of the first rows at ``position``, integers >= 0, shape (..., rows)."""
        rows = position.shape[-1]
        formulas = self.formulas[:rows]
        return self.evaluate(np.unique(formulas), self.parameters[:, :rows], formulas, position)

    def evaluate(
        self, present: Sequence[int], parameters: Any, formulas: Any, position: Any, xp: ModuleType = np
    ) -> Any:
        """Return temperatures from columns of this table, or copies of them on a device (``xp``: torch).

        Args:
            present: the formulas that occur in ``formulas``.
        """
        temperatures = None
        with np.errstate(all="ignore"):  # a formula is evaluated in all rows, those of other formulas too
            for formula in present:
                curve, height = self.curves[formula]
                found = curve(parameters[:height], position, xp)
                temperatures = (
                    found if temperatures is None else xp.where(formulas == int(formula), found, temperatures)
                )
        return temperatures


def with_column(table: np.ndarray, row: int, column: Sequence[float]) -> np.ndarray:
    """Return ``table``, shape (height, rows), higher if need be, with ``column`` as the numbers of ``row``."""
    missing = len(column) - len(table)
    if missing > 0:
        table = np.pad(table, ((0, missing), (0, 0)))
    table[: len(column), row] = column
    return table


def from_config(config: Mapping[str, Any], beside: Sequence[str] = ()) -> Schedule:
    """Build the schedule that ``config`` describes: ``kind``, one of :data:`KINDS`, and the fields of that kind.

    Absent fields take their defaults, and a list becomes a tuple where the field is one. ``beside`` are keys that the
    caller has taken out of the same mapping, for the message about an unknown one.

    Raises:
        ValueError: ``kind`` is absent or unknown, a key is unknown or missing, or a value is out of range.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"a schedule is a mapping with the key 'kind', got {config!r}")
    values = dict(config)
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"schedule kind: found {kind!r}, allowed: {', '.join(KINDS)}")
    allowed = {each.name: each for each in fields(KINDS[kind])}
    unknown = [key for key in values if key not in allowed]
    if unknown:
        named = ", ".join([*allowed, *beside])
        raise ValueError(f"schedule {kind}: unknown key {unknown[0]!r}, allowed: {named}")
    missing = [
        name
        for name, each in allowed.items()
        if each.default is MISSING and each.default_factory is MISSING and name not in values
    ]
    if missing:
        raise ValueError(f"schedule {kind}: the key {missing[0]!r} is missing")
    for name, value in values.items():
        if isinstance(value, list) and "tuple" in str(allowed[name].type):
            values[name] = tuple(value)
    return KINDS[kind](**values)


def _positions(position: Any) -> np.ndarray:
    """Return ``position`` as an integer array (float64 for a Python integer too large for int64)."""
    if hasattr(position, "cpu"):  # a torch tensor, possibly on another device
        position = position.cpu()
    positions = np.asarray(position)
    if positions.dtype == object and positions.ndim == 0:
        position = _integer("position", position)
        _require(position <= _LARGEST_FLOAT, "position", "a larger number", f"at most {_LARGEST_FLOAT}")
        positions = np.asarray(float(position))
    elif not np.issubdtype(positions.dtype, np.integer):
        raise ValueError(f"position must be integers >= 0, found {positions.dtype}")
    if positions.size and positions.min() < 0:
        raise ValueError(f"position must be at least 0, found {positions.min()}")
    return positions


def _integer(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise ValueError(f"{name} must be an integer >= 0, found {value!r}")
    value = operator.index(value)
    if value < 0:
        raise ValueError(f"{name} must be an integer >= 0, found {value}")
    return value


def _set_float(schedule: Schedule, name: str) -> None:
    """Store the field ``name`` of a frozen schedule as a float, so that equal schedules print alike."""
    object.__setattr__(schedule, name, _float(name, getattr(schedule, name)))


def _float(name: str, value: Any) -> float:
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not abs(value) <= _LARGEST_FLOAT:  # NaN compares as false
        raise ValueError(f"{name} must be a finite number, found {value!r}")
    return float(value)


def _require_plain(name: str, part: Schedule) -> None:
    plain = not isinstance(part, (Switched, OfLogits, HeldEntropy))
    _require(plain, name, part.kind, "a schedule of position and step alone")


def _require(condition: bool, name: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}, found {value!r}")


def _number(value: float) -> str:
    return format(value, ".15g")
