import pytest
import torch

from compress_cli.errors import RecipeError


def test_size_is_that_of_deep_compression(parameters):
    """Table 4 of Han et al.: conv1 0.5K, conv2 25K, ip1 400K, ip2 5K, in all 431K."""
    assert parameters("lenet", channels=1, pixels=28, classes=10) == 520 + 25_050 + 400_500 + 5_010 == 431_080


def test_too_few_pixels_are_refused_with_the_size_that_is_needed(network):
    assert network("lenet", pixels=16).eval()(torch.rand(2, 3, 16, 16))["label"].shape == (2, 100)
    with pytest.raises(RecipeError, match="needs 16 x 16 pixels, not 15 x 15"):
        network("lenet", pixels=15)


def test_weights_start_with_a_variance_of_one_over_the_inputs(network):
    weight = network("lenet", channels=1, pixels=28, classes=10).body.fc1.weight
    assert weight.var().item() == pytest.approx(1 / 800, rel=0.05)
