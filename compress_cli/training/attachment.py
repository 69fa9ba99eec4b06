"""What takes part in training beside the losses: penalties, gates on weights, masks that grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from compress_cli.networks.edits import Constraint
from compress_cli.networks.edits.mask import Mask, masked
from compress_cli.networks.models import Network

ATTACHED = "attached/"


class Attachment(nn.Module):
    """Takes part in the training of one network; every method does nothing by default.

    The loop trains its parameters, and saves and resumes its parameters and buffers with the network's; what lies in other
    attributes, such as a list of the network's weights, it leaves alone. Weights are named relative to the network's body.
    """

    settled_after: float = 0.0
    """Epochs after which the network is what it was to become: the best epoch is chosen from then on."""

    constraints: tuple[Constraint, ...] = ()
    """What it demands of the weights while they are trained."""

    def penalty(self) -> Tensor | None:
        """What is added to the loss of a step, shape (), before its weight."""
        return None

    def substitutes(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that a forward pass takes instead of these; in evaluation mode, those that the result will have."""
        return {}

    def passed(self) -> list[Tensor]:
        """Tensors of this step's passes, other than parameters, whose gradients it reads; all processes add them up."""
        return []

    def after_backward(self) -> None:
        """The gradients of a step are there, and the optimiser has not seen them yet."""

    def after_step(self, step: int) -> None:
        """The optimiser has taken so many steps altogether."""

    def figures(self) -> dict[str, float]:
        """What is worth a curve over the epochs, by name."""
        return {}

    def notes(self) -> list[str]:
        """What a user should hear of at the end."""
        return []

    def finish(self) -> tuple[Mask, ...]:
        """The masks of the weights that the network computed with in evaluation mode."""
        return ()


Attach = Callable[[Network, int], Attachment]
"""Makes an attachment for a network, on its device, and so many steps an epoch."""


class Attachments(nn.ModuleList):
    """All attachments of a training, in the order in which they act."""

    def __init__(self, attachments: Iterable[Attachment] = ()):
        super().__init__()
        self.all = list(attachments)
        self.extend(self.all)

    @property
    def settled_after(self) -> float:
        """Epochs after which all of them are settled."""
        return max((attachment.settled_after for attachment in self.all), default=0.0)

    def figures(self) -> dict[str, float]:
        """The figures of all of them."""
        return {name: value for attachment in self.all for name, value in attachment.figures().items()}

    def trained(self) -> list[Tensor]:
        """Whatever of theirs gets a gradient in a step."""
        return [*self.parameters(), *(tensor for attachment in self.all for tensor in attachment.passed())]

    def notes(self) -> list[str]:
        """The notes of all of them."""
        return [note for attachment in self.all for note in attachment.notes()]

    def substituted(self, network: Network) -> Callable[..., Any]:
        """The network, called with the weights that they put in the place of its own."""

        def call(*inputs: Tensor) -> Any:
            substitutes = self._substitutes(network)
            return functional_call(network, substitutes, inputs) if substitutes else network(*inputs)

        return call if len(self) else network

    def outcome(self, network: Network) -> dict[str, Tensor]:
        """The state dict of the network as it computes in evaluation mode, and their own under `attached/`."""
        self.eval()
        own = {f"{ATTACHED}{name}": tensor for name, tensor in self.state_dict().items()}
        return {**network.state_dict(), **self._substitutes(network), **own}

    def finish(self, network: Network, outcome: Mapping[str, Tensor]) -> None:
        """Give the network an outcome, and the edits that go with it."""
        own = {name: tensor for name, tensor in outcome.items() if name.startswith(ATTACHED)}
        network.load_state_dict({name: tensor for name, tensor in outcome.items() if name not in own})
        self.load_state_dict({name.removeprefix(ATTACHED): tensor for name, tensor in own.items()})
        for attachment in self.all:
            for mask in attachment.finish():
                network.edits = masked(network.edits, mask)

    def _substitutes(self, network: Network) -> dict[str, Tensor]:
        """Parameter of the network -> what is computed with instead, where that differs."""
        weights: dict[str, Tensor] = dict(network.body.named_parameters(remove_duplicate=False)) if len(self) else {}
        changed: dict[str, Tensor] = {}
        for attachment in self.all:
            changed |= attachment.substitutes({**weights, **changed})
        return {f"body.{name}": weight for name, weight in changed.items()}
