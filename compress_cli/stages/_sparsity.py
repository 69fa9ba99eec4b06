"""How sparse which layers become."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from compress_cli.errors import RecipeError
from compress_cli.pruning import weights as selection
from compress_cli.pruning.saliencies import Saliency
from compress_cli.pruning.weights import Masks
from compress_cli.settings import Settings
from compress_cli.training.sparsification import Share

Ratio = Annotated[float, Field(ge=0, lt=1)]


class NofM(Settings):
    """N:M sparsity: of every m weights in a row, n remain."""

    n: int = Field(ge=1, description="weights that remain")
    m: int = Field(ge=2, description="of so many that follow each other along the input axis")

    @model_validator(mode="after")
    def _fewer(self) -> Self:
        if self.n >= self.m:
            raise ValueError(f"n must be below m: {self.n} of {self.m} weights would all remain")
        return self


class Gradual(Settings):
    """Masks that grow while the model is trained."""

    begin: float = Field(0.0, ge=0, description="epochs of the training before the first weights are masked")
    end: float = Field(gt=0, description="epochs after which the ratio is reached; the rest of the training recovers")
    every: int = Field(10, ge=1, description="steps of the optimiser between two changes of the masks")
    initial: float = Field(0.0, ge=0, lt=1, description="ratio that the rise begins with")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.end <= self.begin:
            raise ValueError(f"end must come after begin (got {self.begin} and {self.end})")
        return self


class Sparse(Protocol):
    """Settings that say which weights are masked, and how many."""

    @property
    def ratio(self) -> float | None: ...
    @property
    def scope(self) -> Literal["layer", "global"]: ...
    @property
    def layers(self) -> dict[str, float]: ...
    @property
    def n_of_m(self) -> NofM | None: ...
    @property
    def criterion(self) -> Saliency: ...


def check(settings: Sparse) -> None:
    """ValueError where what ranks the weights does not fit what is asked for."""
    if settings.scope == "global" and (settings.layers or settings.ratio is None):
        raise ValueError("scope: global ranks all weights together by 'ratio'; 'layers', 'threshold' and 'n_of_m' do not fit")
    if settings.criterion.across_layers and settings.scope != "global":
        raise ValueError(f"criterion {settings.criterion.type} compares layers; set scope: global and a ratio")


def check_end(gradual: Gradual, epochs: int) -> None:
    """ValueError where training ends before the masks have grown."""
    if gradual.end > epochs:
        raise ValueError(f"gradual: reaches the ratio after {gradual.end:g} epochs, and training ends after {epochs}")


@dataclass(frozen=True)
class Targets:
    """The weights of a model that are to be masked, and how many of them."""

    body: nn.Module
    names: tuple[str, ...]
    dense: dict[str, str]  # parameters that stay dense, with the reason
    ratios: dict[str, float]  # by parameter; empty with `together`, `threshold` and `n_of_m`
    together: float | None
    threshold: float | None
    n_of_m: NofM | None
    axes: dict[str, int]  # by parameter, the axis of the inputs

    @classmethod
    def of(
        cls,
        body: nn.Module,
        ratio: float | None,
        scope: str,
        layers: Mapping[str, float],
        threshold: float | None,
        n_of_m: NofM | None,
        ignore: Sequence[str],
    ) -> Targets:
        """RecipeError for a pattern that matches no layer, and where no layer is left to be masked."""
        found, axes = selection.prunable(body), selection.input_axes(body)
        dense = dict.fromkeys(selection.others(body), "no weight of a convolution or of a linear layer")
        dense |= dict.fromkeys(selection.matching(found, ignore, "ignore"), "it is in ignore")
        ratios = dict.fromkeys(found, ratio or 0.0)
        for pattern, layer_ratio in layers.items():
            ratios |= dict.fromkeys(selection.matching(found, [pattern], "layers"), layer_ratio)
        if n_of_m:
            inputs = {name: weight.shape[axes[name]] for name, weight in found.items()}
            dense = {
                name: f"{n_of_m.m} does not divide its {count} inputs" for name, count in inputs.items() if count % n_of_m.m
            } | dense
        elif threshold is None:
            dense = dict.fromkeys((name for name in found if not ratios[name]), "its ratio is 0") | dense
        weights = {name: weight for name, weight in found.items() if name not in dense}
        if not weights:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(dense.items())[:5])
            raise RecipeError(f"there is no layer whose weights can be masked ({reasons or 'the model has none'})")
        together = ratio if scope == "global" else None
        by_layer = {name: ratios[name] for name in weights} if ratio is not None or layers else {}
        return cls(body, tuple(weights), dense, {} if together else by_layer, together, threshold, n_of_m, axes)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Parameter -> weights, on the device where the model is."""
        return {name: self.body.get_parameter(name) for name in self.names}

    def select(self, scores: Mapping[str, Tensor], share: Share) -> Masks:
        """Masks by scores, at a moment of the way to the ratio."""
        if self.threshold is not None:
            return selection.above(self.weights, self.threshold)
        if self.n_of_m is not None:
            n, m = self.n_of_m.n, self.n_of_m.m
            return selection.n_of_m(scores, self.axes, m - math.floor(share(1 - n / m) * m + 1e-6), m)
        if self.together is not None:
            return selection.lowest_masked_together(scores, share(self.together))
        return selection.lowest_masked(scores, {name: share(ratio) for name, ratio in self.ratios.items()})

    def check(self, masks: Mapping[str, Tensor]) -> None:
        """RecipeError where the model is sparser than it is to become: what is masked stays masked."""
        ratios = self.ratios if self.together is None else {"": self.together}
        for name, ratio in ratios.items():
            present = self.sparsity({name: masks[name]} if name in masks else {} if name else masks, name)
            if present > ratio + 1e-9 and round(present * self._count(name)) > round(ratio * self._count(name)):
                where = f"'{name}'" if name else "the model"
                raise RecipeError(
                    f"ratio: {where} has a sparsity of {present:.3f} already, and {ratio} is asked for; ask for more"
                )

    def sparsity(self, masks: Mapping[str, Tensor], name: str = "") -> float:
        """The share of these weights, or of one parameter's, that is masked."""
        removed = sum(mask.numel() - int(mask.sum()) for parameter, mask in masks.items() if parameter in self.names)
        return removed / self._count(name)

    def notes(self, masks: Masks) -> list[str]:
        """What a user should hear of: layers without any weight, and, for N:M, layers that stay dense."""
        empty = [name for name in self.names if name in masks and not masks[name].any()]
        notes = [f"{len(empty)} layers have no weight left ({_listed(empty)}): nothing passes them"] if empty else []
        odd = [name for name, reason in self.dense.items() if "does not divide" in reason]
        if odd and self.n_of_m:
            notes.append(f"{len(odd)} layers stay dense, since {self.n_of_m.m} does not divide their inputs ({_listed(odd)})")
        return notes

    def facts(self, masks: Masks) -> dict[str, Any]:
        """For the manifest: the sparsity, and by parameter how many weights there are and how many remain."""
        counts = {name: weight.numel() for name, weight in self.weights.items()}
        remain = {name: int(masks[name].sum()) if name in masks else count for name, count in counts.items()}
        return {
            "sparsity": self.sparsity(masks),
            "weights": [sum(counts.values()), sum(remain.values())],
            "layers": {name: [count, remain[name]] for name, count in counts.items()},
            "dense": self.dense,
        }

    def _count(self, name: str = "") -> int:
        names = (name,) if name else self.names
        return sum(self.body.get_parameter(parameter).numel() for parameter in names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if names[3:] else "")
