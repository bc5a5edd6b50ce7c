"""The method with what the package asks for and nothing else: all its modules load and give numbers."""

import importlib
import importlib.util
import pkgutil

import torch

import ead
from ead.importance import truncated_weights
from ead.metrics import pass_at_k
from ead.schedule import Annealed

assert importlib.util.find_spec("reproduction") is None, "the pipeline is installed with the method"
for module in pkgutil.iter_modules(ead.__path__, "ead."):
    importlib.import_module(module.name)
old, behaviour = torch.tensor([[0.0, -1.0]]), torch.tensor([[-2.0, -0.5]])
print(Annealed().temperature(range(0, 1000, 250), step=10).round(6).tolist())
print(truncated_weights(old, behaviour, torch.ones(1, 2, dtype=torch.bool), cap=2.0))
print(pass_at_k(16, 4, 8))
