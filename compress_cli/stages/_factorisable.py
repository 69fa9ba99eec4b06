"""The layers of a model that products of smaller ones can stand for, and where these are applied."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress_cli.errors import RecipeError
from compress_cli.networks import proof, restore
from compress_cli.networks.edits import Edit
from compress_cli.networks.edits.codebook import Codebook
from compress_cli.networks.edits.factorise import replace
from compress_cli.networks.edits.mask import Mask
from compress_cli.networks.low_rank import Positions
from compress_cli.pruning.channels import evaluating
from compress_cli.settings import suggest

PROBE_ERRORS = (RuntimeError, ValueError, LookupError, AttributeError, TypeError)


def factorisable(
    body: nn.Module, inputs: tuple[Tensor, ...], ignore: Sequence[str], edits: Sequence[Edit] = ()
) -> tuple[dict[str, Positions], dict[str, str]]:
    """Layer -> where it is applied, of the layers that can be factorised; and the others with weight matrices, with the reason.

    A product of factors has neither the zeros nor the few values that an edit of the model demands of a weight. RecipeError
    where `ignore`, of names and patterns, names what is not there."""
    weighted = {name: module for name, module in body.named_modules() if _has_weight_matrix(module)}
    unknown = [pattern for pattern in ignore if not any(fnmatchcase(name, pattern) for name in weighted)]
    if unknown:
        raise RecipeError(f"ignore: no layer is called '{unknown[0]}'; {suggest(unknown[0], list(weighted))}")
    whole = {name: reason for name, module in weighted.items() if (reason := _reason(name, module))}
    whole |= {name: "its weight belongs to another layer too" for name in weighted if name in _shared(body)}
    whole |= {name: reason for name in weighted if (reason := _demand(f"{name}.weight".lstrip("."), edits))}
    whole |= {name: "named in ignore" for name in weighted if any(fnmatchcase(name, pattern) for pattern in ignore)}
    left = [name for name in weighted if name not in whole]
    replaceable, places = _replaceable(body, inputs, left), _places(body, inputs, left)
    whole |= {name: "it is not used" for name in left if name not in places}
    whole |= {name: "the model's code uses more of it than its result" for name in left if name not in replaceable}
    return {name: places[name] for name in left if name not in whole}, whole


def body_inputs(restored: restore.Restored) -> tuple[Tensor, ...]:
    """What the body takes: samples after normalisation, of any values."""
    raw = proof.example(restored.signature)
    with torch.no_grad():
        return tuple(normalise(values) for normalise, values in zip(restored.network.normalise, raw, strict=True))


def _has_weight_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def _reason(name: str, module: nn.Module) -> str:
    """Why a kind of layer has no factors here; empty where it has."""
    if not name:
        return "it is the whole model"
    if type(module) not in (nn.Linear, nn.Conv1d, nn.Conv2d):
        return f"a {type(module).__name__} has no factors here"
    return "its channels are in groups" if getattr(module, "groups", 1) > 1 else ""


def _demand(weight: str, edits: Sequence[Edit]) -> str:
    """What an edit demands of a weight that its factors would not have; empty where it is free."""
    if any(isinstance(edit, Mask) and weight in edit.shapes for edit in edits):
        return "an earlier stage masked single weights of it, and a product of factors has no such zeros"
    if any(isinstance(edit, Codebook) and weight in edit.shapes for edit in edits):
        return "its weights share a few values, and a product of factors does not"
    return ""


def _shared(body: nn.Module) -> set[str]:
    """Layers whose weight is another layer's too, or that have several names."""
    names: dict[int, list[str]] = {}
    for name, parameter in body.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    return {name for several in names.values() if len(several) > 1 for name in several}


def _places(body: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str]) -> dict[str, Positions]:
    """Layer -> where it is applied; of one that is called several times, the sum."""
    found: dict[str, Positions] = {}

    def note(name: str, module: nn.Module, arguments: tuple[Any, ...], result: Tensor) -> None:
        at, old = Positions.of(module, arguments[0], result), found.get(name, Positions(0, 0, 0))
        found[name] = Positions(old.before + at.before, old.between + at.between, old.after + at.after)

    hooks = [body.get_submodule(name).register_forward_hook(partial(note, name)) for name in names]
    try:
        with torch.no_grad(), evaluating(body):
            body(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _replaceable(body: nn.Module, inputs: tuple[Tensor, ...], names: list[str]) -> set[str]:
    """Layers in whose place a sequence of layers will do: the model's code asks nothing else of them."""

    def runs(some: list[str]) -> bool:
        copied = copy.deepcopy(body)
        for name in some:
            replace(copied, name, nn.Sequential(copied.get_submodule(name)))
        try:
            with torch.no_grad(), evaluating(copied):
                copied(*inputs)
        except PROBE_ERRORS:
            return False
        return True

    return set(names) if runs(names) else {name for name in names if runs([name])}
