"""Several processes that train one network together: each computes a share of every batch, and all keep the same weights.

The outputs of the shares are brought together, and every process computes the loss of the whole batch from them. So any loss
does: one that relates samples to each other, or averages over a varying number of targets. Each process takes the gradient
back through its own share; added up, these are the gradients of one process with the whole batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import numpy as safetensors
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from compress_cli.errors import RecipeError, StageError
from compress_cli.processes import Processes
from compress_cli.randomness import seed_layers

T = TypeVar("T")

DRIFT = 1e-3  # relative difference of the weights of two processes that is no rounding


@dataclass(frozen=True)
class Together(Processes):
    """One of several processes that train together."""

    local_rank: int = 0  # among those of this machine: the number of its GPU
    explain: Callable[[], str] = field(default=str, compare=False)  # why another is gone, if known

    def device(self, name: str) -> str:
        """RecipeError where there is no GPU for this process."""
        if not name.startswith("cuda"):
            return name
        if name != "cuda":
            raise RecipeError(f"device '{name}': is one GPU, and {self.count} processes train together; say 'cuda' or 'auto'")
        if self.local_rank >= torch.cuda.device_count():
            raise RecipeError(
                f"device 'cuda': process {self.local_rank} of this machine, counted from 0, has no GPU: PyTorch sees "
                f"{torch.cuda.device_count()}; start one process for each"
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"

    def share(self, samples: int) -> slice:
        return self._shares(samples)[self.rank]

    def _shares(self, samples: int) -> list[slice]:
        ends = [(samples * rank + self.count - 1) // self.count for rank in range(self.count + 1)]
        return [slice(first, last) for first, last in pairwise(ends)]

    def joined(self, name: str, share: Tensor, samples: int) -> Tensor:
        lengths = [part.stop - part.start for part in self._shares(samples)]
        if share.dim() == 0 or len(share) != lengths[self.rank]:
            raise StageError(
                f"'{name}' has the shape {tuple(share.shape)} for {lengths[self.rank]} samples: several processes can bring "
                "together only what has the samples on its first axis; train in one process"
            )
        joined: Tensor = _Joined.apply(share, lengths, self)  # type: ignore[no-untyped-call]
        return joined

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for weight in weights:
            groups.setdefault((weight.dtype, weight.device), []).append(weight)
        for group in groups.values():
            self._sum_group(group)

    def _sum_group(self, weights: list[Tensor]) -> None:
        """One sum for all weights of a type, and for the marks that say which have a gradient."""
        marks = torch.tensor([float(weight.grad is not None) for weight in weights], dtype=weights[0].dtype)
        lacking = not bool(marks.all())
        flat = [(torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten() for weight in weights]
        together = torch.cat([marks.to(weights[0].device), *flat])
        self.summed(together)
        sums = together[len(weights) :].split([weight.numel() for weight in weights])
        known = together[: len(weights)].tolist() if lacking else [1.0] * len(weights)
        for weight, total, mark in zip(weights, sums, known, strict=True):
            if weight.grad is not None:
                weight.grad.copy_(total.view(weight.shape))
            elif mark:
                weight.grad = total.view(weight.shape).clone()

    def summed(self, tensor: Tensor) -> Tensor:
        self._together(lambda: dist.all_reduce(tensor))
        return tensor

    def same(self, value: T) -> T:
        said: T = json.loads(self.same_bytes(json.dumps(value).encode()))
        return said

    def same_bytes(self, data: bytes) -> bytes:
        length = torch.tensor([len(data)])
        self._together(lambda: dist.broadcast(length, 0))
        sent = np.frombuffer(data, np.uint8) if self.rank == 0 else np.empty(int(length), np.uint8)
        content = torch.from_numpy(sent.copy())
        self._together(lambda: dist.broadcast(content, 0))
        return content.numpy().tobytes()

    def gathered(self, arrays: Mapping[str, np.ndarray]) -> list[Mapping[str, np.ndarray]]:
        ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        content = torch.from_numpy(np.frombuffer(safetensors.save(ordered), np.uint8).copy())
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        self._together(lambda: dist.all_gather(lengths, torch.tensor([len(content)])))
        longest = max(int(length) for length in lengths)
        padded = functional.pad(content, (0, longest - len(content)))
        parts = [torch.empty_like(padded) for _ in lengths] if self.rank == 0 else None
        self._together(lambda: dist.gather(padded, parts))
        sent = zip(parts, lengths, strict=True) if parts else ()
        return [safetensors.load(part[: int(length)].numpy().tobytes()) for part, length in sent]

    def agree(self, tensors: Mapping[str, Tensor]) -> None:
        described = json.dumps([[name, [*value.shape], str(value.dtype)] for name, value in tensors.items()])
        differs = torch.tensor([float(self.same(described) != described)])
        self.summed(differs)
        if differs.item():
            raise StageError("the processes that train together have made different networks of one recipe")
        with torch.no_grad():
            for value in tensors.values():
                sent = value.detach().contiguous()
                self._together(lambda sent=sent: dist.broadcast(sent, 0))  # type: ignore[misc]
                value.copy_(sent)

    def check_drift(self, weights: Iterable[Tensor]) -> None:
        sums = [weight.detach().double().abs().sum() for weight in weights]
        own = torch.stack(sums).sum().cpu() if sums else torch.zeros((), dtype=torch.float64)
        first = torch.tensor(self.same(float(own)), dtype=torch.float64)
        far = torch.tensor([float((own - first).abs() > DRIFT * first.abs())])  # 0 where either is not a number
        if self.summed(far).item():
            raise StageError(
                "the weights of the processes that train together have drifted apart; do they run on the same kind of machine?"
            )

    @contextmanager
    def forward(self, device: str, number: int) -> Iterator[None]:
        own = (torch.initial_seed() + (1 + number * self.count + self.rank) * 0x9E3779B97F4A7C15) % (1 << 63)
        devices = [torch.device(device)] if device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices), _SharedBatchNorm(self):
            seed_layers(device, own)
            yield

    def _together(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            lost = f"the {self.count} processes can't exchange tensors any more: killed, or out of reach? ({reason})"
            raise StageError(self.explain() or lost) from error


class _Joined(torch.autograd.Function):
    """Brings the shares of a batch together. All processes compute one loss: the gradient is the slice of this share."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, lengths: list[int], processes: Together) -> Tensor:
        ctx.place = slice(sum(lengths[: processes.rank]), sum(lengths[: processes.rank + 1]))
        padded = share.new_zeros((max(lengths), *share.shape[1:]))
        padded[: len(share)] = share
        parts = [torch.empty_like(padded) for _ in lengths]
        processes._together(lambda: dist.all_gather(parts, padded))
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0][ctx.place], None, None


