"""Quantised layers in the report: a table, what stays float, and how the worst layers lie on their grids."""

import numpy as np
import pytest

from compress_cli.measurement.profile import FloatPart
from compress_cli.quantization import distributions, grids
from compress_cli.quantization.histogram import Histogram
from compress_cli.report import Row, collect, page, quantisation
from compress_cli.report import figures as write
from tests.report.test_page import behind, made, read

LAYERS = [
    {"layer": "conv1", "operator": "Conv", "weights": 72, "weight_bits": 8, "weight_range": [-1.5, 1.25], "bytes": 104,
     "weight_clipped": 0.0, "weight_sqnr_db": 41.2, "activation_bits": 8, "activation_range": [0.0, 255.0],
     "activation_clipped": 0.0123},
    {"layer": "fc<b>", "operator": "Gemm", "weights": 40, "weight_bits": 32, "weight_range": [-1.0, 1.0], "bytes": 160},
]  # fmt: skip
FLOAT = [
    FloatPart(name="fc.weight", operator="Gemm", time_share=0.25, bytes_share=0.6),
    FloatPart(name="v7", operator="Sub", time_share=0.05, bytes_share=0.0),
]


def test_each_layer_has_a_line_and_the_worst_are_drawn():
    weights = np.random.default_rng(0).normal(size=(8, 9)).astype(np.float32)
    drawn = [distributions.of_weights("conv1", weights, grids.linear(weights, 4, 0))]
    background = behind()
    background.facts["small"] |= {"layers": LAYERS, "distributions": drawn}
    report = made()
    report = report.model_copy(update={"rows": [report.rows[0], report.rows[1].model_copy(update={"floating": FLOAT})]})
    reader = read(page.render(report, background))
    text = " ".join(reader.words)
    for words in (
        "conv1",
        "-1.5 to 1.25",
        "41.2",
        "104",
        "0 to 255",
        "1.23",
        "fc<b>",
        "32",
        "conv1: weights, 15 values, 8 scales",
    ):
        assert words in text, words
    assert "float beside its integers: 30% of the time, 60% of the bytes; first of all fc.weight (Gemm), v7 (Sub)" in text
    levels = [value for name, value in reader.attributes if name == "class" and value == "level"]
    assert len(levels) == 15


@pytest.mark.parametrize("layers", [None, 7, {"a": 1}, [{"layer": "x"}], ["x"], [{"layer": "x", "weight_bits": None}]])
def test_layers_of_other_stages_are_no_quantised_ones(layers):
    assert quantisation.section(made(), {"small": {"layers": layers}}) == ""


def test_integers_that_are_no_faster_than_their_float_model_are_said(empty_run, right):
    """Against the model that it was made from, by the ratio of their speed-ups over the baseline: 2.1 of 2.0, 2.5 of 2.0."""
    empty_run.add("teacher", right(20), size=10_000)
    empty_run.add("slow", right(20), speedup=(0.9, 1.01, 1.1), floating=[])
    empty_run.add("quick", right(20), speedup=(2.4, 2.5, 2.6), floating=FLOAT)
    empty_run.add("float", right(20), speedup=(0.5, 0.6, 0.7))
    notes = {row.name: row.note for row in collect(empty_run.record()).rows}
    assert "its integers are no faster than the float model 'teacher' on this machine: 1.01x" in notes["slow"]
    assert "no faster than the float model" not in notes["quick"] + notes["float"] + notes["teacher"]


def test_a_file_all_in_integers_has_no_float_part_to_name():
    bare = {"stage": "x", "key": "k", "cached": False, "wall_time_s": 0.0}
    assert write.floating(Row(name="whole", floating=[], **bare)) == ""
    assert write.floating(Row(name="float", **bare)) == ""


def test_shares_and_grids_by_hand():
    weights = np.array([[-1.0, -0.4, 0.1, 0.9, 0.8, 0.0, 0.0, 1.0]], np.float32)
    told = distributions.of_weights("a", weights, grids.linear(weights, 2, None, clip=False))
    assert told["edges"] == [-1.0, 1.0]
    assert told["grid"] == {"low": -1.0, "high": 1.0, "count": 3}
    assert sum(told["shares"]) == pytest.approx(1)
    assert told["shares"][0] == pytest.approx(1 / 8)
    assert told["shares"][-1] == pytest.approx(1 / 8)
    uneven = grids.Coded(np.array([[0, 1, 2]], np.uint8), 2, np.ones(()), np.array([-1.0, 0.1, 2.0], np.float32))
    told = distributions.of_weights("b", np.array([[-1.0, 0.0, 2.0]], np.float32), uneven)
    assert told["grid"] == {"values": [-1.0, 0.1, 2.0]}
    histogram = Histogram()
    histogram.add(np.linspace(0, 1, 1001, dtype=np.float32))
    told = distributions.of_activations("a", histogram, (0.0, 0.5), 8, factor=2.0)
    assert told["grid"] == {"low": 0.0, "high": 1.0, "count": 256}
    assert told["edges"][1] == pytest.approx(2.0, abs=0.01)
    assert sum(told["shares"]) == pytest.approx(1, abs=1e-3)


def test_the_worst_layers_are_those_with_the_least_signal_over_noise():
    facts = [{"layer": name, "weight_sqnr_db": ratio} for name, ratio in (("a", 30.0), ("b", None), ("c", 10.0), ("d", 20.0))]
    assert distributions.worst(facts, 2) == ["c", "d"]
