"""An arm of against_vllm.py: vLLM's CPU build answers a sampling job.

Engine, scheduler and sampler run in this one process, so that its CPU time is all that vLLM takes. A job with
``instrumented`` also says what the logits processor's two methods took; they are wrapped for that job alone.
"""

import argparse
import json
import os
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="4",  # GiB: all requests of the largest batch run at once
    VLLM_CPU_OMP_THREADS_BIND="nobind",  # else one of two cores is set aside for a scheduler's process
    VLLM_HOST_IP="127.0.0.1",
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_LOGGING_STREAM="ext://sys.stderr",  # the standard output is for answers
    VLLM_NO_USAGE_STATS="1",
)

from arms import Jobs, Measured, measured
from sampling_job import SamplingJob
from vllm import LLM, SamplingParams

from ead.integrations.vllm import AnnealedTemperature


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder in Hugging Face format")
    parser.add_argument("--compiled", type=Path, required=True, help="folder for compiled code")
    parser.add_argument("--max-batch", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int, default=128, help="of prompt and response together")
    options = parser.parse_args()
    # Code compiled for another number of threads would be found in the usual place, and used.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(options.compiled)
    jobs = Jobs()
    engine = LLM(
        str(options.model),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=options.max_tokens,
        max_num_seqs=options.max_batch,
        enforce_eager=True,
        seed=0,
    )
    while (job := jobs.next()) is not None:
        instrumented = job.pop("instrumented", False)
        jobs.answer(sample(engine, SamplingJob(**job), instrumented))
    engine.llm_engine.engine_core.shutdown()


def sample(engine: LLM, job: SamplingJob, instrumented: bool) -> Measured:
    prompts = [{"prompt_token_ids": prompt} for prompt in job.prompts(engine.model_config.get_vocab_size())]
    parameters = SamplingParams(
        max_tokens=job.tokens,
        ignore_eos=True,
        detokenize=False,
        temperature=1.0 if job.annealed else job.temperature,
        extra_args={"ead": json.dumps(job.schedule.to_dict())} if job.annealed else None,
    )
    found: Measured = {}
    if instrumented:
        with stopwatch(processor(engine), found), measured(found):
            outputs = engine.generate(prompts, parameters, use_tqdm=False)
    else:
        with measured(found):
            outputs = engine.generate(prompts, parameters, use_tqdm=False)
    return {**found, "tokens": sum(len(output.outputs[0].token_ids) for output in outputs)}


def processor(engine: LLM) -> AnnealedTemperature:
    """Return the one that works: vLLM may hold an idle second instance (ead.integrations.vllm)."""
    runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner
    loaded = runner.input_batch.logitsprocs.argmax_invariant
    return next(one for one in loaded if isinstance(one, AnnealedTemperature))


@contextmanager
def stopwatch(processor: AnnealedTemperature, into: Measured):
    """Put wall-clock seconds spent in the processor's methods, and its number of steps, into ``into``."""
    spent, calls = Counter(), Counter()

    def timed(name: str):
        method = getattr(processor, name)

        def call(argument):
            begin = time.perf_counter()
            try:
                return method(argument)
            finally:
                spent[name] += time.perf_counter() - begin
                calls[name] += 1

        return call

    names = ("update_state", "apply")
    for name in names:
        setattr(processor, name, timed(name))
    yield
    for name in names:
        delattr(processor, name)  # the class's own method again
        into[f"{name}_wall_s"] = spent[name]
    into["steps"] = calls["apply"]


if __name__ == "__main__":
    main()
