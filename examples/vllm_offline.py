"""EAD in vLLM, offline: python examples/vllm_offline.py MODEL (a folder or a hub name).
With the CPU build, set VLLM_CPU_KVCACHE_SPACE=1 (docs/hosts.md)."""

import sys

from vllm import LLM, SamplingParams

from ead.schedule import Annealed

if __name__ == "__main__":  # vLLM starts its engine in a process of its own
    llm = LLM(sys.argv[1], max_model_len=1024, logprobs_mode="processed_logprobs", enforce_eager=True)
    params = SamplingParams(max_tokens=64, seed=0, logprobs=0, extra_args={"ead": Annealed().to_dict()})
    for output in llm.generate(["What is 12 + 30? Let's think step by step."], params):
        print(output.outputs[0].text)
