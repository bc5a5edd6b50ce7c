"""Which prompts of a training fit: all are measured before it starts, and the longer ones are left out.

verl cuts a prompt that is too long, or fails at the step that draws it; a model has no positions for it. The released
recipe leaves such prompts out (``data.filter_overlong_prompts``), and so does every engine here: what counts is the
length in tokens of the model at hand, in its own chat template. Evaluations leave nothing out; there a prompt that does
not fit is an error.
"""

from collections.abc import Sequence
from typing import Any


def fitting(
    ids: Sequence[str], lengths: Sequence[int], limit: int, *, name: str, least: int = 1
) -> tuple[list[int], dict[str, Any]]:
    """Return the places of the prompts of at most ``limit`` tokens, and what a run's manifest says of the others.

    Args:
        ids: names of the prompts.
        lengths: their lengths in tokens.
        name: the data set, for the message.
        least: prompts that must be left.

    Raises:
        ValueError: fewer are left.
    """
    kept = [place for place, length in enumerate(lengths) if length <= limit]
    left_out = {ids[place]: length for place, length in enumerate(lengths) if length > limit}
    if len(kept) < least:
        message = f"{name}: {len(kept)} of {len(ids)} prompts can be used, {least} are asked for"
        if left_out:
            longest = max(left_out, key=left_out.get)
            message += f"; {len(left_out)} have more than {limit} tokens, {longest!r} has {left_out[longest]}"
        raise ValueError(message)
    return kept, {
        "prompts": len(ids),
        "limit_tokens": limit,
        "longest_tokens": max(lengths),
        "left_out": left_out,
    }
