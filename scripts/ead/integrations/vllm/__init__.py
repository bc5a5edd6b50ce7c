"""EAD inside vLLM (0.24 to 0.33): a logits processor for whole batches, with parameters per request.

The installed package publishes it under the entry point ``vllm.logits_processors``: every engine of the
environment, ``vllm serve`` and verl's rollout workers included, loads it without being told. Naming it in
``logits_processors`` as well is harmless, except that an engine with asynchronous scheduling and the first runner then
waits for every token before it samples the next.

A request asks for EAD with ``extra_args["ead"]``: a schedule as plain data (``Schedule.to_dict()``), optionally
``step``, the trainer's global step, and ``position``, how many tokens of a response its prompt ends with::

    SamplingParams(temperature=1.0, extra_args={"ead": {**Annealed().to_dict(), "step": 120}})

The OpenAI-compatible server takes the same data as a JSON string, because ``vllm_xargs`` holds no nested
objects: ``{"temperature": 1.0, "vllm_xargs": {"ead": "{\\"kind\\": \\"annealed\\", \\"step\\": 120}"}}``.
``extra_args`` takes such a string too. It is the cheaper form for many short requests, because vLLM copies a mapping
for each of them.

Runners. vLLM has two model runners with an interface each, and this class serves both. Up to 0.30, and wherever
Triton is missing, only the first (V1) takes logits processors. From 0.31 on, the second (V2) is the default wherever
Triton works.

Position and order. A token's position is the request's ``position`` (0 if it names none) plus the number of its
output tokens before it, also after preemption and for the tokens that speculative decoding tries. The first runner
applies, in this order: penalties, logit bias, grammars; the request's temperature; min-p; EAD; top-k and top-p. The
second applies EAD before the request's temperature and min-p. Hence:

- the temperature must be 1 with EAD, or 0: greedy requests are accepted and stay as they are (D06);
- penalties are refused: a model's ``generation_config.json`` may bring them, and would do so silently;
- min-p filters the annealed distribution with the second runner; with the first it would filter before EAD and is
  refused;
- top-k and top-p filter the annealed distribution. They are reported once, since they may be the model's too;
- a schedule that switches at a token needs to see the tokens: with the first runner and asynchronous scheduling
  this class must be named in ``logits_processors``, else such a request is refused;
- a schedule with a rule (``ead.rules``) shapes the logits at the same place: log-probabilities are then those of the
  truncated distribution. ``held_entropy`` is refused: a request carries the fixed temperature that it resolves to;
- speculative decoding works with the second runner; vLLM itself refuses min-p beside it. With the first runner vLLM
  then loads no processor from entry points, and requests for EAD are refused.

A request without ``ead`` gets bit-identical logits whatever shares its batch. Log-probabilities of the
annealed distribution, which importance weights need, are returned under
``logprobs_mode="processed_logprobs"``; vLLM's default is the distribution before EAD.

If a vLLM has neither of these two interfaces, this package does not interfere: it warns, requests are served as if it
were not installed, and requests for EAD are refused.
"""

import importlib
import sys
from abc import ABCMeta
from collections.abc import Iterable
from dataclasses import fields
from importlib.metadata import entry_points
from pkgutil import resolve_name
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from ead.integrations.vllm.first_runner import FirstRunner, sees_tokens
from ead.integrations.vllm.request import asks_for_ead, is_greedy, requested_schedule, warn_once
from ead.integrations.vllm.second_runner import SecondRunner
from ead.schedule import Switched

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

__all__ = ["AnnealedTemperature", "requested_schedule"]

