"""EAD with TIS in TRL's GRPOTrainer: python examples/trl_train.py MODEL FOLDER (the model a folder or a hub name)."""

import sys

import torch
from datasets import Dataset
from trl import GRPOConfig

from ead.integrations.trl import AnnealedGRPOTrainer
from ead.schedule import Annealed

questions = Dataset.from_dict(
    {"prompt": [f"What is {n} + {n}? Answer: " for n in range(64)], "answer": range(0, 128, 2)}
)


def correct(completions, answer, **_):
    return [float(text.strip() == str(right)) for text, right in zip(completions, answer, strict=True)]


args = GRPOConfig(
    output_dir=sys.argv[2],
    vllm_importance_sampling_mode="token_truncate",  # TRL's default would weigh nearly every response with 0
    vllm_importance_sampling_clip_max=2.0,
    max_completion_length=32,
    max_steps=2,
    logging_steps=1,
    report_to="none",
    use_cpu=not torch.cuda.is_available(),
)
AnnealedGRPOTrainer(sys.argv[1], correct, args, questions, schedule=Annealed()).train()
