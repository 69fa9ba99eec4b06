"""Figures for benchmark actions: one direction a list, with intervals."""

import json
from pathlib import Path

import pytest

from compress_cli.report import benchmark
from compress_cli.report.document import Report, Row
from compress_cli.statistics.intervals import Estimate


def report():
    metrics = {"accuracy": Estimate(value=0.975, low=0.96, high=0.99, samples=200), "perplexity": estimate(3.5, 3.0, 4.0)}
    row = Row(
        name="int8", stage="quantize", key="0", cached=False, wall_time_s=1.0, size_bytes=4000, macs=7, metrics=metrics,
        compression_ratio=4.5, speedup=estimate(2.0, 1.5, 2.5),
    )  # fmt: skip
    directions = {"accuracy": "higher", "perplexity": "lower"}
    return Report(
        recipe="r", seed=0, baseline="", primary="accuracy", directions=directions, split="test", samples=200, rows=[row],
        machine={}, wall_time_s=1.0,
    )  # fmt: skip


def estimate(value, low, high):
    return Estimate(value=value, low=low, high=high, samples=200)


def test_each_figure_stands_in_the_list_of_its_direction():
    smaller, bigger = ({entry["name"]: entry for entry in benchmark.entries(report(), way)} for way in ("smaller", "bigger"))
    assert {name: entry["value"] for name, entry in smaller.items()} == {
        "r/int8: size": 4000,
        "r/int8: multiply-accumulates": 7,
        "r/int8: perplexity": 3.5,
    }
    assert smaller["r/int8: perplexity"]["range"] == "[3, 4]"
    assert {name: entry["value"] for name, entry in bigger.items()} == {
        "r/int8: compression ratio": 4.5,
        "r/int8: speed-up": 2.0,
        "r/int8: accuracy": 97.5,
    }
    assert (bigger["r/int8: accuracy"]["unit"], bigger["r/int8: accuracy"]["range"]) == ("%", "[96, 99]")


def test_the_command_prints_only_the_list(compress, tmp_path):
    (tmp_path / "r.yaml").write_text(
        "dataset: digits\nstages: [{type: train, model: mlp, training: {epochs: 1, precision: float32}}]\n"
    )
    assert compress("run", "r.yaml").code == 0
    outcome = compress("report", "runs/r", "--benchmark-json", "bigger")
    known = json.loads(Path("runs/r/report.json").read_text())["rows"][0]["metrics"]["accuracy"]["value"]
    assert [(entry["name"], entry["value"]) for entry in json.loads(outcome.out)] == [
        ("r/train: accuracy", pytest.approx(100 * known))
    ]
    wrong = compress("report", "runs/r", "--benchmark-json", "larger")
    assert wrong.code == 2
    assert "not one of 'smaller', 'bigger'" in wrong.err
