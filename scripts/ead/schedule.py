"""Temperature schedules: fixed, annealed (EAD) and reverse annealed (RevEAD).

A schedule maps the position ``t`` of a response token (counted from 0) and the trainer's global step ``s``
to the temperature that divides the logits of that token (paper, section 4)::

    d_s     = min(d0 + alpha s, d_max)
    EAD     = max(1 + tau_max - exp(t / d_s), tau_min)     for t >= start, 1 before
    RevEAD  = min(tau_min + exp(t / d_s), tau_max)         for t >= start, 1 before

Every schedule is one row of the same seven numbers, so a batch that mixes kinds is evaluated in one
vectorised call of :func:`annealed_temperature`, the only place where the formula is written.
"""

import operator
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np

PARAMETERS = ("sign", "offset", "scale", "floor", "ceiling", "origin", "start")
"""Rows of a parameter array, in order; see :func:`annealed_temperature`."""

ORIGINS = ("response", "start")
"""What the position ``t`` of the curve is counted from (D14); see :class:`Annealed`."""

_LARGEST_FLOAT = sys.float_info.max
_LARGEST_EXPONENT = 700.0  # exp(700) is finite in float64 and beyond every ceiling
_RELEASED_STRETCH = 20.0  # D01: the released sampler computes exp(t / (20 d_s))


def annealed_temperature(parameters: np.ndarray, position: np.ndarray | int) -> np.ndarray:
    """Return ``clip(offset + sign (exp((position - origin) / scale) - 1), floor, ceiling)``, 1 before start.

    Args:
        parameters: float64, shape ``(7, ...)``: the rows named by :data:`PARAMETERS`. For a batch of
            schedules stack their :meth:`Schedule.parameters` along the last axis, shape ``(7, batch)``.
        position: response-token positions counted from 0, broadcast against ``parameters.shape[1:]``.

    Returns:
        Temperatures, float64, of the broadcast shape; never NaN and never outside ``[floor, ceiling]``
        from ``start`` on, however large the position.
    """
    sign, offset, scale, floor, ceiling, origin, start = parameters
    exponent = np.minimum((position - origin) / scale, _LARGEST_EXPONENT)
    annealed = np.minimum(np.maximum(offset + sign * np.expm1(exponent), floor), ceiling)
    return np.where(position >= start, annealed, 1.0)


