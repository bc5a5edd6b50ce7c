"""A vLLM engine that answers a greedy and a seeded request, as without EAD: python plain_vllm.py MODEL"""

import sys

from vllm import LLM, SamplingParams

if __name__ == "__main__":  # vLLM starts its engine in a process of its own
    llm = LLM(sys.argv[1], dtype="float32", max_model_len=256, max_num_seqs=8, enforce_eager=True)
    params = [
        SamplingParams(temperature=temperature, max_tokens=24, seed=0, ignore_eos=True, min_p=min_p)
        for temperature, min_p in ((0.0, 0.0), (0.7, 0.0), (1.3, 0.1))
    ]
    for output in llm.generate([{"prompt_token_ids": [72, 101, 97, 116]}] * 3, params, use_tqdm=False):
        print(list(output.outputs[0].token_ids))
