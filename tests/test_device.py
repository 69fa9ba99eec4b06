"""Whatever uses a CUDA device, on a pretended one: no tensor is left behind, no step waits, and the numbers are the CPU's."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from compress_cli import plugin, randomness
from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.ensemble import NO_TEACHERS, assemble
from compress_cli.errors import StageError
from compress_cli.losses import Loss
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.networks import restore
from compress_cli.networks.models import Model
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.plugin import find, names
from compress_cli.stages import Stage
from compress_cli.store import artifact
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel, Program
from compress_cli.store.saves import Saves, Saving
from compress_cli.training import loop, meter, precision
from compress_cli.training.augmentations import Augmentation
from compress_cli.training.augmentations.flip import Flip
from compress_cli.training.config import TrainingConfig
from compress_cli.training.loader import Augmenter, Loader
from compress_cli.training.optimizers import Optimizer
from compress_cli.training.optimizers.adamw import AdamW
from compress_cli.training.optimizers.sgd import Sgd
from compress_cli.training.pool import SamplePool

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
    return Draft(kind, f"k{folder.name}", {"type": "x"}, facts or {}).commit(folder)


def fitted(context, losses=HARD, sources=None, model=CONVNET, combination=None, **settings):
    network = restore.build(model, context.dataset.signature(), context.seed).network
    given = TrainingConfig(
        **{"epochs": 1, "batch": 8, "precision": "float32", "optimizer": Sgd(learning_rate=1e-3), **settings}
    )
    teachers = NO_TEACHERS
    if sources:
        teachers = assemble(sources, losses, context.index(), context.device, combination)
    facts = loop.fit(network, losses, given, context, teachers)
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
    monkeypatch.setattr(meter, "REPORT_S", math.inf)
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
        return Signature(inputs=inputs, heads={"logits": Head(shape=(2,))})


@pytest.fixture(scope="module")
def encoder():
    plugin.register(Path(__file__).parent / "encoder.py")
    yield find(Model, "encoder")
    del plugin._OUTSIDE[Model]["encoder"]  # other tests count the models there are


TOKENS = {
    "hidden_states": {"layers": ["embedding", {"student": "layers.0", "teacher": "layers.1"}], "mask": "attention_mask"},
    "cls_token": {"layers": ["layers.0"]},
    "first_token": {"layers": ["layers.0"]},
}
SETTINGS = {
    "arcface": {"identities": 3},
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


ON_FEATURES = [name for name in names(Loss) if {"layers", "exits"} & set(find(Loss, name).model_fields)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, None) for name in sorted(set(ON_FEATURES) - set(TOKENS))),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in VARIANTS),
    ],
    ids=str,
)
def test_losses_on_features_with_their_adapters(name, settings, toy, context_for, stored, on, monkeypatch):
    loss = loss_called(name, settings)
    teacher = stored(Convnet(widths=(6, 8), convs=1), toy())

    def fit(where, count=SAMPLES):
        return fitted(context_for(toy(train=count, val=0), device=where), (loss,), {"teacher": teacher})

    assert_no_step_waits(on, monkeypatch, fit)


def test_all_losses_on_outputs(toy, context_for, stored, on, monkeypatch):
    fitting = set(names(Loss)) - {*ON_FEATURES, "mean_squared_error", "huber", "binary_cross_entropy"}  # the labels are classes
    losses, teacher = tuple(loss_called(name) for name in sorted(fitting)), stored(CONVNET, toy())
    assert len(losses) > 5

    def fit(where, count=SAMPLES):
        return fitted(context_for(toy(train=count, val=0), device=where), losses, {"teacher": teacher})

    assert_no_step_waits(on, monkeypatch, fit)


@pytest.mark.parametrize("name", TOKENS)
def test_losses_on_tokens_with_a_mask(name, context_for, stored, encoder, on, monkeypatch, pretended_cuda):
    loss = find(Loss, name).model_validate(TOKENS[name])
    teacher = stored(encoder(width=12), Sequences())

    # the same on both sides: the CPU's own adds in another order
    monkeypatch.setattr(functional, "scaled_dot_product_attention", pretended_cuda.attention)

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


def test_samples_without_labels_that_are_joined(toy, context_for, stored, on, monkeypatch):
    losses, teacher = (SoftTargets(), CrossEntropy(), loss_called("crd")), stored(Convnet(widths=(6, 8), convs=1), toy())

    def fit(where, count=SAMPLES):
        context = context_for(toy(train=count), device=where, transfer=toy(train=count), join=True)
        return fitted(context, losses, {"t": teacher}, accumulate=2)

    assert_no_step_waits(on, monkeypatch, fit)


def test_bfloat16_is_autocast_on_the_device(toy, context_for, on):
    def fit(where):
        return fitted(context_for(toy(train=40, val=0), device=where), precision="bfloat16_channels_last", epochs=8)[0]

    weights, expected, exact = on("cuda", fit)[0], on("cpu", fit)[0], fitted(context_for(toy(train=40, val=0)), epochs=8)[0]
    for name, each in weights.items():
        assert each.dtype == expected[name].dtype
        torch.testing.assert_close(each, expected[name], rtol=0.02, atol=0.02)
    assert not same(weights, exact)


def test_the_precision_is_chosen_on_the_device(toy, context_for, on, monkeypatch):
    """Every format is tried there, once a machine, and neither weights nor draws are changed by it."""
    monkeypatch.setattr(precision, "WORTH_S", 0.0)
    computed, computing = [], precision.computing
    monkeypatch.setattr(precision, "computing", lambda name, where: (computed.append((name, where)), computing(name, where))[1])

    def fit(where):
        first, second = (context_for(toy(train=160, val=0), device=where) for _ in range(2))
        facts = [fitted(each, precision="auto")[1]["precision"] for each in (first, second)]
        return facts, (first.memory / precision.REMEMBERED).read_text()

    (facts, remembered), machine = on("cuda", fit)
    assert set(computed) == {(name, "cuda") for name in precision.NAMES}
    assert '"machine": "Pretended"' in remembered
    assert facts[1]["reason"].startswith("remembered")
    assert machine.waits["precision.py: torch.cuda.synchronize(self.device)"] >= 8


class Adam(Optimizer):
    """As a plugin may bring it: PyTorch's counts steps on the CPU unless it is fused."""

    learning_rate: float = 1e-3

    def build(self, parameters):
        return torch.optim.Adam(list(parameters), lr=self.learning_rate)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Mortal(Saves):
    """Saves at every step, and ends the process, as it were, at the nth."""

    def __init__(self, folder, at):
        super().__init__(folder, Saving(steps=1))
        self.left = at

    def step(self, state, epoch_ended=False):
        super().step(state, epoch_ended)
        self.left -= 1
        if not self.left:
            raise Killed


