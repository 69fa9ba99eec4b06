"""Whatever uses a CUDA device, on a pretended one: no tensor is left behind, no step waits, and the numbers are the CPU's."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress_cli import artifact, feed, plugin, precision, randomness, restore, training
from compress_cli.artifact import Checkpoint, OnnxModel, Program
from compress_cli.augmentations import Augmentation
from compress_cli.augmentations.flip import Flip
from compress_cli.combinations import Combination
from compress_cli.datasets import Dataset, Split
from compress_cli.ensemble import NOBODY, assemble
from compress_cli.losses import Loss
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.models import Model
from compress_cli.models.convnet import Convnet
from compress_cli.models.mlp import Mlp
from compress_cli.optimizers import Optimizer
from compress_cli.optimizers.adamw import AdamW
from compress_cli.optimizers.sgd import Sgd
from compress_cli.plugin import find, names
from compress_cli.regimen import Training
from compress_cli.saves import Saves, Saving
from compress_cli.schedules import Schedule
from compress_cli.signature import Head, Input, Signature
from compress_cli.stages import Stage

pytestmark = pytest.mark.usefixtures("one_thread")

CONVNET = Convnet(widths=(4, 6), convs=1, dropout=0.3)
HARD = (CrossEntropy(),)
SAMPLES = 17  # the last batch of 8 holds one sample


@pytest.fixture
def on(pretended_cuda):
    """on("cuda", do): what `do("cuda")` gives on the pretended device, and the machine; on("cpu", do) gives (..., None)."""

    def _on(where, do):
        if where == "cpu":
            return do(where), None
        with pretended_cuda.device() as machine:
            return do(where), machine

    return _on


@pytest.fixture
def stored(tmp_path):
    """stored(network of a model, its dataset): a Checkpoint."""

    def _stored(model, dataset, seed=1):
        folder = tmp_path / f"stored{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        restore.save(restore.build(model, dataset.signature(), seed), folder)
        return whole(folder, Checkpoint)

    return _stored


def whole(folder, kind, facts=None):
    artifact.write_manifest(folder, kind, f"k{folder.name}", {"type": "x"}, facts or {}, {}, {}, 0.0)
    return artifact.read(folder)


def fitted(context, losses=HARD, sources=None, model=CONVNET, combination=None, **settings):
    network = restore.build(model, context.dataset.signature(), context.seed).network
    given = Training(**{"epochs": 1, "batch": 8, "precision": "float32", "optimizer": Sgd(learning_rate=1e-3), **settings})
    teachers = NOBODY
    if sources:
        teachers = assemble(sources, losses, context.split("train"), context.device, combination)
    facts = training.fit(network, losses, given, context, teachers)
    return network.state_dict(), facts


def same(one, other):
    return all(torch.equal(each, other[name]) for name, each in one.items())


def assert_alike(on, fit):
    """What `fit(device)` trains is the CPU's on the device too, to the bit, and lies on the CPU; returns who waited."""
    ((weights, facts), machine), ((expected, figures), _) = on("cuda", fit), on("cpu", fit)
    assert all(type(each) is torch.Tensor and each.device.type == "cpu" for each in weights.values())
    assert same(weights, expected)
    assert facts["epochs"] == figures["epochs"]
    assert all(math.isfinite(each["loss"]) for each in facts["epochs"])
    return machine.waits


def assert_no_step_waits(on, monkeypatch, fit):
    """And twice as many samples, in twice as many steps: the device is waited for as often."""
    monkeypatch.setattr(training, "REPORT_S", math.inf)
    few, many = assert_alike(on, fit), on("cuda", lambda where: fit(where, 2 * SAMPLES))[1].waits
    assert many - few == {}


class Sequences(Dataset):
    """Ids with a mask, and two classes."""

    samples: int = 17

    def split(self, name):
        random, count = np.random.default_rng(0), self.samples if name == "train" else 0
        mask = (np.arange(5) < random.integers(2, 6, (count, 1))).astype(np.int64)
        inputs = {"ids": random.integers(0, 24, (count, 5)), "attention_mask": mask}
        return Split(inputs, {"label": np.arange(count) % 2}, np.arange(count))

    def fingerprint(self):
        return "sequences"

    def signature(self):
        inputs = {name: Input(shape=(5,), dtype="int64") for name in ("ids", "attention_mask")}
        return Signature(inputs=inputs, heads={"logits": Head(size=2)})


