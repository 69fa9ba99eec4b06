"""The moving average against its recurrence."""

import pytest
import torch
from torch import nn

from compress_cli.training.averaging import Average, decay
from compress_cli.training.config import TrainingConfig


def test_weights_and_statistics_follow_the_recurrence():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = Average(network, 0.5)
    expected = {name: each.clone().double() for name, each in network.state_dict().items()}
    for update in range(1, 12):
        network(torch.randn(8, 3))  # moves the statistics
        with torch.no_grad():
            for each in network.parameters():
                each.add_(torch.randn_like(each))
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        for name, each in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * each.double()
    for name, each in average.network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert each == 11
        else:
            torch.testing.assert_close(each.double(), expected[name])
    assert not average.network.training


@pytest.mark.parametrize(("steps", "expected"), [(1000, 1 - 1 / 50), (20_000_000, 0.9999), (10, 0.5), (1, 0.5)])
def test_auto_looks_back_over_a_twentieth_of_the_training(steps, expected):
    """After `1 / (1 - decay)` updates a weight's share has fallen to 1 / e, nearly."""
    assert decay("auto", steps) == pytest.approx(expected)
    assert decay(0.99, steps) == 0.99


@pytest.mark.parametrize("setting", [0, 1, True, "automatic", -0.1])
def test_decays_that_are_none(setting):
    with pytest.raises(ValueError, match="ema"):
        TrainingConfig.model_validate({"epochs": 1, "ema": setting})
