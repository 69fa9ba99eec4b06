"""Masks of single weights that grow while a network, or its simulation in integers, is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch

from compress_cli.context import Context
from compress_cli.networks.edits.mask import masks_of
from compress_cli.networks.models import Network
from compress_cli.pruning.saliencies import Saliency
from compress_cli.pruning.weights import Masks
from compress_cli.quantization.trainable import TrainableGraph
from compress_cli.stages import _saliency
from compress_cli.stages._sparsity import Gradual, Targets
from compress_cli.training.attachment import Attachment
from compress_cli.training.sparsification import Growing, Moving, Ramp, Share


@dataclass(frozen=True)
class WeightMasks:
    """Which weights of a network are masked during a training, and when."""

    targets: Targets
    criterion: Saliency
    gradual: Gradual
    network: Network  # whose weights are scored
    context: Context

    def attach(self, trained: Network, steps: int) -> Attachment:
        """The masks as a part of the training of the network, or of a graph that was made from it."""
        masks, gradual, targets = masks_of(trained.edits), self.gradual, self.targets
        initial = max(gradual.initial, targets.sparsity(masks))
        ramp = Ramp.of_epochs(gradual.begin, gradual.end, gradual.every, initial, steps)
        weights = {name: trained.body.get_parameter(name) for name in targets.names}
        present = {name: masks.get(name, torch.ones(weight.shape, dtype=torch.bool)) for name, weight in weights.items()}
        if self.criterion.reads == "training":
            return Moving(weights, present, ramp, gradual.end, targets.select, self.criterion)
        return Growing(weights, present, ramp, gradual.end, partial(self._grow, trained))

    def _grow(self, trained: Network, masks: Masks, share: Share) -> Masks:
        if isinstance(trained, TrainableGraph):
            trained.give_weights(self.network)
        scores = _saliency.scores(self.criterion, self.targets.weights, self.network, self.context)
        present = {name: score.to(masks[name].device).masked_fill(~masks[name], -math.inf) for name, score in scores.items()}
        return self.targets.select(present, share)
