"""The state of a training run, and how it is saved and restored bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn, optim

from compress_cli.errors import StageError
from compress_cli.networks.models import Network
from compress_cli.processes import Processes
from compress_cli.store.saves import Save
from compress_cli.training.attachment import Attachments
from compress_cli.training.averaging import Average
from compress_cli.training.precision import PrecisionChoice
from compress_cli.training.sharding import put, undivided, whole, whole_of

COUNTERS = ("epoch", "step", "curve", "best_epoch", "steps", "seconds")  # fields of the state that are plain data


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
    """All that changes while training: with settings and data, all that a resumed training needs.

    The learning rate, the order of samples and every random draw follow from the epoch and the step. What a module keeps
    outside its parameters and buffers is not seen.
    """

    network: Network
    adapters: nn.ModuleList
    optimizer: optim.Optimizer
    average: Average | None
    precision: PrecisionChoice
    attachments: Attachments = field(default_factory=Attachments)
    epoch: int = 0  # epochs done
    step: int = 0  # steps done of the epoch after these
    losses: Losses = field(default_factory=Losses)  # of these steps
    curve: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # on the CPU
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # epoch -> its weights, on the CPU
    steps: int = 0  # altogether, and the seconds they took
    seconds: float = 0.0
    processes: list[int] = field(default_factory=list)  # how many trained it, one after the other

    def count(self, seconds: float) -> None:
        """One more step, which took so long."""
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds

    def trained(self) -> list[Tensor]:
        """The parameters that the optimiser updates, in its order."""
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    def save(self) -> Save | None:
        """The state as it can be written; None where a weight, or a tensor of the optimiser, has overflowed.

        StageError where the optimiser keeps what can't be written.
        """
        tensors, moments = whole_of(self._tensors()), whole_of(self._moments())
        weights = [*self.network.parameters(), *self.adapters.parameters(), *self.attachments.parameters()]
        if not _finite([*map(whole, weights), *moments.values()]):
            return None
        best = {f"best/{name}": tensor for name, tensor in self.best.items()}
        kept = {f"kept/{epoch}/{name}": value for epoch, weights in self.kept.items() for name, value in weights.items()}
        return Save(
            arrays({**tensors, **best, **kept, **moments}), self._document(), f"epoch {self.epoch + 1}, step {self.step}"
        )

    def resume(self, save: Save) -> str:
        """Restore a save; where it belongs to another training, change nothing and return the reason."""
        tensors = self._tensors()
        wrong = _mismatch(tensors, save.arrays)
        if wrong:
            return f"its saves do not fit the training ({wrong})"
        with torch.no_grad():
            for name, value in tensors.items():
                put(value, tensor(save.arrays[name], value.dtype))
        self._resume_optimizer(save)
        if self.average:
            self.average.updates = save.document["updates"]
        self.best, self.kept = self._best_of(save), self._kept_of(save)
        self.losses.known = save.document["losses"]
        for name in COUNTERS:
            setattr(self, name, save.document[name])
        self.processes = save.document.get("processes", [1])
        return ""

    def agree(self, processes: Processes) -> None:
        """Begin with the first process's state, and note how many go on with it; StageError where theirs is another."""
        tensors = self._tensors()
        processes.agree({name: value for name, value in tensors.items() if undivided([value])})
        if self.processes[-1:] != [processes.count]:
            self.processes = [*self.processes, processes.count]

    def changes(self, processes: Processes) -> str:
        """What it means for a resumed state that other processes go on with it."""
        before = (self.processes or [1])[-1]
        if before == processes.count:
            return ""
        return f" (saved by {_counted(before)}, now {_counted(processes.count)}: equal but for rounding)"

    def processes_note(self) -> list[str]:
        """A note on a training that not the same number of processes did all along."""
        if len(self.processes) < 2:
            return []
        order = ", then by ".join(map(_counted, self.processes))
        return [f"trained by {order}: the weights are those of one training but for rounding"]

    def _tensors(self) -> dict[str, Tensor]:
        """`network/conv.weight` -> parameter or buffer, of everything that is trained or averaged."""
        modules: dict[str, nn.Module] = {"network": self.network, "adapters": self.adapters, "attachments": self.attachments}
        if self.average:
            modules["average"] = self.average.network
        return {
            f"{part}/{name}": tensor
            for part, module in modules.items()
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }

    def _moments(self) -> dict[str, Tensor]:
        """`optimizer/3/momentum_buffer` -> what the optimiser keeps for its weight number 3."""
        return {
            f"optimizer/{number}/{name}": value
            for number, weight in enumerate(self.trained())
            for name, value in self.optimizer.state.get(weight, {}).items()
            if isinstance(value, Tensor)
        }

    def _document(self) -> dict[str, Any]:
        choice, kept = self.precision, [self.optimizer.state.get(weight, {}) for weight in self.trained()]
        return {
            "optimizer": [{name: _plain(name, value) for name, value in values.items()} for values in kept],
            "groups": [_numbers(group) for group in self.optimizer.param_groups],
            "updates": self.average.updates if self.average else 0,
            "precision": {"name": choice.name, "reason": choice.reason, "step_ms": choice.step_ms},
            "losses": self.losses.known,
            **{name: getattr(self, name) for name in COUNTERS},
            **({"processes": self.processes} if self.processes != [1] else {}),
        }

    def _resume_optimizer(self, save: Save) -> None:
        for number, (weight, values) in enumerate(zip(self.trained(), save.document["optimizer"], strict=True)):
            self.optimizer.state[weight] = {
                name: _moment(value, save.arrays.get(f"optimizer/{number}/{name}"), weight) for name, value in values.items()
            }
        for group, numbers in zip(self.optimizer.param_groups, save.document["groups"], strict=True):
            group.update(numbers)

    def _best_of(self, save: Save) -> dict[str, Tensor]:
        like = self.attachments.outcome(self.network)
        saved = {name.removeprefix("best/"): array for name, array in save.arrays.items() if name.startswith("best/")}
        return {name: tensor(array, like[name].dtype).clone() for name, array in saved.items()}

    def _kept_of(self, save: Save) -> dict[int, dict[str, Tensor]]:
        like, kept = self.network.state_dict(), dict[int, dict[str, Tensor]]()
        for key in (key for key in save.arrays if key.startswith("kept/")):
            _, epoch, name = key.split("/", 2)
            kept.setdefault(int(epoch), {})[name] = tensor(save.arrays[key], like[name].dtype).clone()
        return kept


