"""Graphs with an open batch axis, and refusals that say why."""

import logging

import pytest
import torch
from torch import nn

from compress_cli.errors import StageError
from compress_cli.quantization.tracing import quiet, trace


class Starred(nn.Module):
    def forward(self, *inputs):
        return {"sum": inputs[0] + inputs[1]}


class Branching(nn.Module):
    def forward(self, x):
        return {"y": x * 2 if x.sum() > 0 else x}


class Fixed(nn.Module):
    def forward(self, x):
        return {"y": x.reshape(2, -1)}


def test_any_number_of_samples_passes():
    graph = trace(Starred(), (torch.ones(2, 3), torch.ones(2, 3))).module()
    assert graph(torch.ones(7, 3), torch.ones(7, 3))["sum"].shape == (7, 3)
    again = trace(graph, (torch.ones(2, 3), torch.ones(2, 3))).module()  # a graph takes its inputs by name
    assert again(torch.ones(5, 3), torch.ones(5, 3))["sum"].shape == (5, 3)


@pytest.mark.parametrize("network", [Branching(), Fixed()])
def test_what_can_not_be_recorded_is_said(network, capfd):
    with pytest.raises(StageError, match=r"can't be recorded as a graph: .*must not branch on values or fix the batch size"):
        trace(network, (torch.ones(2, 3),))
    assert capfd.readouterr() == ("", "")


def test_quiet_lets_errors_through_and_puts_levels_back(caplog):
    logger = logging.getLogger("somebody")
    with quiet("somebody"):
        logger.warning("chatter")
        logger.error("trouble")
    logger.warning("heard")
    assert [record.message for record in caplog.records] == ["trouble", "heard"]
