"""Weights of a layer come to share a few values."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from compress_cli.context import Context
from compress_cli.errors import RecipeError, StageError
from compress_cli.networks import clustering, restore
from compress_cli.networks.clustering import Start
from compress_cli.networks.edits import Edit
from compress_cli.networks.edits.codebook import Codebook
from compress_cli.progress import Progress
from compress_cli.settings import Many, suggest
from compress_cli.stages import Role, Stage
from compress_cli.store.artifact import Artifact, Checkpoint

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
Bits = Annotated[int, Field(ge=1, le=8)]


class ShareWeights(Stage):
    """Replace the weights of each layer by the nearest of 2**bits values, found by k-means (Han et al. 2016, arXiv:1510.00149).

    Weights that are 0, such as those that were pruned, stay 0, and that is one of the values then. Training stages that follow
    fine-tune the values: each moves by the sum of its weights' gradients, so their learning rate has to be small. Exported
    with `storage: auto`, a weight takes as many bits as the number of its value, and beside pruned ones less.

        - {type: share_weights, bits: 4, layers: {fc3: 6}}
        - {type: train, name: tuned, start: share_weights, training: {epochs: 3, optimizer: {type: sgd, learning_rate: 0.0001}}}
    """

    consumes: ClassVar[dict[str, Role]] = {"start": Role((Checkpoint,))}

    start: str | None = Field(None, description="stage whose weights are shared; default: the one before")
    bits: Bits = Field(description="bits of the number of a value: a layer has at most 2**bits values, 0 included")
    layers: dict[str, Bits] = Field(
        {}, description="layer -> its bits; a name may be a pattern (`features.*`); the last that fits counts"
    )
    ignore: Many[str] = Field((), description="layers whose weights stay as they are; names or patterns")
    initial: Start = Field(
        "linear",
        description="the values that k-means begins with. linear: evenly between the least and the largest weight, which "
        "keeps the few large ones; density: evenly over the weights in order; random: weights drawn by the seed",
    )

    def demands(self) -> str:
        return "" if self.ignore else "shares the values of every layer"

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Checkpoint

    def run(self, context: Context) -> dict[str, Any]:
        restored = restore.checkpoint(context.inputs["start"][0])
        chosen, whole = self._chosen(restored.network.body)
        codes, zero, facts = {}, [], {}
        for number, (name, bits) in enumerate(chosen.items()):
            weight = restored.network.body.get_parameter(name)
            numbers, has_zero, layer = _share(name, weight, bits, self.initial, context.seed)
            codes[name] = numbers
            zero += [name] * has_zero
            facts[name] = layer
            context.log(Progress("share weights", number + 1, len(chosen)))
        edits = (*_others(restored.edits, codes), Codebook.of(codes, zero))
        restore.save(restore.Restored(restored.network, restored.model, edits), context.output)
        return {"layers": facts, "whole": whole}

    def _chosen(self, body: nn.Module) -> tuple[dict[str, int], list[str]]:
        """Parameter -> its bits, each tensor once; and the layers that stay whole. RecipeError for a name that fits none."""
        layers = {name: module for name, module in body.named_modules() if isinstance(module, LAYERS)}
        patterns = (*self.layers, *self.ignore)
        unknown = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in layers)]
        if unknown:
            field = "layers" if unknown[0] in self.layers else "ignore"
            raise RecipeError(f"{field}: no layer with weights is called '{unknown[0]}'; {suggest(unknown[0], list(layers))}")
        bits, whole, seen = {}, [], set[int]()
        for name, module in layers.items():
            if any(fnmatchcase(name, pattern) for pattern in self.ignore):
                whole.append(name)
            elif id(module.weight) not in seen:
                fitting = [count for pattern, count in self.layers.items() if fnmatchcase(name, pattern)]
                bits[f"{name}.weight".lstrip(".")] = fitting[-1] if fitting else self.bits
            seen.add(id(module.weight))
        if not bits:
            raise RecipeError("there is no layer whose weights could be shared")
        return bits, whole


def _share(name: str, weight: nn.Parameter, bits: int, initial: Start, seed: int) -> tuple[torch.Tensor, bool, dict[str, Any]]:
    """Give a parameter's weights their shared values, in place; the code of each weight, whether code 0 is 0, and facts."""
    array = weight.detach().numpy()
    if not np.isfinite(array).all():
        raise StageError(f"'{name}' holds NaN or infinity: its weights can't be shared")
    present = array != 0
    has_zero = not present.all()
    values, numbers = clustering.k_means(array[present], 2**bits - has_zero, initial, seed)
    codes = np.zeros(array.shape, np.uint8)
    codes[present] = numbers + has_zero
    shared = np.zeros_like(array)
    shared[present] = values[numbers]
    power, error = float(np.square(array).sum()), float(np.square(array - shared).sum())
    with torch.no_grad():
        weight.copy_(torch.from_numpy(shared))
    return torch.from_numpy(codes), has_zero, {
        "bits": bits,
        "values": len(values) + has_zero,
        "zeros": int(array.size - present.sum()),
        "sqnr_db": 10 * float(np.log10(power / error)) if error and power else None,
    }  # fmt: skip


def _others(edits: tuple[Edit, ...], renewed: dict[str, torch.Tensor]) -> list[Edit]:
    """The earlier edits; of earlier codebooks what is not shared anew."""
    left = [edit.without(renewed) if isinstance(edit, Codebook) else edit for edit in edits]
    return [edit for edit in left if not (isinstance(edit, Codebook) and not edit.shapes)]
