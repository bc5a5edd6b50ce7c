"""Two steps of TRL's GRPOTrainer on a tiny model, as without EAD: python plain_trl.py MODEL"""

import sys
import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer


def length_reward(completions, **_):
    return [float(len(set(completion))) for completion in completions]


with tempfile.TemporaryDirectory() as folder:
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(sys.argv[1]),
        processing_class=AutoTokenizer.from_pretrained(sys.argv[1]),
        reward_funcs=length_reward,
        args=GRPOConfig(
            output_dir=folder,
            max_steps=2,
            num_generations=4,
            per_device_train_batch_size=4,
            max_completion_length=16,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            seed=0,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["1 + 1 =", "2 + 3 ="]}),
    )
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    with torch.no_grad():
        total = sum(parameter.double().abs().sum().item() for parameter in trainer.model.parameters())
print(len(rewards), rewards, total)
