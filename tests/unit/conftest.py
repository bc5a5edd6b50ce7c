"""A copy of the workflow's tables that a test may add to, and Hypothesis without its clocks."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from pages import extensions
from reproduction import config
from reproduction.config import REPOSITORY

# A busy machine is no failure: neither an example nor the making of examples has a time limit.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@dataclass(frozen=True)
class Tables:
    """A copy of workflow/ from which the configuration is read."""

    folder: Path

    def file(self, table: str) -> Path:
        return self.folder / f"{table}.yaml"

    def add(self, table: str, text: str | None = None) -> str:
        """Append an entry, by default that of docs/extend.md, and return its name."""
        text = extensions()[table] if text is None else text
        path = self.file(table)
        path.write_text(f"{path.read_text(encoding='utf-8')}\n{text}", encoding="utf-8")
        (name,) = yaml.safe_load(text)
        return name


@pytest.fixture(scope="module")
def model():
    """A random model whose next-token distributions are uneven."""
    import torch

    from ead import seeds
    from reproduction.tasks import countdown
    from reproduction.training import warmstart

    definition = config.load_scale("mini").models["tiny"]
    model = warmstart.build_model(definition, countdown.VOCABULARY, seeds.torch_generator(0, "weights"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    return model.eval()


@pytest.fixture
def tables(tmp_path, monkeypatch) -> Tables:
    folder = tmp_path / "workflow"
    shutil.copytree(REPOSITORY / "workflow", folder)
    monkeypatch.setattr(config.tables, "WORKFLOW", folder)
    monkeypatch.setattr(config.tables, "SAMPLERS_FILE", folder / "samplers.yaml")
    return Tables(folder)