def _counted(processes: int) -> str:
    return f"{processes} processes" if processes > 1 else "1 process"


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, as they are now."""
    return {name: whole(value.detach()).to("cpu", copy=True) for name, value in tensors.items()}


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """For a save: a view where that is possible. NumPy has no bfloat16: its bits are kept as whole numbers."""
    return {name: _bits(value.detach()).cpu().numpy() for name, value in tensors.items()}


def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """What `arrays` made of a tensor of that type, as one again, on the CPU."""
    value = torch.from_numpy(array)
    return value if value.dtype == dtype else value.view(dtype)


def _mismatch(tensors: Mapping[str, Tensor], saved: Mapping[str, np.ndarray]) -> str:
    """The name of a tensor that is on one side only, or of another shape; empty where all fit."""
    names = {name for name in saved if not name.startswith(("best/", "kept/", "optimizer/"))}
    wrong = tensors.keys() ^ names or {name for name in names if tuple(tensors[name].shape) != saved[name].shape}
    return min(wrong, default="")


def _bits(value: Tensor) -> Tensor:
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16)
    return value.view(torch.uint8) if value.is_floating_point() and value.itemsize == 1 else value


def _finite(tensors: list[Tensor]) -> bool:
    flags = [value.isfinite().all() for value in tensors if value.is_floating_point()]
    return not flags or bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all())  # some count on the CPU


def _plain(name: str, value: Any) -> Any:
    """The JSON form of a value that the optimiser stores for a weight."""
    if isinstance(value, Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "device": value.device.type}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StageError(f"the optimiser keeps '{name}', a {type(value).__name__}, for a weight, which can't be saved")


def _numbers(group: dict[str, Any]) -> dict[str, float]:
    """The settings of a group that an optimiser may have changed."""
    return {name: value for name, value in group.items() if type(value) in (int, float) and math.isfinite(value)}


def _moment(value: Any, array: np.ndarray | None, weight: Tensor) -> Any:
    """A value that the optimiser keeps for a weight; one of the weight's shape lies in memory as the weight does."""
    if array is None:
        return value
    saved = tensor(array, getattr(torch, value["dtype"]))
    device = weight.device if value["device"] == weight.device.type else torch.device(value["device"])
    like = torch.empty_like(weight, dtype=saved.dtype) if saved.shape == weight.shape else torch.empty_like(saved)
    return put(like.to(device), saved)
