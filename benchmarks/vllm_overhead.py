"""What EAD costs inside vLLM: annealed against plain temperature sampling, paired and alternating in one process.

    python benchmarks/vllm_overhead.py --output overhead.json

Both arms generate the same number of tokens for the same prompts in the same engine, all requests at once; only
the request's parameters differ. Each pair gives one ratio of wall-clock times (annealed / plain); reported are
their median with a bootstrap interval, and the share of an engine step spent in the processor's own two methods,
measured separately by wrapping them. The model has random weights: time depends on shapes alone.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine here, so that it can be measured
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import numpy as np
from scipy.stats import bootstrap
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams

from ead.integrations.vllm import AnnealedTemperature
from ead.schedule import Annealed

PROMPT_TOKENS = 16


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256, help="requests at once")
    parser.add_argument("--tokens", type=int, default=16, help="tokens per response")
    parser.add_argument("--pairs", type=int, default=24, help="repetitions of both arms")
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    return parser.parse_args()


def make_model(folder: str, options: argparse.Namespace) -> None:
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden_size,
        intermediate_size=3 * options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 32,
        num_key_value_heads=options.hidden_size // 32,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, options)
        engine = LLM(
            folder,
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=PROMPT_TOKENS + options.tokens,
            max_num_seqs=options.batch,
            enforce_eager=True,
            seed=options.seed,
        )
    draw = np.random.default_rng(options.seed)
    prompts = [
        {"prompt_token_ids": draw.integers(3, options.vocabulary, PROMPT_TOKENS).tolist()}
        for _ in range(options.batch)
    ]
    common = {"max_tokens": options.tokens, "ignore_eos": True, "detokenize": False, "temperature": 1.0}
    # A schedule that is still in its smooth part at the last token.
    schedule = Annealed(d0=2.0 * options.tokens, alpha=0, start=0)
    arms = {
        "plain": SamplingParams(**common),
        "annealed": SamplingParams(**common, extra_args={"ead": schedule.to_dict()}),
    }

    def seconds(arm: str) -> float:
        begin = time.perf_counter()
        engine.generate(prompts, arms[arm], use_tqdm=False)
        return time.perf_counter() - begin

    for arm in arms:  # warm up
        seconds(arm)
    pairs = []
    for pair in range(options.pairs):
        order = list(arms) if pair % 2 == 0 else list(arms)[::-1]
        times = {arm: seconds(arm) for arm in order}
        pairs.append((times["plain"], times["annealed"]))
        print(
            f"pair {pair + 1}: plain {times['plain']:.3f} s, annealed {times['annealed']:.3f} s", flush=True
        )
    plain, annealed = np.array(pairs).T
    interval = bootstrap(
        (annealed / plain,), np.median, rng=options.seed, n_resamples=9999, method="percentile"
    ).confidence_interval

    runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner
    processor = next(
        one for one in runner.input_batch.logitsprocs.argmax_invariant if isinstance(one, AnnealedTemperature)
    )
    spent, calls = Counter(), Counter()

    def timed(name: str):
        method = getattr(processor, name)

        def call(argument):
            begin = time.perf_counter()
            result = method(argument)
            spent[name] += time.perf_counter() - begin
            calls[name] += 1
            return result

        return call

    for name in ("update_state", "apply"):
        setattr(processor, name, timed(name))
    total = sum(seconds("annealed") for _ in range(3))
    step = total / calls["apply"]
    per_step = {name: spent[name] / calls["apply"] for name in spent}
    result = {
        **{key: value for key, value in vars(options).items() if key != "output"},
        "ratio_median": float(np.median(annealed / plain)),
        "ratio_interval_95": [float(interval.low), float(interval.high)],
        "ratio_noise": float(np.std(plain / np.median(plain))),
        "step_ms": 1e3 * step,
        "update_state_us": 1e6 * per_step["update_state"],
        "apply_us": 1e6 * per_step["apply"],
        "processor_percent_of_step": 100 * sum(per_step.values()) / step,
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    engine.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
