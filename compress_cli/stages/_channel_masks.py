"""Channels that are masked one after the other while a network's simulation in integers is trained, and cut afterwards."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from compress_cli.context import Context
from compress_cli.networks import narrowing
from compress_cli.networks.edits.mask import Mask, masks_of
from compress_cli.networks.models import Network
from compress_cli.networks.narrowing import Cut
from compress_cli.networks.restore import Restored
from compress_cli.pruning import channels
from compress_cli.pruning import weights as selection
from compress_cli.pruning.channels import Group
from compress_cli.pruning.criteria import Criterion
from compress_cli.pruning.criteria.l2 import L2
from compress_cli.pruning.distributions import Distribution
from compress_cli.pruning.distributions.uniform import Uniform
from compress_cli.pruning.weights import Masks
from compress_cli.quantization.trainable import TrainableGraph
from compress_cli.settings import Many, Settings
from compress_cli.stages import _cuts, _importance
from compress_cli.stages._cuts import Keep, Share
from compress_cli.stages._pruning import Pruning, with_edits
from compress_cli.stages._sparsity import Gradual
from compress_cli.training.attachment import Attachment
from compress_cli.training.sparsification import Growing, Ramp
from compress_cli.training.sparsification import Share as ShareNow


class Channels(Settings):
    """Whole channels that go, as in `prune`."""

    ratio: Share | None = Field(None, description="share of channels removed; or give 'keep'")
    keep: Keep | None = Field(None, description="share of the macs or parameters that remains; or give 'ratio'")
    ratios: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        {}, description="pattern of layer names -> share of channels removed from them; the others follow 'ratio' or 'keep'"
    )
    distribution: Distribution = Field(Uniform(), description="how the cut is spread over the layers")
    criterion: Criterion = Field(L2(), description="which channels are removed first: those that score lowest")
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="round widths to multiples of this; auto: to 16 or 8 by the layer's width, to less below 16"
    )
    ignore: Many[str] = Field((), description="layers that are not cut; a name covers the layers inside it")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _cuts.check(self)
        if self.keep and (counted := self.keep.target[0]) not in ("macs", "parameters"):
            raise ValueError(f"keep.{counted}: is measured on files of a cut model, as 'prune' does; give macs or parameters")
        if self.distribution.curves:
            raise ValueError(f"distribution: '{self.distribution.type}' reads curves, which only 'prune' does; take another")
        return self


class ChannelMasks:
    """Which channels of a network are masked during a training, and when; how many is decided before it.

    A masked channel has no filter, and nothing reads it: the network computes as without it. Groups whose channels a
    normalisation compares, which sees masked ones too, stay whole.
    """

    def __init__(self, settings: Channels, gradual: Gradual, restored: Restored, context: Context):
        opened = narrowing.open_attention(restored.network.body)
        self._pruning = Pruning(settings, with_edits(restored, opened), context, masked=True)
        self._gradual = gradual
        kept = zip(self._pruning.groups, self._pruning.planned(), strict=True)
        self._shares = [1 - count / group.channels for group, count in kept]  # of each group, that goes in the end
        self._growing: _GrowingChannels | None = None

    @property
    def restored(self) -> Restored:
        """The network whose channels are scored, and cut in the end."""
        return self._pruning.restored

    def attach(self, trained: Network, steps: int) -> Attachment:
        """The masks as a part of the training of a graph that was made from the network."""
        gradual = self._gradual
        own = dict(self.restored.network.body.named_parameters(remove_duplicate=False))
        names = dict.fromkeys(part.name for group in self._pruning.groups for part in group.parts if part.name in own)
        weights = {name: trained.body.get_parameter(name) for name in names}
        whole = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
        ramp = Ramp.of_epochs(gradual.begin, gradual.end, gradual.every, gradual.initial, steps)
        self._growing = _GrowingChannels(weights, whole, ramp, gradual.end, partial(self._grow, trained))
        return self._growing

    def cut(self) -> Cut:
        """Cut the channels that the training has masked; what the cut leaves of tensors."""
        assert self._growing is not None, "nothing was trained"
        groups, removed = self._pruning.groups, self._masked(self._growing.masks())
        cut = narrowing.cut_of(self.restored.network.body, groups, removed)
        self._pruning.remove(removed)
        return cut

    def facts(self) -> dict[str, Any]:
        """For the manifest: what was cut, with the sparsity of what remains where an earlier stage had masked weights."""
        masks = masks_of(self.restored.network.edits)
        return self._pruning.facts() | ({"sparsity": selection.sparsity(masks)} if masks else {})

    def _grow(self, trained: Network, masks: Masks, share: ShareNow) -> Masks:
        assert isinstance(trained, TrainableGraph)
        trained.give_weights(self.restored.network)
        removed = []
        for group, final, score, gone in zip(
            self._pruning.groups, self._shares, self._pruning.importance(), self._masked(masks), strict=True
        ):
            count = max(len(gone), math.floor(share(final) * group.channels + 1e-6))
            score = score.index_fill(0, gone, -math.inf)
            removed.append(_importance.lowest(score, group.channels - count))
        present = {name: mask.cpu() for name, mask in masks.items()}
        cleared = channels.cleared(present, self._pruning.groups, removed)
        return {name: mask.to(masks[name].device) for name, mask in cleared.items()}

    def _masked(self, masks: Masks) -> list[Tensor]:
        """By group, the numbers of the channels whose filters are masked."""
        return [_gone(group, masks) for group in self._pruning.groups]


class _GrowingChannels(Growing):
    def finish(self) -> tuple[Mask, ...]:
        super().finish()
        return ()  # what is masked will be cut


def _gone(group: Group, masks: Masks) -> Tensor:
    filters = group.playing("makes")[0]
    numbers: Tensor = (~filters.of(masks[filters.name].cpu()).any(1)).nonzero().flatten()
    return numbers
