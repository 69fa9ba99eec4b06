"""Moving averages of weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """A moving average of weights and of normalisation statistics, as a network of its own (Polyak & Juditsky 1992).

    The decay rises as (1 + n) / (10 + n) to what is asked for, so that the first weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.network, self.decay, self.updates = copy.deepcopy(network).eval().requires_grad_(False), decay, 0
        own, given = (list(each.state_dict().values()) for each in (self.network, network))  # in the networks' memory
        floating = [each.is_floating_point() for each in own]
        self._own = [each for each, is_float in zip(own, floating, strict=True) if is_float]
        self._given = [each for each, is_float in zip(given, floating, strict=True) if is_float]
        self._counted = [pair for pair, is_float in zip(zip(own, given, strict=True), floating, strict=True) if not is_float]

    def update(self) -> None:
        """Move towards the network's weights as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._own, self._given, 1 - decay)
        for own, given in self._counted:
            own.copy_(given)
