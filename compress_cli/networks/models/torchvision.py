"""Any classification network of torchvision."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from compress_cli.data.signature import Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.models import Model, only_head, only_input, replace_last_layer
from compress_cli.settings import NotInKeyAtDefault, suggest

_AUXILIARY = ("googlenet", "inception_v3")  # their side classifiers train only; without them one head is one tensor


_SCALED = ("mobilenet_v2", "mobilenet_v3")  # their builders take a factor of all channels


class Torchvision(Model):
    """A classification network of torchvision by its builder's name, with fresh weights and the dataset's number of classes.

    For pictures of other than 3 channels the first convolution takes as many as they have. Several heads are linear layers in
    the place of the last one. Layers for features go by torchvision's own names, such as `layer1` or `features.3`. Weights
    published for torchvision load into it by name, where the number of classes is theirs.
    """

    width_fields: ClassVar[tuple[str, ...]] = ("width",)

    name: str = Field(description="the builder, such as resnet50 or mobilenet_v2")
    width: Annotated[float, Field(gt=0), NotInKeyAtDefault()] = Field(
        1.0, description="all channels are multiplied by it; for builders that take `width_mult`, the mobilenets"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        import torchvision

        names = torchvision.models.list_models(module=torchvision.models)
        if name not in names:
            raise ValueError(f"torchvision has no classification network '{name}'; {suggest(name, names)}")
        return name

    @model_validator(mode="after")
    def _has_widths(self) -> Torchvision:
        if self.width != 1 and not self.name.startswith(_SCALED):
            raise ValueError(f"width: torchvision's '{self.name}' has one width only; those that take others: mobilenets")
        return self

    def scaled(self, factor: float) -> Self:
        """RecipeError for a builder of one width."""
        if not self.name.startswith(_SCALED):
            raise RecipeError(f"budget: torchvision's '{self.name}' has no widths that a budget could choose")
        return super().scaled(factor)

    def build(self, signature: Signature) -> nn.Module:
        import torchvision

        channels, height, width = only_input(signature, self.type, axes=3)
        several = len(signature.heads) != 1
        settings: dict[str, Any] = {"num_classes": 1 if several else only_head(signature, self.type)}
        if self.width != 1:
            settings["width_mult"] = self.width
        if self.name in _AUXILIARY:
            settings |= {"aux_logits": False, "init_weights": True}
        if self.name.startswith("vit_"):
            if height != width:
                raise RecipeError(f"torchvision's '{self.name}' takes square pictures; the dataset's are {height} x {width}")
            settings["image_size"] = height
        try:
            body: nn.Module = torchvision.models.get_model(self.name, weights=None, **settings)
        except (ValueError, RuntimeError, AssertionError) as error:  # a patch size that does not divide the picture
            raise RecipeError(f"torchvision can't build '{self.name}' for pictures of {height} x {width}: {error}") from None
        if channels != 3:
            _take_channels(body, channels)
        return replace_last_layer(body, signature, f"torchvision's '{self.name}'") if several else body


def _take_channels(body: nn.Module, channels: int) -> None:
    """Give the first convolution `channels` inputs; with the weights drawn for red, green, blue, red, ..."""
    name, first = next((name, layer) for name, layer in body.named_modules() if isinstance(layer, nn.Conv2d))
    narrow = nn.utils.skip_init(
        nn.Conv2d,
        channels,
        first.out_channels,
        kernel_size=first.kernel_size,
        stride=first.stride,
        padding=first.padding,
        bias=first.bias is not None,
    )
    with torch.no_grad():
        narrow.weight.copy_(first.weight[:, torch.arange(channels) % 3])
        if first.bias is not None:
            narrow.bias.copy_(first.bias)
    body.set_submodule(name, narrow)
