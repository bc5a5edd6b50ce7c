"""EAD through vLLM's OpenAI-compatible server. In another shell:
vllm serve MODEL --host 127.0.0.1 --generation-config vllm --logprobs-mode processed_logprobs
(without --generation-config vllm the model's own penalties and filters are in every request that sets none; with the
CPU build the command is another: docs/hosts.md)
Then: python examples/vllm_server.py http://127.0.0.1:8000/v1"""

import json
import sys

from openai import OpenAI

from ead.schedule import Annealed

client = OpenAI(base_url=sys.argv[1], api_key="none")
ead = json.dumps({**Annealed().to_dict(), "step": 0})  # vllm_xargs holds text and numbers, no nested objects
reply = client.chat.completions.create(
    model=client.models.list().data[0].id,
    messages=[{"role": "user", "content": "What is 12 + 30? Let's think step by step."}],
    temperature=1.0,
    max_tokens=64,
    seed=0,
    extra_body={"vllm_xargs": {"ead": ead}},
)
print(reply.choices[0].message.content)
