"""Masks that grow while a network is trained: gradual pruning, and movement pruning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress_cli.networks.edits.mask import Mask, Masking
from compress_cli.pruning import weights as selection
from compress_cli.pruning.saliencies import Saliency
from compress_cli.pruning.weights import Masks
from compress_cli.training.attachment import Attachment

Weights = Mapping[str, nn.Parameter]
Share = Callable[[float], float]
"""The ratio at a moment, of the ratio in the end."""
Select = Callable[[Mapping[str, Tensor], Share], Masks]
"""Masks by scores (parameter -> tensor of its shape), at such a moment."""
Grow = Callable[[Masks, Share], Masks]
"""Masks at such a moment, from those that there are; what these mask may remain in them, and stays zero all the same."""


@dataclass(frozen=True)
class Ramp:
    """The cubic rise of sparsity from `initial` (Zhu & Gupta 2017, arXiv:1710.01878, equation 1), in steps of the optimiser."""

    begin: int
    end: int
    every: int
    initial: float = 0.0

    def due(self, step: int) -> bool:
        """Whether masks are renewed after so many steps: at the beginning, every so many steps, and at the end."""
        return self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end)

    def share(self, step: int) -> Share:
        """s_t = s_f + (s_i - s_f) (1 - u)^3, where u is the share of the rise that is done, 0..1."""
        done = min(1.0, max(0.0, (step - self.begin) / max(1, self.end - self.begin))) if step < self.end else 1.0
        return lambda final: final + (min(self.initial, final) - final) * (1 - done) ** 3

    @classmethod
    def of_epochs(cls, begin: float, end: float, every: int, initial: float, steps: int) -> Ramp:
        """From and to so many epochs of so many steps."""
        return cls(math.ceil(begin * steps), math.ceil(end * steps), every, initial)


class Growing(Attachment):
    """Masks that grow along a ramp, by the weights as they are; what is masked stays zero from then on."""

    reached: Tensor  # () bool: whether the ramp is at its end

    def __init__(self, weights: Weights, masks: Masks, ramp: Ramp, settled_after: float, grow: Grow):
        super().__init__()
        self.names, self.ramp, self.settled_after, self.grow = tuple(weights), ramp, settled_after, grow
        self.masking = Masking(weights.values(), (masks[name] for name in weights))
        self.constraints = (self.masking,)
        for number, factor in enumerate(self.masking.factors):
            self.register_buffer(f"mask{number}", factor)
        self.register_buffer("reached", torch.zeros((), dtype=torch.bool))

    def substitutes(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A moving average of weights still holds what was masked lately."""
        return {} if self.training else {name: weights[name] * factor for name, factor in self._factors().items()}

    def after_step(self, step: int) -> None:
        if self.ramp.due(step):
            self._renew(step)

    def figures(self) -> dict[str, float]:
        return {"sparsity": selection.sparsity(self.masks())}

    def finish(self) -> tuple[Mask, ...]:
        if not self.reached:  # a smoke run
            self._renew(self.ramp.end)
        return (Mask.of(self.masks()),)

    def masks(self) -> Masks:
        """Parameter -> bool tensor of its shape: True where its weight remains."""
        return {name: factor != 0 for name, factor in self._factors().items()}

    @torch.no_grad()
    def _renew(self, step: int) -> None:
        factors = self._factors()
        for name, mask in self.grow(self.masks(), self.ramp.share(step)).items():
            factors[name].mul_(mask)
        self.reached.fill_(step >= self.ramp.end)
        self.masking.settle()

    def _factors(self) -> dict[str, Tensor]:
        """Parameter -> 1 where its weight remains, 0 where it is masked."""
        return dict(zip(self.names, self.masking.factors, strict=True))


class Moving(Attachment):
    """Masks by scores that are summed over the steps of the training; masked weights keep their value, and may return.

    The forward pass takes weight times mask. The scores' gradient passes straight through the mask (Sanh et al. 2020,
    arXiv:2005.07683, section 4); that of a masked weight is zero."""

    reached: Tensor  # () bool: whether the ramp is at its end

    def __init__(self, weights: Weights, masks: Masks, ramp: Ramp, settled_after: float, select: Select, saliency: Saliency):
        super().__init__()
        self.weights, self.ramp, self.settled_after = dict(weights), ramp, settled_after
        self.select, self.saliency = select, saliency
        self.scores = {
            name: torch.zeros_like(weight).masked_fill_(~masks[name].to(weight.device), -math.inf)
            for name, weight in weights.items()
        }
        self.factors = {name: torch.empty_like(weight).copy_(masks[name]).detach() for name, weight in weights.items()}
        for number, name in enumerate(weights):
            self.register_buffer(f"score{number}", self.scores[name])
            self.register_buffer(f"mask{number}", self.factors[name])
        self.register_buffer("reached", torch.zeros((), dtype=torch.bool))
        self.passes: list[dict[str, Tensor]] = []  # the masked weights of the step's forward passes

    def substitutes(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        masked = {name: weights[name] * factor for name, factor in self.factors.items()}
        if self.training and torch.is_grad_enabled():
            for weight in masked.values():
                weight.retain_grad()
            self.passes.append(masked)
        return masked

    def passed(self) -> list[Tensor]:
        return [weight for masked in self.passes for weight in masked.values()]

    @torch.no_grad()
    def after_backward(self) -> None:
        for masked in self.passes:
            for name, weight in masked.items():
                if weight.grad is not None:
                    self.scores[name] += self.saliency(name, self.weights[name], weight.grad)
        self.passes.clear()

    def after_step(self, step: int) -> None:
        if self.ramp.due(step):
            self._renew(step)

    def figures(self) -> dict[str, float]:
        return {"sparsity": selection.sparsity({name: factor != 0 for name, factor in self.factors.items()})}

    def finish(self) -> tuple[Mask, ...]:
        if not self.reached:  # a smoke run
            self._renew(self.ramp.end)
        return (Mask.of({name: factor != 0 for name, factor in self.factors.items()}),)

    def _renew(self, step: int) -> None:
        for name, mask in self.select(self.scores, self.ramp.share(step)).items():
            self.factors[name].copy_(mask & (self.scores[name] > -math.inf))
        self.reached.fill_(step >= self.ramp.end)