_FIRST = "vllm.v1.sample.logits_processor"
_SECOND = "vllm.v1.worker.gpu.sample.logits_processor"
# What each runner demands of a processor, and what it gives: the names that the code here relies on.
_DEMANDS = {
    _FIRST: {"__init__", "apply", "is_argmax_invariant", "update_state"},
    _SECOND: {"apply"},
}
_GIVES = {
    _FIRST: {"BatchUpdate": {"batch_size", "removed", "added", "moved"}},
    _SECOND: {
        "LogitsContext": {
            *("expanded_idx_mapping", "idx_mapping_np", "pos", "input_ids", "expanded_local_pos"),
        },
        "LogitsProcRequestState": {"device", "max_num_reqs", "all_token_ids", "prompt_len", "prefill_len"},
    },
}


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _is_known(name: str, module: ModuleType) -> bool:
    """Whether an interface is the one that this package was written for."""
    try:
        demanded = module.LogitsProcessor.__abstractmethods__
        given = {kind: {each.name for each in fields(getattr(module, kind))} for kind in _GIVES[name]}
    except (AttributeError, TypeError):
        return False
    return demanded <= _DEMANDS[name] and all(names <= given[kind] for kind, names in _GIVES[name].items())


def _interfaces() -> tuple[dict[str, bool], tuple[type, ...]]:
    """Return which of the two interfaces are there, and known, and the classes that vLLM's loaders look for.

    A loader that came later looks for a class of its own. To be let in, and then do nothing, is the only way not to
    end every engine of its environment, so every class of that name that vLLM has loaded is taken.
    """
    modules = {name: module for name in (_FIRST, _SECOND) if (module := _module(name)) is not None}
    known = {name: _is_known(name, module) for name, module in modules.items()}
    loaded = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "vllm"]
    classes = [getattr(module, "LogitsProcessor", None) for module in (*modules.values(), *loaded)]
    found = dict.fromkeys(each for each in classes if isinstance(each, ABCMeta))
    # One that another inherits from comes with it.
    return known, tuple(
        each for each in found if not any(issubclass(o, each) for o in found if o is not each)
    )


_KNOWN, _CLASSES = _interfaces()


