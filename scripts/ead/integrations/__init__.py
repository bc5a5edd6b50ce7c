"""One module per host library: EAD inside transformers, vLLM and SGLang; EAD and TIS inside verl and TRL."""

from typing import Any

LAST_POSITION = 2**31 - 1
"""The largest ``position`` of a request."""

TOO_DEEP = "ead: a value is nested too deep, allowed: a number, a text or a list of them"


def first_position(value: Any) -> int:
    """Return ``value``, the ``position`` that a request to a host says.

    Raises:
        ValueError: it is no integer, or out of range.
    """
    if type(value) is not int or not 0 <= value <= LAST_POSITION:
        raise ValueError(f"ead: position is {value!r}, allowed: an integer from 0 to {LAST_POSITION}")
    return value
