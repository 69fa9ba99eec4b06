"""Axes that can be read."""

import pytest

from compress_cli.report.plots import Axis


def test_labels_are_round_numbers_and_all_different():
    axis = Axis("latency", 0.0650, 0.0668, 0, 100, lambda value: f"{value:.2g} ms")
    assert [axis.label(tick) for tick in axis.ticks()] == ["0.065 ms", "0.066 ms"]
    assert axis.ticks() == pytest.approx([0.065, 0.066]), "at the places they are labelled with"
    wide = Axis("accuracy", 8.0, 26.0, 0, 100, lambda value: f"{value:.1f}")
    assert [wide.label(tick) for tick in wide.ticks()] == ["10.0", "15.0", "20.0", "25.0"]
