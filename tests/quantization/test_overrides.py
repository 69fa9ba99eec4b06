"""Bits of layers by their names."""

import pytest
from pydantic import ValidationError

from compress_cli.errors import RecipeError
from compress_cli.quantization import overrides
from compress_cli.quantization.overrides import Override, Widths
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.settings import complaints

DEFAULT = Widths(8, 8)


def test_the_last_pattern_that_fits_counts():
    chosen = (
        Override(layers="layer1.*", weights=4),
        Override(layers="*.conv2", weights="float"),
        Override(layers="fc", activations=4),
    )
    assert overrides.widths(chosen, "layer1.0.conv1", DEFAULT) == Widths(4, 8)
    assert overrides.widths(chosen, "layer1.0.conv2", DEFAULT) == Widths(None, 8)
    assert overrides.widths(chosen, "fc", DEFAULT) == Widths(8, 4)
    assert overrides.widths(chosen, "layer2.conv1", DEFAULT) == DEFAULT


def test_a_pattern_that_fits_no_layer_is_the_recipes_mistake():
    with pytest.raises(RecipeError, match=r"overrides\[1\]: no layer is called 'layer9'; did you mean 'layer1'") as caught:
        overrides.check((Override(layers="*", weights=4), Override(layers="layer9", weights=4)), ["layer1", "fc"])
    assert caught.value.exit_code == 2


def test_a_pattern_that_says_nothing_is_a_mistake():
    with pytest.raises(RecipeError, match="says neither weights nor activations"):
        overrides.check((Override(layers="fc"),), ["fc"])


@pytest.mark.parametrize(
    ("quantizer", "settings", "message"),
    [
        ("static_int8", {"weights": 16}, "have 2 to 8 bits .got 16."),
        ("static_int8", {"activations": 12}, "activations of 'static_int8' have 2 to 8 bits"),
        ("ternary", {"weights": 4}, "have 2 to 2 bits"),
        ("codebook", {"activations": 8}, "leaves all activations float"),
        ("linear", {"weights": 1}, "greater than or equal to 2"),
        ("linear", {"weights": 17}, "less than or equal to 16"),
        ("linear", {"weights": "double"}, "float"),
    ],
)
def test_bits_out_of_range_are_refused_with_those_that_would_do(quantizer, settings, message):
    with pytest.raises(ValidationError, match=message):
        Quantizer.model_validate({"type": quantizer, "overrides": [{"layers": "fc", **settings}]})


@pytest.mark.parametrize(
    ("weights", "reason"),
    [(1, "must be greater than or equal to 2 (got 1)"), ("flaot", "must be a whole number (got 'flaot')")],
)
def test_what_is_neither_bits_nor_float_is_told_once(weights, reason):
    with pytest.raises(ValidationError) as caught:
        Override.model_validate({"layers": "*", "weights": weights})
    assert complaints(caught.value) == [(("weights",), f"must be 'float', or {reason}")]
