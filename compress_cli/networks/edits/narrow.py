"""Layers made narrower: the record of a cut."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.errors import ArtifactError
from compress_cli.networks.edits import Edit
from compress_cli.settings import Many, NotInKeyAtDefault


class Narrow(Edit):
    """Give tensors the shapes that they have after a cut of channels, and layers the widths that follow.

    The values that remain are in the checkpoint's weights. Replaying the record needs no dependency graph.
    """

    shapes: dict[str, Many[int]] = Field(description="parameter or buffer -> its shape, where the cut changed it")
    numbers: Annotated[dict[str, int], NotInKeyAtDefault()] = Field(
        {},
        description="layer and attribute, such as `attn.num_heads` or `scale.shape.0` (the first of a tuple) -> the number "
        "that the layer's code reads there now",
    )

    def __call__(self, model: nn.Module) -> None:
        """Resize in place; new tensors hold zeros. ArtifactError where the model has no tensor of a recorded name."""
        renewed: dict[int, tuple[Tensor, Tensor]] = {}  # id -> old, new: a tensor that two layers share stays shared
        touched: dict[str, nn.Module] = {}
        for name, shape in self.shapes.items():
            layer, _, tensor = name.rpartition(".")
            module = _module(model, layer)
            current = None if module is None else module._parameters.get(tensor, module._buffers.get(tensor))
            if module is None or current is None or current.dim() != len(shape):
                raise ArtifactError(
                    f"the checkpoint narrows '{name}' to {shape}, which its architecture does not hold: "
                    "it was made with another version of the model; use that one, or make the checkpoint anew"
                )
            if any(current is fresh for _, fresh in renewed.values()):
                continue  # the layer has another name too
            if id(current) not in renewed:
                fresh = torch.zeros(shape, dtype=current.dtype, device=current.device)
                fresh = nn.Parameter(fresh, current.requires_grad) if isinstance(current, nn.Parameter) else fresh
                renewed[id(current)] = current, fresh
            setattr(module, tensor, renewed[id(current)][1])
            touched[layer] = module
        for module in touched.values():
            _follow(module)
        for name, number in self.numbers.items():
            if code_number(model, name) is None:
                raise ArtifactError(
                    f"the checkpoint sets '{name}' to {number}, which its architecture does not hold: "
                    "it was made with another version of the model; use that one, or make the checkpoint anew"
                )
            _set_code_number(model, name, number)


def code_number(model: nn.Module, name: str) -> int | None:
    """A whole number that a layer's code reads, by the names of layer and attribute, and the place where that is a tuple."""
    reader, attribute, place = _reader(model, name)
    value = getattr(reader, attribute, None)
    if place is not None:
        value = value[place] if isinstance(value, tuple) and place < len(value) else None
    return value if isinstance(value, int) else None


def _set_code_number(model: nn.Module, name: str, number: int) -> None:
    reader, attribute, place = _reader(model, name)
    if place is not None:
        before = getattr(reader, attribute)
        setattr(reader, attribute, (*before[:place], number, *before[place + 1 :]))
    else:
        setattr(reader, attribute, number)


def _reader(model: nn.Module, name: str) -> tuple[nn.Module | None, str, int | None]:
    layer, _, attribute = name.rpartition(".")
    if attribute.isdecimal():
        layer, _, holder = layer.rpartition(".")
        return _module(model, layer), holder, int(attribute)
    return _module(model, layer), attribute, None


def _module(model: nn.Module, layer: str) -> nn.Module | None:
    try:
        return model.get_submodule(layer)
    except AttributeError:
        return None


def _follow(module: nn.Module) -> None:
    """Set a layer's widths to those of its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        first, second = module.weight.shape[:2]
        if module.groups == module.in_channels == module.out_channels:  # depthwise: a group for each channel
            module.groups = first
        elif module.groups == module.in_channels > 1 and not module.transposed:  # several channels out of each
            module.groups = first // (module.out_channels // module.groups)
        if module.transposed:
            module.in_channels, module.out_channels = first, second * module.groups
        else:
            module.in_channels, module.out_channels = second * module.groups, first
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        current = module.running_mean if module.running_mean is not None else module.weight
        module.num_features = len(current)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # Hugging Face's linear layer, weights (in, out)
        weight = module.weight
        assert isinstance(weight, Tensor)
        vars(module).update(zip(("nx", "nf"), weight.shape, strict=True))
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
