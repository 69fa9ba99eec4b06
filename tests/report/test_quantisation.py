"""Quantised layers in the report: a table, what stays float, and how the worst layers lie on their grids."""

import json

import numpy as np
import pytest

from compress_cli.measurement.profile import FloatPart
from compress_cli.quantization import distributions, grids
from compress_cli.quantization.histogram import Histogram
from compress_cli.report import Row, collect, markdown, page, quantisation
from compress_cli.report import figures as write
from compress_cli.report.layers import quantised_layers
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
    background.facts["small"] |= {"distributions": drawn}
    report = made()
    small = report.rows[1].model_copy(update={"floating": FLOAT, "layers": quantised_layers({"layers": LAYERS})})
    report = report.model_copy(update={"rows": [report.rows[0], small]})
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


def test_each_layer_stands_in_the_document_and_the_worst_in_markdown(empty_run, right):
    """Of a program, whose file another stage wrote: one row, with the layers of the first."""
    two = [*LAYERS[:1], {**LAYERS[0], "layer": "conv2", "weight_bits": 4, "weight_sqnr_db": 12.3, "weight_clipped": 0.25}]
    empty_run.add("float", right(20), size=10_000)
    empty_run.add("int8", right(20), content="same", facts={"layers": [*two, LAYERS[1]]})
    empty_run.add("onnx", right(20), content="same")
    report = collect(empty_run.record())
    document = json.loads(report.model_dump_json())["rows"][1]["layers"]
    assert [entry["layer"] for entry in document] == ["conv1", "conv2", "fc<b>"]
    for entry, noted in zip(document, (*two, LAYERS[1]), strict=True):
        assert noted.items() <= entry.items()
    lines = [line for line in markdown.render(report).splitlines() if "12.3 (conv2)" in line]
    cells = ["int8 = onnx", "3", "float: 1, 8: 1, 4: 1", "368", "12.3 (conv2)", "25.00 (conv2)", "1.23 (conv1)"]
    assert lines == ["| " + " | ".join(cells) + " |"]


@pytest.mark.parametrize("layers", [None, 7, {"a": 1}, [{"layer": "x"}], ["x"], [{"layer": "x", "weight_bits": None}]])
def test_layers_of_other_stages_are_no_quantised_ones(layers):
    assert quantised_layers({"layers": layers}) == []
    assert quantisation.section(made(), {}) == ""


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
