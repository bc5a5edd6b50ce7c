"""EAD inside SGLang (0.5.23): a custom logit processor.

The server is started with ``--enable-custom-logit-processor``, and a request carries :func:`request_parameters`::

    extra = request_parameters(Annealed(), step=120)
    requests.post(f"{address}/generate", json={"text": ..., "sampling_params": {"temperature": 1.0,
        "custom_params": extra["custom_params"]}, "custom_logit_processor": extra["custom_logit_processor"]})

The OpenAI-compatible endpoints take both in the body of the request. The request carries the name of
:class:`AnnealedTemperature` and no code. So the server needs ``ead`` in its environment; without it, the first such
request ends the server. A client needs only ``ead``: nothing here imports SGLang. With that flag a server runs
whatever code a client sends, so let it listen on 127.0.0.1 only.

Position. SGLang tells a processor the request, but not the place in the response. Under overlap scheduling
``output_ids`` lacks the newest token, and the processor is also called on parts of a prompt, so neither of them can be
counted. The position is taken from the number of decoding steps since the prompt was last read, which SGLang notes
before each step, and the number of output tokens at that time; so it holds when a request is retracted and read anew.

Order: penalties; EAD; the temperature, which must be 1 with EAD, or 0, greedy; top-k, top-p and min-p, which filter the
annealed distribution. Log-probabilities returned are those of the annealed distribution before these filters.

A request whose parameters are wrong, or clash, is aborted with a message; an exception would end the server. A server
with speculative decoding aborts requests for EAD: a processor is not told which row stands for which draft token. So
does a schedule that switches at a token, since the newest token is not known.
"""

import json
import pickle
from collections.abc import Mapping
from typing import Any

import torch

from ead import rules
from ead.integrations import TOO_DEEP, first_position
from ead.schedule import BESIDE, Schedule, Switched, from_config

_KEY = "ead"
_STATE = "__ead__"
_NEUTRAL = {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}


class AnnealedTemperature:
    """Divide each row's logits by its schedule's temperature at its position; see the module."""

    def __call__(
        self, logits: torch.Tensor, custom_param_list: list[dict[str, Any] | None] | None = None
    ) -> torch.Tensor:
        """Return ``logits``, shape (rows, vocabulary), divided; a row whose parameters lack ``ead`` stays as it is."""
        rows = custom_param_list or []
        asked = [params for params in rows if params and params.get(_KEY) is not None]
        if not asked:
            return logits
        drafts = len({id(params) for params in asked}) < len(asked)
        temperatures, ruled = [], {}
        for row, params in enumerate(rows):
            temperatures.append(1.0)
            if not params or params.get(_KEY) is None:
                continue
            try:
                if drafts:
                    raise ValueError("ead: speculative decoding is not supported")
                schedule, step, position = _place(params)
            except (ValueError, RecursionError) as error:
                _abort(params["__req__"], TOO_DEEP if isinstance(error, RecursionError) else str(error))
                continue
            if schedule is None:  # greedy
                continue
            temperatures[row] = schedule.temperature(position, step)
            if schedule.rule is not None:
                ruled[row] = (schedule, position)
        divided = logits / torch.tensor(temperatures, dtype=torch.float32, device=logits.device)[:, None]
        for row, (schedule, position) in ruled.items():
            divided[row] = rules.apply(
                schedule.rule, logits[row, None].float(), temperatures[row], schedule.rule_numbers, position
            )[0]
        return divided


def request_parameters(schedule: Schedule, step: int = 0, position: int = 0) -> dict[str, Any]:
    """Return ``custom_logit_processor`` and ``custom_params`` of a request.

    Args:
        schedule: any schedule of :mod:`ead.schedule` that does not depend on the tokens or on a training.
        step: the trainer's global step, >= 0.
        position: how many tokens of the response the prompt ends with, >= 0.

    Raises:
        ValueError: a value is out of range, or the schedule depends on the tokens or on a training.
    """
    config = {**schedule.to_dict(), "step": step, "position": position}
    _read(config)
    # As SGLang's own to_str writes it, which needs SGLang: a class of a module is pickled as its name.
    by_name = pickle.dumps(AnnealedTemperature, protocol=4).hex()
    return {"custom_logit_processor": json.dumps({"callable": by_name}), "custom_params": {_KEY: config}}


def _read(config: Any) -> tuple[Schedule, int, int]:
    if not isinstance(config, Mapping):
        raise ValueError(f"ead: found {type(config).__name__}, allowed: a schedule as a mapping")
    values = dict(config)
    step, position = values.pop("step", 0), first_position(values.pop("position", 0))
    schedule = from_config(values, BESIDE)
    if isinstance(schedule, Switched):
        raise ValueError(
            "ead: a switched schedule needs the newest token, which SGLang does not tell a processor"
        )
    schedule.temperature(0, step)  # raises on a bad step
    if schedule.bounds[0] < rules.LOWEST_TEMPERATURE:
        raise ValueError(
            f"ead: the lowest temperature is {schedule.bounds[0]}, allowed: {rules.LOWEST_TEMPERATURE} or more, which "
            "keeps float32 logits finite"
        )
    return schedule, step, position


def _place(params: dict[str, Any]) -> tuple[Schedule | None, int, int]:
    """Return schedule (None: greedy), step and position of the next token of the request with these ``params``."""
    request = params["__req__"]
    if _STATE not in params:  # SGLang gives each request a dictionary of its own
        params[_STATE] = _read(params[_KEY])
        _check(request.sampling_params)
    if request.sampling_params.top_k == 1:
        return None, 0, 0
    if request.decode_batch_idx == 0:  # the prompt is being read, perhaps anew, with the output so far
        params["__ead_read__"] = len(request.output_ids)
    elif "__ead_read__" not in params:
        raise ValueError("ead: another server has read the prompt; EAD needs one that reads and decodes")
    schedule, step, first = params[_STATE]
    return schedule, step, first + params["__ead_read__"] + request.decode_batch_idx


def _check(sampling_params: Any) -> None:
    if sampling_params.temperature != 1:  # SGLang writes greedy decoding as temperature 1 and top-k 1
        raise ValueError(
            f"ead: the temperature is {sampling_params.temperature}, allowed: 1, or 0 for greedy"
        )
    for name, neutral in _NEUTRAL.items():
        if getattr(sampling_params, name) != neutral:
            raise ValueError(f"ead: {name} is {getattr(sampling_params, name)}, allowed: {neutral}")


def _abort(request: Any, message: str) -> None:
    """Have SGLang end the request with ``message`` after this step."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    request.to_finish = FINISH_ABORT(message, 400, "BadRequestError")
