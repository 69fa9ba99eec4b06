"""Which whole layers of a module could be left out: repeated ones that give what they take, but for its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from compress_cli.pruning.channels import evaluating


def candidates(body: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, bool]:
    """Name of a layer that could be left out -> whether it gives a tuple; of nested ones the outermost.

    A candidate stands in a list or sequence beside another layer of its class, holds layers itself, and gives a tensor of the
    shape and type of the one that it takes.
    """
    found: dict[str, bool] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            tensors = bool(args) and isinstance(args[0], Tensor) and isinstance(first, Tensor)
            if tensors and args[0].shape == first.shape and args[0].dtype == first.dtype:
                found[name] = isinstance(output, tuple)

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in _repeated(body).items()]
    try:
        with torch.no_grad(), evaluating(body):
            body(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name in _repeated(body) if name in found]
    return {name: found[name] for name in names if not any(name.startswith(f"{other}.") for other in names)}


def units(body: nn.Module, inputs: tuple[Tensor, ...], layers: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], bool]:
    """Of units, each of consecutive layers, those that could be left out together -> whether they give a tuple.

    A unit's last layer gives a tensor of the shape and type of the one that its first takes.
    """
    wanted = list(layers)
    taken: dict[str, Tensor] = {}
    given: dict[str, Any] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if args and isinstance(args[0], Tensor):
                taken[name], given[name] = args[0], output

        return hook

    names = {name for unit in wanted for name in unit}
    hooks = [body.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        with torch.no_grad(), evaluating(body):
            body(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[tuple[str, ...], bool] = {}
    for unit in wanted:
        if unit[0] not in taken or unit[-1] not in given:
            continue
        before, after = taken[unit[0]], given[unit[-1]]
        first = after[0] if isinstance(after, tuple) and after else after
        if isinstance(first, Tensor) and first.shape == before.shape and first.dtype == before.dtype:
            found[unit] = isinstance(after, tuple)
    return found


def _repeated(body: nn.Module) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    for home, container in body.named_modules():
        if not isinstance(container, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            continue
        kinds = Counter(type(child) for child in container.children())
        for name, child in container.named_children():
            if kinds[type(child)] > 1 and any(True for _ in child.children()) and any(True for _ in child.parameters()):
                layers[f"{home}.{name}".lstrip(".")] = child
    return layers