class _Summed(torch.autograd.Function):
    """The sum over all processes, each of which goes on with it in its own way: gradients are added up too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, processes: Together) -> Tensor:
        ctx.processes = processes
        return processes.summed(value.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.processes.summed(gradients[0].clone()), None


class _SharedBatchNorm(TorchFunctionMode):
    """Within, batch norm in training takes mean and variance over the samples of all processes."""

    def __init__(self, processes: Together):
        super().__init__()
        self.processes = processes

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.batch_norm:
            return self._batch_norm(*args, **kwargs)
        return function(*args, **kwargs)

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As torch.nn.functional.batch_norm of x (N, C, ...): the variance is biased, that of the running statistics is not."""
        if not training:
            return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        channels = (1, -1, *(1 for _ in range(x.dim() - 2)))
        values = x.float()
        here = values.new_tensor([x.numel() // x.shape[1]])
        sums, count = self._sum(torch.cat([values.sum(axes), here])).split([x.shape[1], 1])
        mean = sums / count
        centred = values - mean.view(channels)
        variance = self._sum(centred.square().sum(axes)) / count
        with torch.no_grad():
            if running_mean is not None and running_var is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * count / (count - 1).clamp(min=1)).to(running_var.dtype), momentum)
        normal: Tensor = centred * (variance + eps).rsqrt().view(channels)
        if weight is not None and bias is not None:
            normal = normal * weight.view(channels) + bias.view(channels)
        return normal.to(x.dtype)

    def _sum(self, value: Tensor) -> Tensor:
        summed: Tensor = _Summed.apply(value, self.processes)  # type: ignore[no-untyped-call]
        return summed
