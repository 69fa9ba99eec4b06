"""Disturbed pictures against their definitions, worked out by other means."""

import numpy as np
import pytest

from compress_cli.stages._corruptions import BLUR, CONTRAST, NOISE, corrupted


def pictures(samples=6, channels=3, size=32):
    return np.random.default_rng(0).integers(0, 256, (samples, channels, size, size)).astype(np.uint8)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_has_the_deviation_it_says(severity):
    grey = np.full((40, 1, 32, 32), 128, np.uint8)
    noise = corrupted(grey, "noise", severity, np.arange(40), 0).astype(float) - 128
    assert noise.std() == pytest.approx(255 * NOISE[severity - 1], rel=0.02)
    assert abs(noise.mean()) < 0.5
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.15
    assert (abs(noise) < noise.std()).mean() == pytest.approx(0.683, abs=0.02)  # normal; uniform would be 0.577


def test_noise_is_a_function_of_seed_and_sample():
    images, index = pictures(), np.array([7, 3, 9, 1, 4, 2])
    whole = corrupted(images, "noise", 3, index, 5)
    np.testing.assert_array_equal(whole[[4, 0]], corrupted(images[[4, 0]], "noise", 3, index[[4, 0]], 5))
    assert (whole != corrupted(images, "noise", 3, index, 6)).any()


@pytest.mark.parametrize(("severity", "size"), [(1, 32), (5, 32), (5, 64), (1, 8)])
def test_blur_is_a_gaussian(severity, size):
    from scipy.ndimage import gaussian_filter

    images = pictures(2, 1, size)
    deviation = BLUR[severity - 1] * size / 32
    reach = int(np.ceil(3 * deviation))
    expected = [gaussian_filter(image[0].astype(float), deviation, mode="mirror", radius=reach) for image in images]
    blurred = corrupted(images, "blur", severity, np.arange(2), 0)
    np.testing.assert_allclose(blurred[:, 0], expected, atol=0.51)


def test_contrast_by_hand():
    image = np.array([[[[0, 100], [200, 100]]]], np.uint8)  # mean 100
    kept = CONTRAST[2]
    expected = [[100 - 100 * kept, 100], [100 + 100 * kept, 100]]
    np.testing.assert_array_equal(corrupted(image, "contrast", 3, np.arange(1), 0)[0, 0], np.rint(expected))


@pytest.mark.parametrize("kind", ["noise", "blur", "contrast"])
def test_more_severe_is_farther(kind):
    images = pictures()
    distances = [
        np.abs(corrupted(images, kind, severity, np.arange(6), 0).astype(int) - images).mean() for severity in range(1, 6)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.9 * distances[4]
    assert corrupted(images, kind, 1, np.arange(6), 0).dtype == np.uint8


def test_a_picture_of_one_pixel_has_nothing_to_blur():
    one = np.full((1, 1, 1, 1), 9, np.uint8)
    np.testing.assert_array_equal(corrupted(one, "blur", 5, np.arange(1), 0), one)
