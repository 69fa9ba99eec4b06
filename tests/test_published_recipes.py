"""Recipes with published settings: the weights of the tables, layers that exist, and a run of a few steps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress_cli.data.batch import Batch
from compress_cli.data.datasets import cifar100
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.networks import restore
from compress_cli.networks.features import observe, outputs
from compress_cli.pipeline import recipe

FOLDER = Path(__file__).parent.parent / "recipes" / "cifar100"
RECIPES = sorted(FOLDER.glob("*.yaml"))
BETA = {"resnet56-resnet20": 2, "resnet32x4-resnet8x4": 8, "wrn40-2-wrn16-2": 6}  # of DKD, by pair
REVIEW = {"resnet56-resnet20": 0.6, "resnet32x4-resnet8x4": 5, "wrn40-2-wrn16-2": 5}
SIGNATURE = Signature(
    inputs={"image": Input(shape=(3, 32, 32), mean=(127.0,) * 3, deviation=(70.0,) * 3)}, heads={"logits": Head(shape=(100,))}
)

pytestmark = pytest.mark.usefixtures("one_thread")
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def weights(stage):
    """Loss -> (weight, warm-up, settings that differ from the loss's own)."""
    return {each.type: (each.weight, each.warmup_epochs) for each in stage.losses}


@every_recipe
def test_settings_are_the_published_ones(path):
    loaded = recipe.load(path)
    stages = {stage.name: stage for stage in loaded.stages}
    assert loaded.dataset.val == "none"
    for stage in stages.values():
        training, optimizer = stage.training, stage.training.optimizer
        assert (training.epochs, training.batch, training.keep) == (240, 64, "last")
        assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay, optimizer.nesterov) == (
            0.05,
            0.9,
            5e-4,
            False,
        )
        rates = [training.schedule.factor(epoch, 240) for epoch in (0, 149.9, 150, 180, 210, 239)]
        assert rates == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.001])
        assert [each.type for each in training.augment] == ["crop", "flip"]
        assert training.augment[0].padding == 4
    assert weights(stages["kd"]) == {"cross_entropy": (0.1, 0), "soft_targets": (0.9, 0)}
    assert weights(stages["dkd"]) == {"cross_entropy": (1, 0), "dkd": (1, 20)}
    assert weights(stages["rkd"]) == {"cross_entropy": (1, 0), "rkd": (1, 0)}
    assert weights(stages["crd"]) == {"cross_entropy": (1, 0), "crd": (0.8, 0)}
    assert weights(stages["review_kd"]) == {"cross_entropy": (1, 0), "review_kd": (REVIEW[path.stem], 20)}
    dkd, rkd, crd = (stages[name].losses[1] for name in ("dkd", "rkd", "crd"))
    assert (stages["kd"].losses[1].temperature, dkd.temperature, dkd.alpha, dkd.beta) == (4, 4, 1, BETA[path.stem])
    assert (rkd.distance_weight, rkd.angle_weight) == (25, 50)
    assert (crd.negatives, crd.temperature, crd.momentum, crd.size) == (16384, 0.07, 0.5, 128)
    assert all(stages[name].control for name in ("kd", "dkd", "rkd", "crd", "review_kd"))


@every_recipe
def test_layers_exist_and_can_be_compared(path):
    stages = {stage.name: stage for stage in recipe.load(path).stages}
    batch = Batch({"image": 255 * torch.rand(4, 3, 32, 32)}, {"label": torch.tensor([1, 2, 3, 1])}, torch.arange(4))
    made = {}
    for side, model in (("teacher", next(iter(stages.values())).model), ("student", stages["kd"].model)):
        network = restore.build(model, SIGNATURE, 0).network.eval()
        layers = {
            layer
            for name in stages
            if hasattr(stages[name], "losses")
            for loss in stages[name].losses
            for layer in getattr(loss, f"{side}_layers")()
        }
        with torch.no_grad(), observe(network, tuple(layers)) as seen:
            made[side] = outputs(network, SIGNATURE, batch, tuple(layers), seen)
    student, teacher = made["student"], made["teacher"]
    for name in ("kd", "dkd", "rkd", "crd", "review_kd"):
        for loss in stages[name].losses:
            assert torch.isfinite(loss(student, (teacher,), batch, loss.adapter(student, (teacher,), 100)))
    # before the activation: values below 0, which the student's stages have only where they are not activated either
    for pair in stages["review_kd"].losses[1].layers[:3]:
        assert teacher.features[pair.teacher].shape[2:] == student.features[pair.student].shape[2:]
        assert (teacher.features[pair.teacher] < 0).any()
    assert teacher.features["avgpool"].shape[2:] == (1, 1)


@pytest.fixture
def random_pictures(tmp_path, monkeypatch):
    """Files in the true format with few pictures, where COMPRESS_DATA says."""

    def write(train, test):
        archive = replace(cifar100.ARCHIVE, records=train, test_records=test)
        monkeypatch.setattr(cifar100, "ARCHIVE", archive)
        monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))
        folder = tmp_path / archive.folder
        folder.mkdir()
        random = np.random.RandomState(0)
        for name, count in ((*archive.train, train), (archive.test, test)):
            rows = random.randint(0, 256, (count, 3074), np.uint8)
            rows[:, 1] = np.arange(count) % 100
            (folder / name).write_bytes(rows.tobytes())

    return write


@pytest.mark.slow
@every_recipe
def test_smoke_run_on_as_many_pictures_as_published(path, compress, random_pictures):
    random_pictures(50_000, 10_000)
    ran = compress("run", path, "--smoke", "--json")
    assert ran.code == 0, ran
    assert {"kd", "dkd", "rkd", "crd", "review_kd"} <= {each["step"] for each in json.loads(ran.out)}


@pytest.mark.slow
@every_recipe
def test_one_short_epoch_from_end_to_end(path, compress, random_pictures):
    random_pictures(200, 100)
    teacher = next(iter(recipe.load(path).stages)).name
    stages = (teacher, "kd", "dkd", "rkd", "crd", "review_kd")
    short = [word for name in stages for word in ("--set", f"stages.{name}.training.epochs=1")]
    ran = compress("run", path, "--json", *short)
    assert ran.code == 0, ran
    for name in stages:
        assert name in ran.out, ran
