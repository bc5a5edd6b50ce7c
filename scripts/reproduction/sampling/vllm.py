"""Responses from vLLM, offline: for models that the in-process sampler is too slow for.

Tokens go in and tokens come out, so prompts and responses are encoded and decoded exactly as in process. Where the
machine says ``seed_of: response``, every response has a random stream of its own, named by its problem and number: what
is drawn does not depend on what shares its batch. Else the engine's stream starts anew with every draw, named as that.
"""

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ead import seeds
from ead.schedule import Fixed, from_config
from reproduction.cluster import compute
from reproduction.cluster.verl_environment import environment
from reproduction.config import Decoder, Verl
from reproduction.models.tokenizer import Tokenizer, eos_tokens
from reproduction.sampling.entropies import token_entropies
from reproduction.sampling.sampler import Drawn


class Vllm:
    """A checkpoint in a vLLM engine; a context manager, because the engine holds a GPU's memory.

    The engine starts at the first draw, and again at the one after entropies: they take its place on the device. Other
    checkpoints of the model are loaded into the running engine.
    """

    def __init__(self, folder: Path, machine: Verl, *, max_new_tokens: int):
        self.tokenizer = Tokenizer(folder)
        self._folder, self._machine, self._longest_response = folder, machine, max_new_tokens
        self._stop = list(eos_tokens(folder))
        self._llm = None

    def __enter__(self) -> "Vllm":
        return self

    def __exit__(self, *_) -> None:
        self._shut_down()

    def load(self, folder: Path) -> None:
        """See :class:`reproduction.sampling.sampler.Sampler`."""
        self._folder = folder
        if self._llm is not None:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("vLLM keeps keys and values that the former weights computed")

    def _engine(self):
        """The running engine."""
        if self._llm is None:
            on_cpu = self._machine.device == "cpu"
            if not on_cpu:
                compute.require_gpus(self._machine.tensor_parallel, "verl.tensor_parallel")
            os.environ.update(environment(self._machine))  # read when vLLM is imported
            if on_cpu:
                os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process is all there is to gain
            from vllm import LLM

            longest = self._machine.max_prompt_tokens + self._longest_response
            self._llm = LLM(
                str(self._folder),
                dtype="float32" if on_cpu else "bfloat16",
                max_model_len=longest,
                max_num_batched_tokens=max(8192, longest),
                max_num_seqs=self._machine.max_num_seqs,
                enable_chunked_prefill=not on_cpu,  # see reproduction.engines.verl.configuration
                enforce_eager=on_cpu,
                tensor_parallel_size=self._machine.tensor_parallel,
                generation_config="vllm",  # the model's own defaults would change the decoder
                worker_extension_cls="reproduction.sampling.vllm_worker.Worker",
                # EAD comes by its entry point: an engine for which a processor is named waits for every token.
                **({} if on_cpu else {"gpu_memory_utilization": 0.9}),
            )
            _require_ead(self._llm)
        return self._llm

    def _shut_down(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        decoder: Decoder,
        *,
        samples: int,
        max_new_tokens: int,
        stream: Sequence[str | int],
        position: int = 0,
        entropies: bool = False,
        report: Callable[[float], None] = lambda done: None,
    ) -> Drawn:
        """See :class:`.sampler.Sampler`. A response's seed is named by its prompt's place and its number.

        Raises ValueError for a prompt that is longer than the machine's configuration allows.
        """
        allowed = self._machine.max_prompt_tokens
        longest = max(map(len, prompts)) - position
        if longest > allowed:
            raise ValueError(
                f"a prompt has {longest} tokens; verl.max_prompt_tokens allows {allowed}. Raise it, or let a study's "
                "max_prompt_tokens leave such problems out"
            )
        from vllm import SamplingParams

        engine, of_response = self._engine(), self._machine.seed_of == "response"
        if not of_response:
            engine.collective_rpc("seed", args=(seeds.derive(*stream) % 2**63,))
        inputs, parameters = [], []
        for place, prompt in enumerate(prompts):
            for sample in range(samples):
                inputs.append({"prompt_token_ids": list(prompt)})
                parameters.append(
                    SamplingParams(
                        **_decoding(decoder, position),
                        seed=seeds.derive(*stream, place, sample) if of_response else None,
                        top_p=decoder.top_p,
                        top_k=-1,
                        min_p=0.0,
                        max_tokens=max_new_tokens,
                        stop_token_ids=self._stop,
                        detokenize=False,
                    )
                )
        outputs = engine.generate(inputs, parameters, use_tqdm=False)
        responses = [output.outputs[0] for output in outputs]
        tokens = [list(response.token_ids) for response in responses]
        finished = [response.finish_reason == "stop" for response in responses]
        if not entropies:
            report(len(prompts))
            return Drawn(tokens, finished)
        del engine
        self._shut_down()
        given = [row["prompt_token_ids"] for row in inputs]
        device = self._machine.device
        return Drawn(tokens, finished, token_entropies(self._folder, given, tokens, device=device))


def _require_ead(llm) -> None:
    """An engine without EAD ignores what it is asked, so ask for a schedule that every engine with EAD refuses."""
    from vllm import SamplingParams

    impossible = SamplingParams(
        max_tokens=1, extra_args={"ead": {"kind": "fixed", "tau": 1.0, "position": -1}}
    )
    try:
        llm.generate([{"prompt_token_ids": [0]}], impossible, use_tqdm=False)
    except ValueError as error:
        if "ead: position is -1" in str(error):
            return
        raise
    raise RuntimeError(
        "vLLM does not know EAD: the package ead, whose entry point vllm.logits_processors it reads, is not installed "
        "into this interpreter"
    )


def _decoding(decoder: Decoder, position: int) -> dict:
    """vLLM's own temperature where one number says it all, the processor otherwise."""
    if decoder.schedule is None:
        return {"temperature": 0.0}
    schedule = from_config(decoder.schedule)
    if isinstance(schedule, Fixed):
        return {"temperature": schedule.tau}
    ead = {**decoder.schedule, "step": 0} | ({"position": position} if position else {})
    return {"temperature": 1.0, "extra_args": {"ead": ead}}