OPTIMIZERS = [pytest.param(Sgd(learning_rate=1e-3), marks=pytest.mark.slow), AdamW(), Adam()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.type)
def test_killed_within_an_epoch_it_goes_on_to_the_same_bytes(optimizer, toy, context_for, stored, on, tmp_path):
    losses, teacher = (loss_called("crd"), loss_called("hints"), CrossEntropy()), stored(Convnet(widths=(6, 8), convs=1), toy())
    settings = {"optimizer": optimizer, "ema": 0.9, "epochs": 2, "augment": (Flip(),), "accumulate": 2}
    (tmp_path / "saves").mkdir()

    def fit(where, saves=None):
        context = context_for(toy(train=SAMPLES), device=where, saves=saves or Saves())
        return fitted(context, losses, {"t": teacher}, **settings)

    def killed(where):
        with pytest.raises(Killed):
            fit(where, Mortal(tmp_path / "saves", 6))  # of the second epoch the second step

    reports = []
    (expected, figures), _ = on("cpu", fit)
    on("cuda", killed)
    (weights, facts), _ = on("cuda", lambda where: fit(where, Saves(tmp_path / "saves", warn=reports.append)))
    assert not reports
    assert same(weights, expected)
    assert facts["epochs"] == figures["epochs"]


COMBINATIONS = {"weighted": {"weights": (0.3, 0.7)}}


@pytest.mark.parametrize("name", names(Combination))
def test_several_teachers_become_one(name, toy, context_for, stored, on, monkeypatch):
    sources = {str(seed): stored(Mlp(hidden=(5,)), toy(), seed) for seed in range(2)}
    combination = find(Combination, name)(**COMBINATIONS.get(name, {}))

    def fit(where, count=SAMPLES):
        context = context_for(toy(train=count, val=0), device=where)
        return fitted(context, (SoftTargets(), loss_called("hints", {"layers": [0]})), sources, Mlp(hidden=(4,)), combination)

    assert_no_step_waits(on, monkeypatch, fit)


@pytest.mark.parametrize("free", [8 << 30, 1000], ids=["on the device", "on disk"])
def test_a_table_teaches(free, toy, context_for, stored, on, monkeypatch, pretended_cuda):
    """It is asked for on the device and looked up there, where there is room."""
    teacher, layers = stored(CONVNET, toy()), ["layer1"]
    monkeypatch.setattr(pretended_cuda, "FREE_BYTES", free)
    stage = Stage.model_validate({"type": "teacher_table", "views": 2, "layers": layers, "augment": ["flip"]})
    tables = []

    def table(where):
        context = context_for(toy(train=SAMPLES), device=where, inputs={"teacher": (teacher,)})
        tables.append(whole(context.output, artifact.Table, stage.run(context)))

    on("cuda", table), on("cpu", table)
    assert tables[0].manifest.files == tables[1].manifest.files

    def fit(where):
        losses = (SoftTargets(), loss_called("hints", {"layers": layers}))
        return fitted(context_for(toy(train=SAMPLES), device=where), losses, {"t": tables[1]}, augment=(Flip(),), views=2)

    waits = assert_alike(on, fit)
    assert any(line.startswith("table.py") and "column[view][rows]" in line for line in waits) == (free == 1000)


