"""Augmentations against one image at a time."""

import numpy as np
import pytest
import torch

from compress_cli.data.batch import Batch, Labels
from compress_cli.data.datasets import Split
from compress_cli.errors import RecipeError
from compress_cli.identity import identity
from compress_cli.randomness import draws
from compress_cli.training import augmentations
from compress_cli.training.augmentations.crop import Crop
from compress_cli.training.augmentations.cutout import Cutout
from compress_cli.training.augmentations.flip import Flip
from compress_cli.training.loader import Augmenter, Loader
from compress_cli.training.pool import SamplePool

IMAGES = np.random.default_rng(0).integers(1, 255, (60, 3, 7, 5)).astype(np.float32)
DRAWS = draws(0, 1, np.arange(60), 2)


def changed(augmentation, numbers=DRAWS):
    images = torch.from_numpy(IMAGES.copy())
    result = augmentation(images, torch.from_numpy(numbers[:, : augmentation.draws])).numpy()
    np.testing.assert_array_equal(images.numpy(), IMAGES)  # a batch that stays in memory is not written to
    return result


def test_crop_is_a_window_of_the_padded_image():
    result, corners = changed(Crop(padding=2)), set()
    for image, new, (u, v) in zip(IMAGES, result, DRAWS, strict=True):
        top, left = int(u * 5), int(v * 5)
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        np.testing.assert_array_equal(new, padded[:, top : top + 7, left : left + 5])
        corners.add((top, left))
    assert {top for top, _ in corners} == {left for _, left in corners} == {0, 1, 2, 3, 4}


def test_the_last_number_before_one_stays_inside():
    result = changed(Crop(padding=4), np.full_like(DRAWS, 1 - 2**-20))
    for image, new in zip(IMAGES, result, strict=True):
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
        np.testing.assert_array_equal(new, padded[:, 8:, 8:])  # the corner farthest down and right


def test_flip_mirrors_some():
    result = changed(Flip())
    for image, new, (u, _) in zip(IMAGES, result, DRAWS, strict=True):
        np.testing.assert_array_equal(new, image[:, :, ::-1] if u < 0.5 else image)
    assert 15 <= sum(u < 0.5 for u, _ in DRAWS) <= 45
    np.testing.assert_array_equal(changed(Flip(probability=0.0)), IMAGES)
    np.testing.assert_array_equal(changed(Flip(probability=1.0)), IMAGES[..., ::-1])


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_makes_one_square_hole(size):
    result = changed(Cutout(size=size))
    for image, new, (u, v) in zip(IMAGES, result, DRAWS, strict=True):
        expected = image.copy()
        top, left = int(u * 7) - size // 2, int(v * 5) - size // 2
        expected[:, max(0, top) : top + size, max(0, left) : left + size] = 0
        np.testing.assert_array_equal(new, expected)


CLASSES = np.random.default_rng(1).integers(0, 9, (60, 7, 5))
ALL = (Crop(padding=2), Flip(), Cutout(size=3))
NUMBERS = torch.from_numpy(draws(0, 1, np.arange(60), 5))


def batch(inputs=None, **targets):
    tensors = {name: torch.from_numpy(np.asarray(target)) for name, target in targets.items()}
    images = {"image": torch.from_numpy(IMAGES), **{name: torch.from_numpy(array) for name, array in (inputs or {}).items()}}
    return Batch(images, tensors, torch.arange(60))


def moved(mask, numbers, pad):
    """A mask (H, W) cut out of the padded one and mirrored, by numbers drawn for one sample."""
    top, left = int(numbers[0] * 5), int(numbers[1] * 5)
    window = np.pad(mask, 2, constant_values=pad)[top : top + 7, left : left + 5]
    return window[:, ::-1] if numbers[2] < 0.5 else window


