"""A vLLM engine that answers requests for EAD beside one that does not ask: python annealed_vllm.py MODEL SCHEDULE

Prints, for each response, its tokens and their log-probabilities under the distribution that was sampled from.
"""

import json
import sys

from vllm import LLM, SamplingParams

if __name__ == "__main__":  # vLLM starts its engine in a process of its own
    llm = LLM(
        sys.argv[1],
        dtype="float32",
        max_model_len=256,
        max_num_seqs=8,
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
    )
    asked = {"max_tokens": 24, "logprobs": 0, "ignore_eos": True}
    params = [
        SamplingParams(seed=seed, extra_args={"ead": json.loads(sys.argv[2])}, **asked) for seed in range(7)
    ]
    params.append(SamplingParams(seed=7, **asked))
    for output in llm.generate(
        [{"prompt_token_ids": [72, 101, 97, 116]}] * len(params), params, use_tqdm=False
    ):
        (answer,) = output.outputs
        logprobs = [
            step[token].logprob for step, token in zip(answer.logprobs, answer.token_ids, strict=True)
        ]
        print(json.dumps([list(answer.token_ids), logprobs]))
