"""Augmentations against one image at a time."""

import numpy as np
import pytest
import torch

from compress_cli.randomness import draws
from compress_cli.training.augmentations.crop import Crop
from compress_cli.training.augmentations.cutout import Cutout
from compress_cli.training.augmentations.flip import Flip

IMAGES = np.random.default_rng(0).integers(1, 255, (60, 3, 7, 5)).astype(np.float32)
DRAWS = draws(0, 1, np.arange(60), 2)


def changed(augmentation, numbers=DRAWS):
    given = torch.from_numpy(IMAGES.copy())
    made = augmentation(given, torch.from_numpy(numbers[:, : augmentation.draws])).numpy()
    np.testing.assert_array_equal(given.numpy(), IMAGES)  # a batch that lies in memory for good is not written to
    return made


def test_crop_is_a_window_of_the_padded_image():
    made, corners = changed(Crop(padding=2)), set()
    for image, new, (u, v) in zip(IMAGES, made, DRAWS, strict=True):
        top, left = int(u * 5), int(v * 5)
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        np.testing.assert_array_equal(new, padded[:, top : top + 7, left : left + 5])
        corners.add((top, left))
    assert {each[0] for each in corners} == {each[1] for each in corners} == {0, 1, 2, 3, 4}


def test_the_last_number_before_one_stays_inside():
    made = changed(Crop(padding=4), np.full_like(DRAWS, 1 - 2**-20))
    for image, new in zip(IMAGES, made, strict=True):
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
        np.testing.assert_array_equal(new, padded[:, 8:, 8:])  # the corner farthest down and right


def test_flip_mirrors_some():
    made = changed(Flip())
    for image, new, (u, _) in zip(IMAGES, made, DRAWS, strict=True):
        np.testing.assert_array_equal(new, image[:, :, ::-1] if u < 0.5 else image)
    assert 15 <= sum(u < 0.5 for u, _ in DRAWS) <= 45
    np.testing.assert_array_equal(changed(Flip(probability=0.0)), IMAGES)
    np.testing.assert_array_equal(changed(Flip(probability=1.0)), IMAGES[..., ::-1])


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_makes_one_square_hole(size):
    made = changed(Cutout(size=size))
    for image, new, (u, v) in zip(IMAGES, made, DRAWS, strict=True):
        expected = image.copy()
        top, left = int(u * 7) - size // 2, int(v * 5) - size // 2
        expected[:, max(0, top) : top + size, max(0, left) : left + size] = 0
        np.testing.assert_array_equal(new, expected)
