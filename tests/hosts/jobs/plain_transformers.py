"""Plain ``generate`` of a tiny model, greedy and sampled: python plain_transformers.py MODEL"""

import sys

import torch
from transformers import AutoModelForCausalLM, set_seed

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
prompt = torch.tensor([[72, 101, 97, 116]])
for arguments in ({"do_sample": False}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}):
    set_seed(0)
    print(model.generate(prompt, min_new_tokens=24, max_new_tokens=24, **arguments)[0].tolist())
