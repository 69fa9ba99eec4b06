"""Normalisations over channels, replaced for a proof by something that treats each channel by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Rescaling(TorchDispatchMode):
    """Layer and group normalisation become a bounded function of each value, with the same scale and bias.

    Their statistics differ over fewer channels, so that a masked network and a cut one could not be compared. Below
    autograd, where every layout of channels and every library's own class of normalisation comes as one operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normalisations = 0  # seen so far

    def __enter__(self) -> Rescaling:
        self._fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole encoder layer
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch.backends.mha.set_fastpath_enabled(self._fast)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in ("native_layer_norm", "native_group_norm"):
            return func(*args, **(kwargs or {}))
        self.normalisations += 1
        x, first = args[0], 2 if name == "native_layer_norm" else 1
        axes = x.dim() - 2 if name == "native_group_norm" else 0
        rescaled = torch.tanh(x)
        for parameter, apply in ((args[first], torch.mul), (args[first + 1], torch.add)):
            if parameter is not None:
                rescaled = apply(rescaled, _behind(parameter, axes))
        return rescaled, x.new_zeros(()), x.new_zeros(())  # mean and deviation are for the backward pass


def _behind(parameter: Tensor, axes: int) -> Tensor:
    """The parameter with so many axes of length 1 behind its own."""
    return parameter.reshape(*parameter.shape, *(1 for _ in range(axes)))
