"""Stages after each other on real pictures: what one bought survives the next, and training wins back what rounding cost."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.datasets.fashion_mnist import FashionMnist
from compress_cli.networks import restore
from compress_cli.networks.edits.mask import masks_of
from compress_cli.stages import Stage
from compress_cli.store.artifact import OnnxModel, Program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif("COMPRESS_DATA" not in os.environ, reason="COMPRESS_DATA names no folder with fashion-mnist"),
]

THREE_BITS = {"type": "static_int8", "reduce_range": False, "overrides": [{"layers": "*", "weights": 3}]}
FLOAT = {"batch": 64, "precision": "float32", "optimizer": {"type": "sgd", "learning_rate": 0.1}}
TUNING = {"epochs": 2, "batch": 64, "optimizer": {"type": "sgd", "learning_rate": 0.05}}


@cache
def pictures(name):
    """Some of Fashion-MNIST: 12000 pictures to train, 500 for val, 2000 of test."""
    whole = FashionMnist().split(name)
    return whole.take(np.s_[: {"train": 12000, "val": 500, "test": 2000}[name]])


class SomeClothes(Dataset):
    """A fifth of Fashion-MNIST: enough to collapse, and to recover."""

    def split(self, name) -> Split:
        return pictures(name)

    def fingerprint(self):
        return "some clothes"

    def signature(self):
        return FashionMnist().signature()


@pytest.fixture
def chain(context_for, perform):
    """chain(seed)(settings, kind, **roles): the result of a stage."""
    if not Path(os.environ["COMPRESS_DATA"], "fashion-mnist").is_dir():
        pytest.skip("COMPRESS_DATA holds no fashion-mnist")

    def _chain(seed):
        def _stage(settings, kind=None, **roles):
            inputs = {role: (artifact,) for role, artifact in roles.items()}
            context = context_for(SomeClothes(), seed=seed, inputs=inputs)
            return perform(Stage.model_validate(settings), context, *([kind] if kind else []))

        return _stage

    return _chain


def accuracy(module):
    test = pictures("test")
    with torch.no_grad():
        logits = module(torch.from_numpy(test.inputs["image"]).float())["logits"]
    return float((logits.argmax(1).numpy() == test.targets["label"]).mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distilled_pruned_and_trained_in_three_bits_beats_pruned_and_rounded(chain, seed):
    """Rounding costs 4 to 16 points; training through it keeps every zero, and wins back most."""
    stage = chain(seed)
    model = {"type": "convnet", "convs": 1}
    teacher = stage({"type": "train", "model": {**model, "widths": [16, 32, 64]}, "training": {**FLOAT, "epochs": 4}})
    taught = {"teacher": "teacher"}
    settings = {"type": "distill", "model": {**model, "widths": [8, 16, 32]}, "training": {**FLOAT, "epochs": 4}, **taught}
    student = stage(settings, teacher=teacher)
    tuning = {**TUNING, "precision": "float32"}
    settings = {"type": "sparsify", "ratio": 0.7, "gradual": {"end": 1}, "training": tuning, **taught}
    sparse = stage(settings, start=student, teacher=teacher)
    rounded = stage({"type": "quantize", "quantizer": THREE_BITS}, Program, start=sparse)
    settings = {"type": "quantize_aware", "quantizer": THREE_BITS, "ranges": "learned", "training": TUNING, **taught}
    trained = stage(settings, Program, start=sparse, teacher=teacher)
    before, after = (masks_of(restore.checkpoint(artifact).edits) for artifact in (sparse, trained))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    state = restore.program(trained).state_dict().values()
    codes = {tuple(tensor.shape): tensor for tensor in state if tensor.dtype == torch.int8}
    for mask in before.values():
        integers = codes[tuple(mask.shape)]
        assert not integers[~mask].any()
        assert len(integers.unique()) <= 7
    scores = [accuracy(restore.runnable(artifact)) for artifact in (sparse, rounded, trained)]
    print(f"\nseed {seed}: masked, rounded after training, trained with the rounding: {scores}")
    assert scores[1] < scores[0] - 0.03, scores
    assert scores[2] > scores[1] + (scores[0] - scores[1]) / 2, scores


def test_a_quantised_model_teaches_as_well_as_the_float_one(chain):
    """By its outputs alone: the students see no labels. As a program of PyTorch, and as a file."""
    stage = chain(0)
    model = {"type": "convnet", "convs": 1}
    teacher = stage({"type": "train", "model": {**model, "widths": [16, 32, 64]}, "training": {**FLOAT, "epochs": 4}})
    program = stage({"type": "quantize", "samples": 256}, Program, start=teacher)
    file = stage("export", OnnxModel, start=program)
    settings = {
        "type": "distill", "teacher": "t", "losses": ["soft_targets"], "model": {**model, "widths": [8, 16, 32]},
        "training": {**FLOAT, "epochs": 4},
    }  # fmt: skip
    scores = [accuracy(restore.runnable(stage(settings, teacher=source))) for source in (teacher, program, file)]
    print(f"\nstudents of the float model, of its integers, of their file: {scores}")
    assert min(scores) > 0.7, scores
    assert max(scores) - min(scores) < 0.03, scores
