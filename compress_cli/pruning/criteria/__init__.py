"""Criteria: how much a channel matters. The lowest go first."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from compress_cli.plugin import Plugin
from compress_cli.pruning.channels import Group


class Criterion(Plugin):
    """Scores the channels of a group of layers that are cut together."""

    gradients: ClassVar[bool] = False
    """Whether it reads gradients of the task's loss; it is then called once for each of some training batches, and its
    scores are averaged."""

    @abstractmethod
    def __call__(self, group: Group, gradients: dict[str, Tensor]) -> Tensor:
        """(channels,): the importance of each channel of the group; gradients by parameter name, empty if not asked for."""
