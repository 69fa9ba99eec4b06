"""A network's outputs without one layer or another: what comes before the layer is computed once for all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress_cli.networks.edits.bypass import Bypassed
from compress_cli.networks.models import Network


def without_each(
    network: Network, layers: Mapping[str, bool], names: Sequence[str], inputs: tuple[Tensor, ...]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each of these names with the outputs (head name -> (N, ...)) without that layer, as a plain pass gives them.

    layers: name of a layer that could be left out -> whether it gives a tuple; none lies in another. Costs about half of so
    many plain passes, where the layers follow each other.
    """
    with torch.inference_mode():
        known = _outputs(network, names, inputs) if len(names) > 1 else {}
        before: dict[str, nn.Module] = {}
        for name in [*known, *(name for name in names if name not in known)]:
            earlier = before if name in known else {}
            with replaced(network.body, {**earlier, name: Bypassed(layers[name])}):
                yield name, {head: values.numpy() for head, values in network(*inputs).items()}
            if name in known:
                before[name] = _Known(known[name])


def _outputs(network: Network, names: Collection[str], inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """What these layers give, in the order in which they do; without those called more than once, or that give no tensors."""
    found: dict[str, Any] = {}
    often: set[str] = set()

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if name in found or not _is_plain(output):
                often.add(name)
            found[name] = _copy(output)

        return hook

    hooks = [network.body.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: output for name, output in found.items() if name not in often}


class _Known(nn.Module):
    """Gives an output that is known already."""

    def __init__(self, output: Any):
        super().__init__()
        self.output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _copy(self.output)  # what comes next may change it in place


@contextmanager
def replaced(body: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Within, these modules stand in the places of others."""
    kept = {name: body.get_submodule(name) for name in modules}
    try:
        for name, module in modules.items():
            body.set_submodule(name, module)
        yield
    finally:
        for name, module in kept.items():
            body.set_submodule(name, module)


def _is_plain(output: Any) -> bool:
    parts = output if isinstance(output, tuple) else (output,)
    return all(part is None or isinstance(part, Tensor) for part in parts)


def _copy(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(map(_copy, output))
    return output.clone() if isinstance(output, Tensor) else output