def test_an_onnx_file_teaches(toy, context_for, linear_file, on):
    path = linear_file(np.random.default_rng(0).normal(size=(72, 3)) / 255, shape=("batch", 2, 6, 6))
    folder = path.parent / "file"
    folder.mkdir()
    path.rename(folder / "model.onnx")
    source = whole(folder, OnnxModel)
    assert_alike(on, lambda where: fitted(context_for(toy(train=SAMPLES), device=where), (SoftTargets(),), {"t": source}))


@pytest.mark.slow
def test_a_program_teaches(toy, context_for, stored, on):
    """A quantised graph moves to the device whole."""
    start = stored(Convnet(widths=(4, 6), convs=1), toy())
    context = context_for(toy(), inputs={"start": (start,)})
    stage = Stage.model_validate({"type": "quantize", "samples": 16})
    program = whole(context.output, Program, stage.run(context))
    assert_alike(on, lambda where: fitted(context_for(toy(train=SAMPLES), device=where), (SoftTargets(),), {"t": program}))


KIND = {"attack": artifact.Table, "similarity": artifact.Table}
STAGES = {
    "train": {"model": {"type": "convnet", "widths": [4, 6]}},
    "distill": {
        "teacher": "start",
        "model": {"type": "convnet", "widths": [4, 6]},
        "losses": ["soft_targets", "cross_entropy"],
    },
    "prune": {"ratio": 0.5, "round_to": 2, "criterion": "taylor", "teacher": "teacher"},
    "attack": {"epsilons": [4.0], "steps": 3, "samples": 20},
    "similarity": {"layers": ["layer1"], "samples": 20},
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_make_the_same_files(name, toy, context_for, stored, on):
    start, teacher = (stored(Convnet(widths=(8, 8), convs=1), toy(), seed) for seed in (1, 2))
    training_of = {"epochs": 1, "batch": 8, "precision": "float32", "deterministic": True}
    cls = find(Stage, name)
    stage = cls(**STAGES[name], **({"training": training_of} if "training" in cls.model_fields else {}))
    made = []

    def run(where):
        inputs = {"start": (start,), "teacher": (teacher,)} if name != "train" else {}
        context = context_for(toy(train=20), device=where, inputs=inputs, splits=("train", "val", "test"))
        made.append(whole(context.output, KIND.get(name, Checkpoint), stage.run(context)))

    on("cuda", run), on("cpu", run)
    assert made[0].manifest.files == made[1].manifest.files


def test_a_recipe_finds_the_device(compress, pretended_cuda, tmp_path):
    """`device: auto` does, manifests name it, and a number that there is not is refused."""
    stages = """\
dataset: digits
compare: {seconds: 0.02}
stages:
  - {type: train, model: {type: mlp, hidden: [4]}, training: {epochs: 1, batch: 1000}}
  - {type: attack, samples: 8, steps: 1}
"""
    (tmp_path / "r.yaml").write_text(stages)
    with pretended_cuda.device():
        ran = compress("run", "r.yaml", "--until", "train")
        assert ran.code == 0, ran
        manifest = json.loads((tmp_path / "runs/r/train/manifest.json").read_text())
        assert manifest["environment"]["device"] == "cuda (Pretended)"
        refused = compress("run", "r.yaml", "--set", "device=cuda:1")
    assert refused.code == 2
    assert "device 'cuda:1': PyTorch sees only 1 here, counted from cuda:0" in refused.err


def test_layers_draw_from_the_generator_of_their_own_device(pretended_cuda, monkeypatch):
    with pretended_cuda.device():
        several = tuple(torch.Generator().manual_seed(place) for place in range(3))
        monkeypatch.setattr(torch.cuda, "default_generators", several)
        randomness.seed_layers("cuda:2", 77)
        assert [each.initial_seed() for each in several] == [0, 1, 77]
        randomness.seed_layers("cuda", 78)
        assert [each.initial_seed() for each in several] == [78, 1, 77]


def test_cublas_is_told_before_its_first_product(pretended_cuda, compress, monkeypatch):
    """Whether the first training is deterministic or not: PyTorch looks once a process."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pretended_cuda.device(), randomness.isolated_random_state("cuda"):
        assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    compress("list")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_an_operator_that_can_t_repeat_is_named(pretended_cuda):
    refused = pytest.raises(StageError, match=r"^put_ can't repeat its sums on CUDA; leave out")
    with pretended_cuda.device(), refused, randomness.isolated_random_state("cuda", deterministic=True):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    assert not torch.are_deterministic_algorithms_enabled()


def test_images_of_one_channel_lie_in_rows(pretended_cuda):
    """And would not be taken for channels-last, which other kernels compute, by strides that an axis of one leaves open."""
    images = np.lib.stride_tricks.as_strided(np.zeros((8, 1, 6, 6), np.uint8), strides=(36, 1, 6, 1))
    split = Split({"image": images}, {}, np.arange(8))
    with pretended_cuda.device():
        given = Loader(SamplePool(split, "cuda"), 4, Augmenter()).first().inputs["image"]
        assert given.stride() == (36, 36, 6, 1)