class _Absent:
    """What stands in for an interface that is not known: nothing is changed."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        warn_once(f"EAD is not available in this engine: {reason}. Requests that ask for it are refused.")

    def apply(self, logits: Any, *_: Any) -> Any:
        return logits

    def update_state(self, batch_update: Any) -> None:
        for _, params, *_ in getattr(batch_update, "added", ()):
            self.add_request(0, params)

    def add_request(self, slot: int, params: "SamplingParams") -> bool:
        # vLLM's frontend was to refuse it: better no engine than a wrong temperature.
        if asks_for_ead(params):
            raise RuntimeError(f"a request asks for EAD, which is not available: {self._reason}")
        return False

    def apply_staged_writes(self) -> None:
        pass


class _Idle(_Absent):
    """A second instance in the same engine, beside the one that works."""

    def __init__(self) -> None:
        pass

    def add_request(self, slot: int, params: "SamplingParams") -> bool:
        return False


class AnnealedTemperature(*_CLASSES):
    """Divide each row's logits by its schedule's temperature at its position; see the package."""

    # vLLM constructs a class once per place that names it (entry point, ``logits_processors``), one after another,
    # with one configuration. The first instance works; this many more of that engine are still to come and stay idle.
    _duplicates_to_come: ClassVar[tuple[Any, int]] = (None, 0)  # that configuration, while any are; how many

    @classmethod
    def validate_params(cls, sampling_params: "SamplingParams") -> None:
        """Raise ValueError for a request whose EAD parameters are wrong (HTTP 400 from the server)."""
        if not asks_for_ead(sampling_params):
            return
        interface, engine = _asking_engine()
        if not _KNOWN.get(interface, False):
            raise ValueError(f"ead: {_reason(interface)}")
        request = requested_schedule(sampling_params)
        if request is None or is_greedy(sampling_params) or interface == _SECOND:
            return
        if sampling_params.min_p:
            raise ValueError(
                f"ead: min_p is {sampling_params.min_p}, allowed: 0; vLLM's first runner would filter by it before "
                "annealing"
            )
        if engine is None:
            return
        if engine.speculative_config is not None:
            raise ValueError(
                "ead: vLLM's first runner loads no processors under speculative decoding; use the second (vLLM 0.31 or "
                "newer, with Triton)"
            )
        if isinstance(request[0], Switched) and not sees_tokens(engine):
            raise ValueError(
                "ead: a switched schedule needs the tokens, which vLLM's first runner hides under asynchronous "
                "scheduling: start the engine with logits_processors=['ead.integrations.vllm:AnnealedTemperature'], or "
                "with async_scheduling off"
            )

    def __init__(self, vllm_config: "VllmConfig", *rest: Any, **named: Any) -> None:
        cls, rest = type(self), (*rest, *named.values())
        engine, duplicates = cls._duplicates_to_come
        if engine is vllm_config:
            cls._duplicates_to_come = (engine if duplicates > 1 else None, duplicates - 1)
            self._runner = _Idle()
            return
        interface = {2: _FIRST, 1: _SECOND}.get(len(rest), "")
        if not _KNOWN.get(interface, False):
            self._runner = _Absent(_reason(interface))
            return
        try:
            duplicates = _named(vllm_config).count(cls) - 1
            cls._duplicates_to_come = (vllm_config if duplicates > 0 else None, duplicates)
            self._runner = (FirstRunner if interface == _FIRST else SecondRunner)(vllm_config, *rest)
        except (AttributeError, TypeError) as error:  # an engine without a request for EAD shall not end here
            self._runner = _Absent(f"{interface} gave something unexpected ({error})")

    def is_argmax_invariant(self) -> bool:
        """True, so that vLLM may skip greedy batches; the first token of REFT, a tie, is drawn and never greedy."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """First runner, before every forward pass: how the batch changed, or None."""
        self._runner.update_state(batch_update)

    def add_request(self, req_idx: int, sampling_params: "SamplingParams") -> bool:
        """Second runner: a request enters the slot ``req_idx``; whether its logits will be changed."""
        return self._runner.add_request(req_idx, sampling_params)

    def apply_staged_writes(self) -> None:
        """Second runner, before every forward pass."""
        self._runner.apply_staged_writes()

    def apply(self, logits: Any, *context: Any) -> Any:
        """Divide ``logits`` in place, shape (rows, vocabulary); the second runner also gives its ``LogitsContext``."""
        return self._runner.apply(logits, *context)


def _reason(interface: str) -> str:
    if interface in _KNOWN:
        return f"{interface} is not the interface of vLLM 0.24 to 0.33, which this package knows"
    return "vLLM calls its logits processors in a way that this package does not know (it knows vLLM 0.24 to 0.33)"


def _named(vllm_config: "VllmConfig") -> list[type]:
    """Every class that the engine constructs: those of entry points, and those that its configuration names."""
    installed = [point.load() for point in entry_points(group="vllm.logits_processors")]
    named: Iterable[str | type] = vllm_config.model_config.logits_processors or ()
    return [*installed, *(resolve_name(each) if isinstance(each, str) else each for each in named)]


def _asking_engine() -> tuple[str, "VllmConfig | None"]:
    """Return the interface whose loader asks, and the engine's configuration where that can be seen.

    vLLM hands ``validate_params`` the request and nothing else, and the answer depends on both, so they are read from
    the callers. Who asks without an engine is answered for the first runner, which allows less.
    """
    interface, engine = "", None
    frame = sys._getframe(2)
    while frame is not None and engine is None:
        module = str(frame.f_globals.get("__name__"))
        interface = interface or next((each for each in (_SECOND, _FIRST) if module.startswith(each)), "")
        engine = getattr(frame.f_locals.get("self"), "vllm_config", None)
        frame = frame.f_back
    if not interface and engine is None:
        interface = _FIRST if _FIRST in _KNOWN or _SECOND not in _KNOWN else _SECOND
    return interface, engine


if _CLASSES:
    # An interface that is not known demands more. Whatever it is, logits pass through it as they are.
    for _demanded in AnnealedTemperature.__abstractmethods__:
        setattr(
            AnnealedTemperature, _demanded, lambda self, *arguments, **_: arguments[0] if arguments else None
        )
    AnnealedTemperature.__abstractmethods__ = frozenset()
