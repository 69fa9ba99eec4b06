"""The moving average against its recurrence."""

import torch
from torch import nn

from compress_cli.training.averaging import Average


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
