"""What changes while a network is trained, and how it becomes a save and comes back bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn, optim

from compress_cli.errors import StageError
from compress_cli.store.saves import Save
from compress_cli.training.averaging import Average
from compress_cli.training.precision import PrecisionChoice


class Losses:
    """The losses of an epoch's steps, read from the device only now and then."""

    def __init__(self) -> None:
        self.known: list[float] = []
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        self._pending.append(loss)

    def read(self) -> int | None:
        """Bring `known` up to date; the first step (from 1) whose loss is not finite, or None."""
        if self._pending:
            self.known += torch.stack(self._pending).tolist()
            self._pending.clear()
        return next((step for step, loss in enumerate(self.known, 1) if not math.isfinite(loss)), None)


@dataclass
class State:
    """All that changes while training: with settings and data, what going on later needs.

    The learning rate, the order of samples and every random draw follow from the epoch and the step. What a module keeps
    outside its parameters and buffers is not seen.
    """

    network: nn.Module
    adapters: nn.ModuleList
    optimizer: optim.Optimizer
    average: Average | None
    precision: PrecisionChoice
    epoch: int = 0  # epochs done
    step: int = 0  # steps done of the epoch after these
    losses: Losses = field(default_factory=Losses)  # of these steps
    curve: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # on the CPU
    steps: int = 0  # altogether, and the seconds they took
    seconds: float = 0.0

    def save(self) -> Save | None:
        """The state as it can be written; None where a weight, or what the optimiser knows, has overflowed.

        StageError where the optimiser keeps what can't be written.
        """
        moments = [self.optimizer.state.get(each, {}) for each in self._trained()]
        weights = [*self.network.parameters(), *self.adapters.parameters()]
        if not _finite([*weights, *(each for known in moments for each in known.values() if isinstance(each, Tensor))]):
            return None
        kept = {f"{part}/{name}": each for part, owned in self._parts().items() for name, each in owned.items()}
        kept |= {f"best/{name}": each for name, each in self.best.items()}
        for place, known in enumerate(moments):
            kept |= {f"optimizer/{place}/{name}": each for name, each in known.items() if isinstance(each, Tensor)}
        document = {
            "optimizer": [{name: _plain(name, each) for name, each in known.items()} for known in moments],
            "groups": [_numbers(each) for each in self.optimizer.param_groups],
            "updates": self.average.updates if self.average else 0,
            "precision": {"name": self.precision.name, "reason": self.precision.reason, "step_ms": self.precision.step_ms},
            "losses": self.losses.known,
            **{name: getattr(self, name) for name in ("epoch", "step", "curve", "best_epoch", "steps", "seconds")},
        }
        return Save(arrays(kept), document, f"epoch {self.epoch + 1}, step {self.step}")

    def resume(self, save: Save) -> str:
        """Become what was saved; the reason, and nothing is changed, where it was of something else."""
        document, given = save.document, save.arrays
        owned = {f"{part}/{name}": each for part, own in self._parts().items() for name, each in own.items()}
        loose = {name for name in given if name.startswith(("best/", "optimizer/"))}
        wrong = owned.keys() ^ (given.keys() - loose) or {
            name for name, each in owned.items() if tuple(each.shape) != given[name].shape
        }
        if wrong:
            return f"what was saved does not fit what is trained ({min(wrong)})"
        with torch.no_grad():
            for name, each in owned.items():
                each.copy_(tensor(given[name], each.dtype))
        for place, (weight, known) in enumerate(zip(self._trained(), document["optimizer"], strict=True)):
            self.optimizer.state[weight] = {
                name: _moment(each, given.get(f"optimizer/{place}/{name}"), weight) for name, each in known.items()
            }
        for group, numbers in zip(self.optimizer.param_groups, document["groups"], strict=True):
            group.update(numbers)
        if self.average:
            self.average.updates = document["updates"]
        shaped = (self.average.network if self.average else self.network).state_dict()
        self.best = {
            name.removeprefix("best/"): tensor(given[name], shaped[name.removeprefix("best/")].dtype).clone()
            for name in given
            if name.startswith("best/")
        }
        self.losses.known = document["losses"]
        for name in ("epoch", "step", "curve", "best_epoch", "steps", "seconds"):
            setattr(self, name, document[name])
        return ""

    def _trained(self) -> list[Tensor]:
        return [each for group in self.optimizer.param_groups for each in group["params"]]

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        parts: dict[str, nn.Module] = {"network": self.network, "adapters": self.adapters}
        if self.average:
            parts["average"] = self.average.network
        return {part: {**dict(each.named_parameters()), **dict(each.named_buffers())} for part, each in parts.items()}


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """For a save: a view where that is possible. NumPy has no bfloat16: its bits are kept as whole numbers."""
    return {name: _bits(each.detach()).cpu().numpy() for name, each in tensors.items()}


def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """What `arrays` made of a tensor of that type, as one again, on the CPU."""
    made = torch.from_numpy(array)
    return made if made.dtype == dtype else made.view(dtype)


def _bits(given: Tensor) -> Tensor:
    if given.dtype == torch.bfloat16:
        return given.view(torch.int16)
    return given.view(torch.uint8) if given.is_floating_point() and given.itemsize == 1 else given


def _finite(tensors: list[Tensor]) -> bool:
    real = [each for each in tensors if each.is_floating_point()]
    flags = [each.isfinite().all() for each in real]  # some optimisers count steps on the CPU
    return not real or bool(torch.stack([each.to(flags[0].device) for each in flags]).all())


def _plain(name: str, value: Any) -> Any:
    """What the document says of a value that the optimiser keeps for a weight."""
    if isinstance(value, Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "device": value.device.type}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StageError(f"the optimiser keeps '{name}', a {type(value).__name__}, for a weight, which can't be saved")


def _numbers(group: dict[str, Any]) -> dict[str, float]:
    """What an optimiser may have changed in a group's settings."""
    return {name: each for name, each in group.items() if type(each) in (int, float) and math.isfinite(each)}


def _moment(told: Any, array: np.ndarray | None, weight: Tensor) -> Any:
    """A value that the optimiser keeps for a weight; one of the weight's shape lies in memory as the weight does."""
    if array is None:
        return told
    made = tensor(array, getattr(torch, told["dtype"]))
    device = weight.device if told["device"] == weight.device.type else torch.device(told["device"])
    like = torch.empty_like(weight, dtype=made.dtype) if made.shape == weight.shape else torch.empty_like(made)
    return like.to(device).copy_(made)
