"""EAD in transformers: python examples/transformers_generate.py MODEL (a folder or a hub name)."""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from ead.integrations.transformers import PLAIN_SAMPLING, AnnealedTemperature
from ead.schedule import Annealed

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
inputs = tokenizer("What is 12 + 30? Let's think step by step.", return_tensors="pt")
length = inputs["input_ids"].shape[1]
set_seed(0)
annealed = AnnealedTemperature(Annealed(), prompt_length=length)
output = model.generate(**inputs, **PLAIN_SAMPLING, max_new_tokens=64, logits_processor=[annealed])
print(tokenizer.decode(output[0, length:], skip_special_tokens=True))
