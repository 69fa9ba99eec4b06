"""A channel's share in what the layer behind it computes, with a bound on the error of a cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compress_cli.errors import StageError
from compress_cli.pruning.channels import Group, Part
from compress_cli.pruning.criteria import Criterion, Reads

NEURONS = 64  # of a layer at once, which bounds the memory


class Pfp(Criterion):
    """Empirical sensitivity of provable filter pruning: the largest share that a channel has in the sum of any neuron behind it
    on any sample, positive and negative terms apart (PFP; Liebenwein et al. 2020, arXiv:1911.07412, after SiPP; Baykal et
    al. 2019, arXiv:1910.05422).

    The channels with the least are removed (the papers' deterministic variant). On the samples that the scores come from
    no neuron then loses more than the sum of the removed channels' sensitivities, as a share of its positive or of its negative
    terms. The report shows this bound for each layer (`predicted`), beside the largest loss on other samples (`measured`).
    A convolution's neurons are taken at positions inside the picture.
    """

    reads: ClassVar[Reads] = "activations"
    over_batches: ClassVar[Literal["mean", "max"]] = "max"
    foretells: ClassVar[str] = (
        "The share of its positive or negative terms that a neuron behind the layer loses: as provable filter pruning bounds "
        "it, for the training samples that the bound was computed on, and the largest on other training samples."
    )

    positions: int = Field(64, ge=1, description="places of a batch's maps at which a layer's neurons are looked at")

    def __call__(self, group: Group, evidence: Mapping[str, Tensor]) -> Tensor:
        largest = []
        for part in _readers(group, evidence):
            by_sign = self._shares(part, evidence[part.layer])  # (signs x neurons x positions, length), in pieces
            largest.append(torch.stack([piece[:, part.index].sum(2).amax(0) for piece in by_sign]).amax(0))
        return torch.stack(largest).amax(0)

    def errors(self, group: Group, scores: Tensor, removed: Tensor, evidence: Mapping[str, Tensor]) -> dict[str, float]:
        lost = 0.0
        for part in _readers(group, evidence):
            places = part.index[removed].flatten()
            lost = max([lost, *(float(piece[:, places].sum(1).amax()) for piece in self._shares(part, evidence[part.layer]))])
        return {"predicted": min(1.0, float(scores[removed].sum())), "measured": lost}

    def _shares(self, part: Part, activation: Tensor) -> list[Tensor]:
        """Pieces of (sums, length): each channel's share in sums of one sign, of some neurons at some positions."""
        kernel = tuple(part.tensor.shape[2:])
        weight = (
            part.by_channel(part.tensor.detach()).flatten(2) if kernel else part.by_channel(part.tensor.detach())[..., None]
        )
        if part.groups > 1:
            raise StageError(f"criterion pfp: the grouped convolution '{part.layer}' reads these channels; name it in ignore")
        windows = _windows(activation, kernel, self.positions)  # (positions, length, kernel)
        pieces = []
        for some in weight.movedim(1, 0).split(NEURONS):  # (neurons, length, kernel)
            for sign in (1, -1):
                terms = torch.einsum("pck,nck->npc", windows.clamp(min=0), (sign * some).clamp(min=0))
                terms += torch.einsum("pck,nck->npc", (-windows).clamp(min=0), (-sign * some).clamp(min=0))
                total = terms.sum(2, keepdim=True)
                pieces.append(torch.where(total > 0, terms / total, 0.0).flatten(0, 1))
        return pieces


def _readers(group: Group, evidence: Mapping[str, Tensor]) -> list[Part]:
    readers = [part for part in group.playing("reads") if part.layer in evidence]
    if not readers:
        raise StageError(f"criterion pfp: no layer takes the channels of '{group.layer}' as they are; name it in ignore")
    return readers


def _windows(activation: Tensor, kernel: tuple[int, ...], count: int) -> Tensor:
    """(positions, channels, kernel): what a layer's neurons see at some positions, drawn evenly."""
    if not kernel:
        rows = activation.flatten(0, -2)[..., None]  # (positions, channels, 1)
    else:
        for axis, size in enumerate(kernel):
            activation = activation.unfold(2 + axis, min(size, activation.shape[2 + axis]), 1)
        rows = activation.movedim(1, len(kernel) + 1).flatten(0, len(kernel)).flatten(2)
        missing = torch.Size(kernel).numel() - rows.shape[2]
        rows = torch.nn.functional.pad(rows, (0, missing))  # a map smaller than the kernel
    return rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()]
