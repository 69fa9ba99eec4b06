"""Data that tests of stages share."""

import numpy as np
import pytest

from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.store.artifact import Checkpoint, Draft


@pytest.fixture
def things(tmp_path):
    """300 things of 3 shapes and 2 colours, as pictures and as depths, in `data.npz`; the arrays.

    Rows of a picture say nothing of its colour, channels nothing of its shape; a depth shows the shape alone.
    """
    random = np.random.default_rng(0)
    shape, colour = np.arange(300) % 3, np.arange(300) // 3 % 2
    picture = random.integers(0, 60, (300, 2, 6, 6))
    depth = random.normal(0, 0.3, (300, 6, 6)).astype(np.float32)
    for kind in range(3):
        picture[shape == kind, :, :, 2 * kind : 2 * kind + 2] += 60
        depth[shape == kind, 2 * kind : 2 * kind + 2] += 1
    for kind in range(2):
        picture[colour == kind, kind] += 100
    arrays = {"picture": picture.astype(np.uint8), "depth": depth, "shape": shape, "colour": colour}
    np.savez(tmp_path / "data.npz", **arrays)
    return arrays


@pytest.fixture
def perform():
    """perform(stage, context, kind) -> the stage's result, committed in the context's output folder."""

    def _perform(stage, context, kind=Checkpoint):
        facts = stage.run(context)
        return Draft(kind, "k", stage.model_dump(mode="json"), facts).commit(context.output)

    return _perform


@pytest.fixture
def lively_teacher(toy, tmp_path, lively):
    """lively_teacher(widths) -> a committed checkpoint of a convnet whose weights are all far from 0."""

    def _teacher(widths):
        folder = tmp_path / "teacher"
        folder.mkdir()
        restored = restore.build(Convnet(widths=widths, convs=1), toy().signature(), 3)
        lively(restored.network.body)
        restore.save(restored, folder)
        return Draft(Checkpoint, "t", {}).commit(folder)

    return _teacher
