"""What several tests share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")


class Outcome:
    """What a command printed and how it ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit {self.code}\n{self.out}\n{self.err}"


@pytest.fixture
def compress(capfd, monkeypatch, tmp_path):
    """Run a command in this process, in an empty folder: `compress("run", "r.yaml")` -> Outcome."""
    from compress_cli.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("COMPRESS_STORE", raising=False)

    def _compress(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        code = ended.value.code or 0
        return Outcome(code, *capfd.readouterr())

    return _compress


@pytest.fixture(scope="session")
def architectures():
    """Model name -> class: small models in which channels hang together in every way, joined as a user's plugin file."""
    from compress_cli import plugin
    from compress_cli.models import Model

    return {name: plugin.find(Model, name) for name in plugin.register(Path(__file__).parent / "architectures.py")}


@pytest.fixture
def lively():
    """Give a module weights and statistics that no channel shares with another."""
    import torch

    def _lively(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                fresh = torch.randn(tensor.shape, generator=generator) * 0.3
                tensor.copy_(fresh.abs() + 0.5 if "var" in name or (tensor.dim() == 1 and "weight" in name) else fresh)
        return module.eval()

    return _lively
