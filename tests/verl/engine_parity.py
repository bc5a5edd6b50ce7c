"""verl's trainer engine with and without fused log-probabilities, in a process of its own: prints JSON.

`test_verl_engine.py` runs it, because verl chooses its platform when it is imported.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {
    **{"VERL_PLATFORM": "cpu", "VERL_ENGINE_DEVICE": "cuda", "TORCHDYNAMO_DISABLE": "1"},
    **{"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2], "HF_HUB_OFFLINE": "1"},
    "VERL_USE_EXTERNAL_MODULES": "reproduction.cluster.verl_cpu,reproduction.engines.verl.workers",
}

import torch
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry

LENGTHS = [7, 19, 12, 30]


def batch(fused):
    draws = torch.Generator().manual_seed(1)

    def nested(rows):
        return torch.nested.nested_tensor(rows, layout=torch.jagged)

    tensors = {
        "input_ids": nested([torch.randint(0, 256, (n,), generator=draws) for n in LENGTHS]),
        "position_ids": nested([torch.arange(n) for n in LENGTHS]),
        "loss_mask": nested([torch.ones(n) for n in LENGTHS]),
    }
    options = {
        **{"use_remove_padding": False, "use_dynamic_bsz": False, "micro_batch_size_per_gpu": 2},
        **{"use_fused_kernels": fused, "temperature": 0.7, "calculate_entropy": True, "pad_token_id": 0},
    }
    return tensordict_utils.get_tensordict(tensors, non_tensor_dict=options)


def loss(model_output, data, dp_group=None):
    """Weighs every token differently, and the last of each row, whose label is another row's, not at all."""
    logprobs = model_output["log_probs"].values()
    weights = torch.linspace(-1, 1, len(logprobs))
    weights[data["input_ids"].offsets()[1:] - 1] = 0
    return (logprobs * weights).sum() / 50, {}


def run(folder, fused):
    model = HFModelConfig(
        path=folder,
        use_remove_padding=False,
        use_fused_kernels=fused,
        fused_kernel_options={"impl_backend": "torch"},
        enable_gradient_checkpointing=True,
        override_config={"attn_implementation": "sdpa"},
    )
    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    engine = EngineRegistry.new(
        "language_model",
        "fsdp2",
        model_config=model,
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            dtype="float32",
            model_dtype="fp32",
            mixed_precision=precision,
            use_torch_compile=False,
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, lr_scheduler_type="constant", total_training_steps=10),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    kept = torch.ones(sum(LENGTHS), dtype=torch.bool)
    kept[torch.tensor(LENGTHS).cumsum(0) - 1] = False
    with engine.eval_mode():
        output = engine.infer_batch(batch(fused), loss_function=None)["model_output"]
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(batch(fused), loss_function=loss, forward_only=False)
        gradients = {name: p.grad.full_tensor().clone() for name, p in engine.module.named_parameters()}
        norm = engine.optimizer_step()
    return {
        "engine": type(engine).__name__,
        "logprobs": output["log_probs"].values()[kept],
        "entropy": output["entropy"].values()[kept],
        "gradients": gradients,
        "norm": float(norm),
    }


def main():
    torch.distributed.init_process_group("gloo")
    plain, fused = run(sys.argv[1], False), run(sys.argv[1], True)
    names = plain["gradients"]
    found = {
        "engine": fused["engine"],
        "logprobs": (plain["logprobs"] - fused["logprobs"]).abs().max().item(),
        "entropy": (plain["entropy"] - fused["entropy"]).abs().max().item(),
        "gradients": max((names[n] - fused["gradients"][n]).abs().max().item() for n in names),
        "largest_gradient": max(gradient.abs().max().item() for gradient in names.values()),
        "norms": [plain["norm"], fused["norm"]],
    }
    Path(sys.argv[3]).write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
