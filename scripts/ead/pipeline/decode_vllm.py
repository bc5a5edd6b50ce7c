"""Evaluation samples from vLLM, offline: for models that the in-process sampler is too slow for.

Tokens go in and tokens come out, so prompts and responses are encoded and decoded exactly as in process. Every
response has a random stream of its own, named by its problem and number: what is drawn does not depend on what
shares its batch.
"""

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ead.pipeline.config import Decoder, Verl
from ead.pipeline.engines.verl.configuration import environment
from ead.pipeline.tokenizer import Tokenizer
from ead.pipeline.transformer import eos_tokens
from ead.schedule import Fixed, from_config


class Vllm:
    """A checkpoint in a vLLM engine; a context manager, because the engine holds a GPU's memory."""

    def __init__(self, folder: Path, machine: Verl, *, max_new_tokens: int):
        on_cpu = machine.device == "cpu"
        os.environ.update(environment(machine))  # read when vLLM is imported
        if on_cpu:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process is all there is to gain
        from vllm import LLM

        self.tokenizer = Tokenizer(folder)
        self._stop = list(eos_tokens(folder))
        self._max_new_tokens = max_new_tokens
        longest = machine.max_prompt_tokens + max_new_tokens
        self._llm = LLM(
            str(folder),
            dtype="float32" if on_cpu else "bfloat16",
            max_model_len=longest,
            max_num_batched_tokens=max(8192, longest),
            enable_chunked_prefill=not on_cpu,  # see ead.pipeline.engines.verl.configuration
            enforce_eager=on_cpu,
            tensor_parallel_size=machine.tensor_parallel,
            generation_config="vllm",  # the model's own defaults would change the decoder
            logits_processors=["ead.integrations.vllm:AnnealedTemperature"],
            **({} if on_cpu else {"gpu_memory_utilization": 0.9}),
        )

    def __enter__(self) -> "Vllm":
        return self

    def __exit__(self, *_) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        decoder: Decoder,
        *,
        samples: int,
        stream: Callable[[int, int], int],
    ) -> tuple[list[list[int]], list[bool]]:
        """Return the tokens of ``samples`` responses per prompt, in order, and whether each ended by itself.

        ``stream`` gives the seed of a response from the place of its prompt and its number.
        """
        from vllm import SamplingParams

        inputs, parameters = [], []
        for place, prompt in enumerate(prompts):
            for sample in range(samples):
                inputs.append({"prompt_token_ids": list(prompt)})
                parameters.append(
                    SamplingParams(
                        **_decoding(decoder),
                        seed=stream(place, sample),
                        top_p=decoder.top_p,
                        top_k=-1,
                        min_p=0.0,
                        max_tokens=self._max_new_tokens,
                        stop_token_ids=self._stop,
                        detokenize=False,
                    )
                )
        outputs = self._llm.generate(inputs, parameters, use_tqdm=False)
        responses = [output.outputs[0] for output in outputs]
        return (
            [list(response.token_ids) for response in responses],
            [response.finish_reason == "stop" for response in responses],
        )


def _decoding(decoder: Decoder) -> dict:
    """vLLM's own temperature where one number says it all, the processor otherwise."""
    if decoder.schedule is None:
        return {"temperature": 0.0}
    schedule = from_config(decoder.schedule)
    if isinstance(schedule, Fixed):
        return {"temperature": schedule.tau}
    return {"temperature": 1.0, "extra_args": {"ead": {**decoder.schedule, "step": 0}}}
