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


@pytest.fixture
def toy():
    """A dataset of 3 classes that a small network learns in a few steps: `toy(train=40, val=12)`; val may be 0."""
    import numpy as np

    from compress_cli.datasets import Dataset, Split, channel_statistics
    from compress_cli.signature import Head, Input, Signature

    class Toy(Dataset):
        train: int = 40
        val: int = 12
        classes: int = 3

        def split(self, name):
            first, count = {"train": (0, self.train), "val": (1000, self.val), "test": (2000, 30)}[name]
            random = np.random.RandomState(first)
            labels = np.arange(count) % 3
            images = random.randint(0, 80, (count, 2, 6, 6))
            for label in range(3):
                images[labels == label, label % 2, :, 2 * label : 2 * label + 2] += 120
            return Split({"image": images.astype(np.uint8)}, {"label": labels}, first + np.arange(count))

        def signature(self):
            mean, deviation = channel_statistics(self.split("train").inputs["image"])
            return Signature(
                inputs={"image": Input(shape=(2, 6, 6), mean=mean, deviation=deviation)},
                heads={"logits": Head(size=self.classes)},
            )

    return lambda **settings: Toy(**settings)


@pytest.fixture
def context_for(tmp_path):
    """`context_for(dataset, seed=1)`: a Context for classification on the CPU; `context.log` collects into `reports`."""
    from compress_cli.context import Context
    from compress_cli.tasks.classification import Classification

    def _context(dataset, **changes):
        output = tmp_path / f"output{len(list(tmp_path.iterdir()))}"
        output.mkdir()
        given = {
            "inputs": {}, "output": output, "dataset": dataset, "task": Classification(), "device": "cpu", "seed": 0,
            "log": lambda progress: None, "key": "k", "memory": tmp_path / "memory",
        }  # fmt: skip
        return Context(**{**given, **changes})

    return _context


@pytest.fixture
def one_thread():
    """Tiny networks lose by more threads, and lose much where the cores are busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
