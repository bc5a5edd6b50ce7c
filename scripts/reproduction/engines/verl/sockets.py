"""Where a training's processes pass weights to vLLM: in a folder of the user's, under a name of the training's own.

verl 0.9 names these sockets by the id of the job within its Ray, in /tmp. Every Ray of one machine numbers its jobs
from 1, so two trainings would share the path, and each removes it before it binds; and whoever binds it first is
sent pickles. verl takes :class:`Rollout` for its end of the socket by the table of its rollouts
(``reproduction.engines.verl.workers``), vLLM takes :class:`Worker` by ``worker_extension_cls``.
"""

import os

from reproduction.cluster.devices import local_folder
from reproduction.engines.verl.configuration import MARK

PREFIX = "ipc://"


def folder(mark: str):
    """Return the folder of the sockets of the training with this mark, on this machine."""
    return local_folder(f"verl-{mark}")


def own(handle: str) -> str:
    """Return the address in this training's folder that stands for verl's ``handle``."""
    return f"{PREFIX}{folder(os.environ[MARK])}/{handle.rsplit('/', 1)[1]}"


def __getattr__(name: str):
    """``Rollout`` and ``Worker``, made when verl and vLLM ask for them: neither process should import the other's."""
    if name == "Rollout":
        from verl.workers.rollout.vllm_rollout import ServerAdapter

        class Rollout(ServerAdapter):
            """verl's side of a vLLM engine; it binds the socket."""

            def __init__(self, *args, **options):
                super().__init__(*args, **options)
                self.zmq_handle = own(self.zmq_handle)

        made = Rollout
    elif name == "Worker":
        if os.environ.get("VERL_PLATFORM") == "cpu":
            from reproduction.cluster.verl_cpu import Worker as base
        else:
            from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension as base

        class Worker(base):
            """verl's extension of a vLLM worker; it connects to the socket."""

            def _get_zmq_handle(self) -> str:
                return own(super()._get_zmq_handle())

        made = Worker
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made
    return made