def test_masks_move_with_the_pictures():
    """Every pixel of a picture that shows its own mask still does, and what came in from outside counts in no loss."""
    result = augmentations.apply(ALL, batch(label=np.arange(60), mask=CLASSES, layers=np.stack([CLASSES] * 2, 1)), NUMBERS)
    expected = np.stack([moved(mask, drawn, -100) for mask, drawn in zip(CLASSES, NUMBERS.numpy(), strict=True)])
    np.testing.assert_array_equal(result.targets["mask"], expected)
    np.testing.assert_array_equal(result.targets["layers"], np.stack([expected] * 2, 1))
    np.testing.assert_array_equal(result.targets["label"], np.arange(60))
    assert result.targets["mask"].dtype == torch.int64
    assert (expected == -100).any()


def test_a_hole_is_cut_into_pictures_and_not_into_masks():
    result = augmentations.apply((Cutout(size=3),), batch(mask=CLASSES), NUMBERS[:, :2])
    np.testing.assert_array_equal(result.targets["mask"], CLASSES)
    assert (result.inputs["image"] == 0).any()


def test_an_input_that_says_which_pixels_count_moves_too():
    counts = (CLASSES > 4).astype(np.float32)
    result = augmentations.apply(ALL, batch({"counts": counts, "row": counts[:, 0]}), NUMBERS)
    expected = np.stack([moved(mask, drawn, 0) for mask, drawn in zip(counts, NUMBERS.numpy(), strict=True)])
    np.testing.assert_array_equal(result.inputs["counts"], expected)
    np.testing.assert_array_equal(result.inputs["row"], counts[:, 0])


def test_masks_of_the_labelled_part_of_a_batch_move_by_the_numbers_of_their_sample():
    rows = torch.tensor([3, 11, 40])
    partly = Batch(
        {"image": torch.from_numpy(IMAGES)},
        {},
        torch.arange(60),
        labels=Labels(rows, {"mask": torch.from_numpy(CLASSES)[rows]}),
    )
    result = augmentations.apply(ALL, partly, NUMBERS)
    whole = augmentations.apply(ALL, batch(mask=CLASSES), NUMBERS)
    np.testing.assert_array_equal(result.labels.targets["mask"], whole.targets["mask"][rows])


def test_a_fixed_view_shows_pictures_and_masks_alike():
    split = Split({"image": np.stack([CLASSES] * 3, 1).astype(np.uint8)}, {"mask": CLASSES}, np.arange(60))
    loader = Loader(SamplePool(split, "cpu"), 16, Augmenter((Flip(),), views=2))
    for samples in loader.fixed(1, 16):
        np.testing.assert_array_equal(samples.inputs["image"][:, 0], samples.targets["mask"])


@pytest.mark.parametrize(
    ("augmentation", "target", "reason"),
    [
        (Flip(), np.zeros((60, 9, 4)), r"'t' \(N, 9, 4\) is no mask of the pictures' size, 7 x 5"),
        (Flip(), np.zeros((60, 14, 10), int), "is no mask of the pictures' size"),
        (Flip(), np.full((60, 4), 7.5), "may hold positions, such as a box"),
        (Crop(), np.zeros((60, 7, 5), np.float32), "is a mask of float32, for whose padding there is no value"),
    ],
)
def test_targets_that_can_not_move_are_refused(augmentation, target, reason):
    images = {"image": IMAGES}
    with pytest.raises(RecipeError, match=reason) as error:
        augmentations.check((augmentation,), images, {"t": target})
    assert "unmoved: [t]" in str(error.value)
    left = augmentation.model_copy(update={"unmoved": ("t",)})
    augmentations.check((left, Cutout()), images, {"t": target})
    result = augmentations.apply((left,), batch(t=target), NUMBERS[:, : left.draws])
    np.testing.assert_array_equal(result.targets["t"], target)


@pytest.mark.parametrize("target", [np.arange(60), np.linspace(0, 1, 60), np.eye(60), np.zeros((60, 1)), CLASSES])
def test_targets_without_positions_and_masks_are_taken(target):
    augmentations.check(ALL, {"image": IMAGES}, {"t": target})


def test_there_must_be_pictures():
    with pytest.raises(RecipeError, match="the dataset has no such input"):
        augmentations.check((Cutout(),), {"row": np.zeros((60, 3))}, {})


def test_a_setting_that_is_not_used_changes_no_key():
    assert "unmoved" not in identity(Flip())
    assert "unmoved" in identity(Flip(unmoved=("box",)))