class Schedule:
    """What every schedule offers; not meant to be instantiated."""

    kind: ClassVar[str]

    def parameters(self, step: int = 0) -> np.ndarray:
        """Return this schedule at ``step`` as the float64 vector of :data:`PARAMETERS`, shape ``(7,)``."""
        raise NotImplementedError

    def temperature(self, position: Any, step: int = 0) -> float | np.ndarray:
        """Return the temperature at ``position``, an integer or an array or tensor of integers, >= 0.

        Returns a float for a scalar, else a float64 numpy array of the same shape.

        Raises:
            ValueError: a position or the step is negative or not an integer.
        """
        positions = _positions(position)
        temperatures = annealed_temperature(self.parameters(step), positions)
        return temperatures if positions.ndim else float(temperatures)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which :func:`from_config` rebuilds an equal schedule."""
        return {"kind": self.kind, **asdict(self)}


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

    def __str__(self) -> str:
        return f"tau(t) = {_number(self.tau)}"


@dataclass(frozen=True)
class _StepAware(Schedule):
    """Fields shared by EAD and RevEAD; the paper's defaults (tau_min as for its 1B and 1.5B models)."""

    readings: ClassVar[tuple[str, ...]]
    tau_max: float = 1.2
    tau_min: float = 0.1
    d0: float = 25.0
    alpha: float = 5.0
    d_max: float = 40000.0
    start: int = 10
    reading: str = "printed"
    origin: str = "response"

    def __post_init__(self) -> None:
        for name in ("tau_max", "tau_min", "d0", "alpha", "d_max"):
            _set_float(self, name)
        object.__setattr__(self, "start", _integer("start", self.start))
        _require(self.tau_min > 0, "tau_min", self.tau_min, "greater than 0")
        _require(self.tau_max >= self.tau_min, "tau_max", self.tau_max, f"at least tau_min = {self.tau_min}")
        _require(self.d0 > 0, "d0", self.d0, "greater than 0")
        _require(self.alpha >= 0, "alpha", self.alpha, "at least 0")
        _require(self.d_max >= self.d0, "d_max", self.d_max, f"at least d0 = {self.d0}")
        _require(self.reading in self.readings, "reading", self.reading, f"one of {', '.join(self.readings)}")
        _require(self.origin in ORIGINS, "origin", self.origin, f"one of {', '.join(ORIGINS)}")

    def decay_rate(self, step: int = 0) -> float:
        """Return ``d_s = min(d0 + alpha * step, d_max)``, in tokens.

        Raises:
            ValueError: ``step`` is negative or not an integer.
        """
        step = _integer("step", step)
        # Compared before multiplied: a step too large for a float is still a valid step.
        if self.alpha > 0 and step >= (self.d_max - self.d0) / self.alpha:
            return self.d_max
        return min(self.d0 + self.alpha * step, self.d_max) if self.alpha > 0 else self.d0

    def _row(self, sign: float, offset: float, scale: float) -> np.ndarray:
        origin = self.start if self.origin == "start" else 0
        return np.array(
            [sign, offset, scale, self.tau_min, self.tau_max, origin, self.start], dtype=np.float64
        )

    def _exponential(self, stretch: float = 1.0) -> str:
        elapsed = f"(t - {self.start})" if self.origin == "start" and self.start else "t"
        d0, alpha, d_max = (_number(value) for value in (self.d0, self.alpha, self.d_max))
        rate = f"min({d0} + {alpha} s, {d_max})" if self.alpha > 0 else d0
        if stretch != 1:
            rate = f"({_number(stretch)} * {rate})"
        return f"exp({elapsed} / {rate})"

    def _formula(self, annealed: str) -> str:
        variables = "t, s" if self.alpha > 0 else "t"
        before = f"1 for t < {self.start}, else " if self.start else ""
        return f"tau({variables}) = {before}{annealed}"


@dataclass(frozen=True)
class Annealed(_StepAware):
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
class ReverseAnnealed(_StepAware):
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


KINDS: dict[str, type[Schedule]] = {cls.kind: cls for cls in (Fixed, Annealed, ReverseAnnealed)}
"""Every schedule by the name under which a configuration asks for it."""


def from_config(config: Mapping[str, Any]) -> Schedule:
    """Build the schedule that ``config`` describes: ``kind`` and the fields of that kind.

    ``kind`` is ``fixed``, ``annealed`` or ``reverse_annealed``; absent fields take their defaults.

    Raises:
        ValueError: ``kind`` is absent or unknown, a key is unknown or missing, or a value is out of range.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"a schedule is a mapping with the key 'kind', got {config!r}")
    values = dict(config)
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"schedule kind: found {kind!r}, allowed: {', '.join(KINDS)}")
    allowed = [field.name for field in fields(KINDS[kind])]
    unknown = [key for key in values if key not in allowed]
    if unknown:
        raise ValueError(f"schedule {kind}: unknown key {unknown[0]!r}, allowed: {', '.join(allowed)}")
    if kind == Fixed.kind and "tau" not in values:
        raise ValueError("schedule fixed: the key 'tau' is missing")
    return KINDS[kind](**values)


def _positions(position: Any) -> np.ndarray:
    """Return ``position`` as an integer array (float64 for a Python integer too large for int64)."""
    if hasattr(position, "cpu"):  # a torch tensor, possibly on another device
        position = position.cpu()
    positions = np.asarray(position)
    if positions.dtype == object and positions.ndim == 0:
        positions = np.asarray(float(_integer("position", position)))
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
    value = getattr(schedule, name)
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not abs(value) <= _LARGEST_FLOAT:  # NaN compares as false
        raise ValueError(f"{name} must be a finite number, found {value!r}")
    object.__setattr__(schedule, name, float(value))


def _require(condition: bool, name: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}, found {value!r}")


def _number(value: float) -> str:
    return format(value, ".15g")
