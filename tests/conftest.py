"""What several tests share."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # of child processes
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: busy machines run tests too


@pytest.fixture(autouse=True)
def no_plugins_of_others():
    """What a test registers from outside the package is gone after it."""
    from compress_cli import plugin

    before = {group: dict(found) for group, found in plugin._OUTSIDE.items()}
    yield
    plugin._OUTSIDE.clear()
    plugin._OUTSIDE.update(before)


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
def forks():
    """Give orders to a process that forks for each: `tests/crashing.py` says which there are. Called without, it reads on."""
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, here / "crashing.py"],
        env={**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip

    def _order(**order):
        if order:
            print(json.dumps(order), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    yield _order
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module")
def architectures():
    """Model name -> class: small models in which channels hang together in every way, joined as a user's plugin file."""
    from compress_cli import plugin
    from compress_cli.networks.models import Model

    names = plugin.register(Path(__file__).parent / "architectures.py")
    yield {name: plugin.find(Model, name) for name in names}
    for name in names:  # other tests count the models there are
        del plugin._OUTSIDE[Model][name]


@pytest.fixture(scope="session")
def pretended_cuda():
    """The module beside this file: a CUDA device where there is none."""
    spec = importlib.util.spec_from_file_location("pretended_cuda", Path(__file__).parent / "pretended_cuda.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.fixture
def linear_file(tmp_path):
    """Write an ONNX file: image -> Flatten -> x @ weight + bias -> logits; returns its path."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    def _write(weight, bias=None, shape=("batch", 1, 8, 8), metadata=None, name="model.onnx", takes="image"):
        arrays = {"weight": np.asarray(weight, np.float32)}
        arrays["bias"] = np.zeros(arrays["weight"].shape[1], np.float32) if bias is None else np.asarray(bias, np.float32)
        nodes = [
            helper.make_node("Flatten", [takes], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "linear",
            [helper.make_tensor_value_info(takes, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (shape[0], arrays["bias"].size))],
            [numpy_helper.from_array(each, key) for key, each in arrays.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        helper.set_model_props(model, metadata or {})
        save(model, tmp_path / name)
        return tmp_path / name

    return _write


@pytest.fixture
def digits_file(linear_file):
    """A linear classifier of digits, fitted by least squares on the train split, with its weight (64, 10) and bias (10,)."""
    import numpy as np

    from compress_cli.data.datasets.digits import Digits

    train = Digits().split("train")
    rows = np.c_[train.inputs["image"].reshape(len(train), -1), np.ones(len(train))]
    solved = np.linalg.lstsq(rows, np.eye(10)[train.targets["label"]], rcond=None)[0]

    def _write(**settings):
        return linear_file(solved[:-1], solved[-1], **settings), solved[:-1], solved[-1]

    return _write


@pytest.fixture
def toy():
    """A dataset of 3 classes that a small network learns in a few steps: `toy(train=40, val=12)`; val may be 0."""
    import numpy as np

    from compress_cli.data.datasets import Dataset, Split, channel_statistics
    from compress_cli.data.signature import Head, Input, Signature

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

        def fingerprint(self):
            return f"toy {self.train} {self.val} {self.classes}"

        def signature(self):
            mean, deviation = channel_statistics(self.split("train").inputs["image"])
            return Signature(
                inputs={"image": Input(shape=(2, 6, 6), mean=mean, deviation=deviation)},
                heads={"logits": Head(shape=(self.classes,))},
            )

    return lambda **settings: Toy(**settings)


@pytest.fixture
def context_for(tmp_path):
    """`context_for(dataset, seed=1)`: a Context for classification on the CPU; `context.log` collects into `reports`."""
    from compress_cli.context import Context
    from compress_cli.data.tasks.classification import Classification

    def _context(dataset, **changes):
        output = tmp_path / f"output{len(list(tmp_path.iterdir()))}"
        output.mkdir()
        given = {
            "inputs": {}, "output": output, "dataset": dataset, "task": Classification(), "device": "cpu", "seed": 0,
            "log": lambda progress: None, "key": "k", "memory": tmp_path / "memory",
        }  # fmt: skip
        return Context(**{**given, **changes})

    return _context


@pytest.fixture(scope="session")
def score_of():
    """`score_of(values)`: the Score of a metric that is the mean of these values (N,), or the share of those that are True."""
    from functools import lru_cache

    import numpy as np

    from compress_cli.statistics import scores

    @lru_cache(maxsize=4)
    def weights(samples, resamples):
        return np.stack([np.bincount(rows, minlength=samples) for rows in scores.resamples(samples)]) / samples  # (draws, N)

    def _score(values):
        resampled = weights(len(values), scores.RESAMPLES) @ values.astype(np.float64)
        return scores.Score(float(values.mean()), len(values), resampled, values if values.dtype == bool else None)

    return _score


@pytest.fixture
def one_thread():
    """Tiny networks lose by more threads, and lose much where the cores are busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
