"""Data that tests of stages share."""

import numpy as np
import pytest


@pytest.fixture
def things(tmp_path):
    """300 things of 3 shapes and 2 colours, as pictures and as depths, in `data.npz`; the arrays.

    Rows of a picture say nothing of its colour, channels nothing of its shape; a depth shows the shape alone.
    """
    random = np.random.default_rng(0)
    shape, colour = np.arange(300) % 3, np.arange(300) // 3 % 2
    picture = random.integers(0, 60, (300, 2, 6, 6))
    depth = random.normal(0, 0.3, (300, 6, 6)).astype(np.float32)
    for each in range(3):
        picture[shape == each, :, :, 2 * each : 2 * each + 2] += 60
        depth[shape == each, 2 * each : 2 * each + 2] += 1
    for each in range(2):
        picture[colour == each, each] += 100
    arrays = {"picture": picture.astype(np.uint8), "depth": depth, "shape": shape, "colour": colour}
    np.savez(tmp_path / "data.npz", **arrays)
    return arrays
