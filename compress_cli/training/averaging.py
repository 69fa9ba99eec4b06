"""Moving averages of weights."""

from __future__ import annotations

import copy
from typing import Literal

import torch

from compress_cli.networks.models import Network

WINDOW = 0.05
"""Share of all steps that `auto` looks back over. Measured with three seeds: on digits after a constant rate +0.6 points; after
a cosine, on digits and on 4000 pictures of Fashion-MNIST, -0.3 to +0.3, within the spread of the seeds."""
SLOWEST = 0.9999


def decay(setting: float | Literal["auto"], steps: int) -> float:
    """The decay of an average: as set, or such that its time constant is a share of a training of so many steps."""
    return min(SLOWEST, 1 - 1 / max(2.0, WINDOW * steps)) if setting == "auto" else setting


class Average:
    """A moving average of weights and of normalisation statistics, as a network of its own (Polyak & Juditsky 1992).

    The decay rises as (1 + n) / (10 + n) to `decay`, so that the first weights are soon forgotten.
    """

    def __init__(self, network: Network, decay: float):
        self.network, self.decay, self.updates = copy.deepcopy(network).eval().requires_grad_(False), decay, 0
        averages, weights = self.network.state_dict().values(), network.state_dict().values()  # in the networks' memory
        pairs = list(zip(averages, weights, strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._weights = [weight for _, weight in pairs if weight.is_floating_point()]
        self._counters = [(average, weight) for average, weight in pairs if not average.is_floating_point()]

    def update(self) -> None:
        """Move towards the network's weights as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        for average, weight in self._counters:
            average.copy_(weight)
