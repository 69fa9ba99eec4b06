"""Criteria: how much a channel matters. The lowest go first."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from compress_cli.plugin import Plugin
from compress_cli.pruning.channels import Group

Reads = Literal["weights", "gradients", "activations"]


class Criterion(Plugin):
    """Scores the channels of a group of layers that are cut together."""

    reads: ClassVar[Reads] = "weights"
    """What it reads besides weights. Gradients are those of the task's loss, by parameter; activations are what the layers
    that read channels take, by layer, (N, channels, ...) or (N, ..., channels) as the layer has them. A criterion that reads
    either is called once for each of some training batches, and its scores are averaged, or their largest taken."""
    batch: ClassVar[int] = 64
    """Samples of such a batch."""
    over_batches: ClassVar[Literal["mean", "max"]] = "mean"
    """How the scores of several batches become one."""
    foretells: ClassVar[str] = ""
    """What `errors` are, in a sentence or two for the report."""

    @abstractmethod
    def __call__(self, group: Group, evidence: Mapping[str, Tensor]) -> Tensor:
        """(channels,): the importance of each channel of the group; `evidence` holds what it reads, by name."""

    def step(self) -> float:
        """The rate of plain gradient descent between batches; 0 where the weights stay as they are meanwhile."""
        return 0.0

    def errors(self, group: Group, scores: Tensor, removed: Tensor, evidence: Mapping[str, Tensor]) -> dict[str, float]:
        """For the facts and the report: what the scores foretell of the removal of these channels, beside what `evidence` of
        other samples tells; {} where the scores foretell no error."""
        return {}
