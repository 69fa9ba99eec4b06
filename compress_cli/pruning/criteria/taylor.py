"""How much the loss would change without a channel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from compress_cli.pruning.channels import Group
from compress_cli.pruning.criteria import Criterion


class Taylor(Criterion):
    """Squared first-order change of the loss when the weights that make a channel become zero, (sum of g * w)^2, averaged
    over training batches (Molchanov et al. 2019, arXiv:1906.10771, the form with a gate)."""

    gradients: ClassVar[bool] = True

    def __call__(self, group: Group, gradients: dict[str, Tensor]) -> Tensor:
        makes = {part.name.rpartition(".")[0] for part in group.playing("makes")}
        own = [part for part in group.parts if part.name in gradients and part.name.rpartition(".")[0] in makes]
        terms = [(part.values * part.of(gradients[part.name])).sum(1) for part in own if part.role in ("makes", "other")]
        return torch.stack(terms).sum(0).square()