@pytest.fixture(scope="module")
def encoder():
    plugin.register(Path(__file__).parent / "encoder.py")
    yield find(Model, "encoder")
    del plugin._OUTSIDE[Model.__module__]["encoder"]  # other tests count the models there are


TOKENS = {
    "hidden_states": {"layers": ["embedding", {"student": "layers.0", "teacher": "layers.1"}], "mask": "attention_mask"},
    "cls_token": {"layers": ["layers.0"]},
}
SETTINGS = {
    "crd": {"layers": ["layer2"], "negatives": 32},
    "review_kd": {"layers": ["layer1", "layer2", "avgpool"]},
    "self_distillation": {"exits": ["layer1"]},
    "triplet": {"layers": ["layer2"], "by": "label"},
}
VARIANTS = [
    ("triplet", {"layers": ["layer2"], "negatives": "all"}),
    ("contrastive", {"layers": ["layer2"], "by": "label"}),
    ("crd", {"layers": ["layer2"], "negatives": 32, "other": "sample"}),
    ("hints", {"layers": ["layer1"], "distance": "cosine"}),
    ("soft_targets", {"standardise": True}),
    ("cross_entropy", {"label_smoothing": 0.1}),
]


def loss_called(name, settings=None):
    cls = find(Loss, name)
    least = {"layers": ["layer2"]} if "layers" in cls.model_fields else {}
    return cls.model_validate(settings or SETTINGS.get(name, least))


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, None) for name in sorted(set(names(Loss)) - set(TOKENS))), *VARIANTS], ids=str
)
def test_every_loss_with_its_adapter(name, settings, toy, context_for, stored, on, monkeypatch):
    loss = loss_called(name, settings)
    teacher = stored(Convnet(widths=(6, 8), convs=1), toy())

    def fit(where, count=SAMPLES):
        return fitted(context_for(toy(train=count, val=0), device=where), (loss,), {"teacher": teacher})

    assert_no_step_waits(on, monkeypatch, fit)


@pytest.mark.parametrize("name", TOKENS)
def test_losses_on_tokens_with_a_mask(name, context_for, stored, encoder, on, monkeypatch):
    loss = find(Loss, name).model_validate(TOKENS[name])
    teacher = stored(encoder(width=12), Sequences())

    def fit(where, count=SAMPLES):
        context = context_for(Sequences(samples=count), device=where)
        return fitted(context, (loss, CrossEntropy()), {"t": teacher}, encoder(width=8))

    assert_no_step_waits(on, monkeypatch, fit)


TRAINING = {
    "everything": {
        "augment": tuple(find(Augmentation, name)() for name in names(Augmentation)), "ema": 0.9, "accumulate": 3,
        "clip_norm": 1.0, "optimizer": AdamW(),
    },
    "fixed views": {"augment": (Flip(),), "views": 2, "keep": "last"},
    "channels_last": {"precision": "float32_channels_last", "ema": 0.9},
    "deterministic": {"deterministic": True},
    **{f"optimizer {name}": {"optimizer": {"type": name}} for name in names(Optimizer)},
    **{f"schedule {name}": {"schedule": {"type": name} | ({"milestones": [1]} if name == "step" else {})} for name in names(Schedule)},
}  # fmt: skip


@pytest.mark.parametrize("case", TRAINING)
def test_every_way_of_training(case, toy, context_for, on, monkeypatch):
    def fit(where, count=SAMPLES):
        return fitted(context_for(toy(train=count), device=where), **TRAINING[case])

    assert_no_step_waits(on, monkeypatch, fit)


def test_data_that_the_device_has_no_room_for(toy, context_for, on, monkeypatch, pretended_cuda):
    monkeypatch.setattr(pretended_cuda, "FREE_BYTES", 1000)

    def fit(where, count=SAMPLES):
        return fitted(context_for(toy(train=count, val=0), device=where), augment=(Flip(),))

    assert_no_step_waits(on, monkeypatch, fit)
