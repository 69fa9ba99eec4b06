"""The importance of a model's channels, by a criterion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.batch import from_arrays
from compress_cli.data.datasets import Split
from compress_cli.errors import StageError
from compress_cli.losses import Loss
from compress_cli.networks import features
from compress_cli.networks.models import Network
from compress_cli.pruning.channels import Group
from compress_cli.pruning.criteria import Criterion
from compress_cli.training.objective import hard_losses

BATCH, BATCHES = 64, 16  # how many training samples a criterion that needs gradients sees


def scores(criterion: Criterion, groups: Sequence[Group], network: Network, context: Context) -> list[Tensor]:
    """The importance of each group's channels, averaged over training batches where the criterion needs gradients.

    The samples are drawn by seed and sample id.
    """
    if not criterion.gradients:
        return [criterion(group, {}) for group in groups]
    losses = hard_losses(context.task, network.signature.heads)
    sums, batches = [torch.zeros(group.channels) for group in groups], 0
    for part in samples.parts(samples.drawn(context.split("train", BATCH), BATCH * BATCHES, context.seed), BATCH):
        gradients = _gradients(network, losses, part)
        sums = [total + criterion(group, gradients) for total, group in zip(sums, groups, strict=True)]
        batches += 1
    return [total / batches for total in sums]


def lowest(score: Tensor, kept: int) -> Tensor:
    """The numbers of the channels to remove, ascending: those that score lowest, of equal ones the first."""
    if not score.isfinite().all():
        raise StageError("a channel's importance is not a number: the criterion, or a gradient, gives NaN or infinity")
    return score.argsort(stable=True)[: len(score) - kept].sort().values


def _gradients(network: Network, losses: tuple[Loss, ...], part: Split) -> dict[str, Tensor]:
    """Parameter name in the body -> gradient of the losses on some samples."""
    parameters = dict(network.body.named_parameters(remove_duplicate=False))
    batch = from_arrays(part.inputs, part.targets, part.index)
    outputs = features.outputs(network, network.signature, batch, (), {})
    loss = torch.stack([loss(outputs, (), batch, nn.Identity()) for loss in losses]).sum()
    gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))
