"""Layers become products of smaller layers: low-rank factorisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from compress_cli.context import Context
from compress_cli.errors import RecipeError, StageError
from compress_cli.networks import low_rank, restore
from compress_cli.networks.edits.factorise import Factorise as Edit
from compress_cli.networks.edits.factorise import Factors, replace
from compress_cli.networks.low_rank import Candidate, Method
from compress_cli.progress import Progress
from compress_cli.pruning.cost import Cost, Counted
from compress_cli.settings import Many, Settings
from compress_cli.stages import Role, Stage
from compress_cli.stages._factorisable import body_inputs, factorisable
from compress_cli.store.artifact import Artifact, Checkpoint

CLOSE = 0.02  # a target counts as reached within 2%
HALVINGS = 40
PROBE_ERRORS = (RuntimeError, ValueError, LookupError, AttributeError, TypeError)


class Keep(Settings):
    """How much of the model's cost remains."""

    macs: float | None = Field(None, gt=0, lt=1, description="share of the multiply-accumulates that remains")
    parameters: float | None = Field(None, gt=0, lt=1, description="share of the parameters that remains")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.macs is None) == (self.parameters is None):
            raise ValueError("give one target, either 'macs' or 'parameters'")
        return self

    @property
    def target(self) -> tuple[Counted, float]:
        """What is counted, and the share of it that remains."""
        return ("macs", self.macs) if self.macs is not None else ("parameters", self.parameters or 0.0)


@dataclass(frozen=True)
class Choice:
    """A layer's form, and the relative error of its weight."""

    form: Candidate
    ranks: tuple[int, ...]

    def cost(self, counted: Counted) -> int:
        return self.form.macs(self.ranks) if counted == "macs" else self.form.parameters(self.ranks)


class Factorise(Stage):
    """Replace linear layers and convolutions by products of smaller ones: truncated SVD, or Tucker-2 (Kim et al. 2016).

    Ranks follow from the energy that each layer keeps, from the share of its parameters that is removed, or from a budget
    for the whole model, which is shared out so that the largest relative error of a layer is the least (Liebenwein et al.
    2021, arXiv:2107.11442, here in the Frobenius norm). Of the forms that a layer can have, the one that costs least at its
    error is taken. A layer that would not become smaller stays as it is, and is named. Train the model afterwards:

        - {type: factorise, keep: {macs: 0.5}}
        - {type: train, name: tuned, start: factorise, training: {epochs: 5}}
    """

    version: ClassVar[int] = 3

    consumes: ClassVar[dict[str, Role]] = {"start": Role((Checkpoint,))}
    shared: ClassVar[dict[str, int]] = {"low_rank": low_rank.VERSION}
    seed_dependent: ClassVar[bool] = False
    task_dependent: ClassVar[bool] = False

    start: str | None = Field(None, description="stage whose result is factorised; default: the one before")
    energy: float | None = Field(
        None, gt=0, lt=1, description="share of the squared norm of each layer's weight that the product keeps at least"
    )
    ratio: float | None = Field(None, gt=0, lt=1, description="share of the parameters removed from each layer")
    keep: Keep | None = Field(None, description="share of macs or parameters of the whole model that remains")
    convolutions: Literal["auto", "channel", "spatial", "tucker"] = Field(
        "auto",
        description="channel: fewer filters, then 1 x 1 (Zhang et al. 2016); spatial: a column, then a row (Jaderberg et al. "
        "2014); tucker: 1 x 1, a smaller core, 1 x 1; auto: of each layer the one that costs least",
    )
    subspaces: Many[int] = Field(
        (1,), min_length=1, description="for channel: how many groups of input channels are factorised apart; the best is taken"
    )
    round_to: int = Field(8, ge=1, description="ranks above this are rounded up to its multiples, which run faster")
    ignore: Many[str] = Field((), description="layers that stay as they are; names or patterns")

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if sum(goal is not None for goal in (self.energy, self.ratio, self.keep)) != 1:
            raise ValueError("give one of 'energy', 'ratio' and 'keep'")
        if min(self.subspaces) < 1:
            raise ValueError("subspaces: numbers of groups begin at 1")
        return self

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Checkpoint

    def check_history(self, earlier: Sequence[Stage]) -> None:
        for stage in earlier:
            if (demand := stage.demands()) and not self.ignore:
                raise RecipeError(
                    f"start: '{stage.name or stage.type}' {demand}, and a product of factors would not keep that; "
                    "factorise first, and let that stage follow"
                )

    def run(self, context: Context) -> dict[str, Any]:
        restored = restore.checkpoint(context.inputs["start"][0])
        body, inputs = restored.network.body, body_inputs(restored)
        forms, whole = self._forms(restored, inputs, context)
        before = Cost(body, inputs)
        chosen = self._chosen(body, forms, before) or (self._smallest(body, forms, before) if context.limit else {})
        whole |= {name: "no lower rank would be smaller" for name in forms if name not in chosen}
        if not chosen:
            reasons = "; ".join(f"{layer}: {reason}" for layer, reason in list(whole.items())[:5])
            raise RecipeError(f"no layer would become smaller by these ranks: remove more ({reasons})")
        for name, choice in chosen.items():
            layer = body.get_submodule(name)
            assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
            replace(body, name, low_rank.factorised(layer, choice.form.method, choice.ranks, choice.form.groups))
        layers = {
            name: Factors(method=choice.form.method, ranks=choice.ranks, groups=choice.form.groups)
            for name, choice in chosen.items()
        }
        after = Cost(body, inputs)
        restore.save(restore.Restored(restored.network, restored.model, (*restored.edits, Edit(layers=layers))), context.output)
        facts = {
            "macs": [before.macs(), after.macs()],
            "parameters": [before.parameters(), after.parameters()],
            "layers": {name: _described(choice) for name, choice in chosen.items()},
            "whole": whole,
        }
        return facts | self._reached(before, after, context)

    def _forms(
        self, restored: restore.Restored, inputs: tuple[Tensor, ...], context: Context
    ) -> tuple[dict[str, list[Candidate]], dict[str, str]]:
        """Layer -> the forms that it can have; and the layers that stay whole, with the reason."""
        methods: tuple[Method, ...] = ("svd", "channel", "spatial", "tucker")
        if self.convolutions != "auto":
            methods = ("svd", self.convolutions)
        body = restored.network.body
        places, whole = factorisable(body, inputs, self.ignore, restored.edits)
        forms: dict[str, list[Candidate]] = {}
        for number, (name, positions) in enumerate(places.items()):
            layer = body.get_submodule(name)
            assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
            if not layer.weight.isfinite().all():
                raise StageError(f"the weight of '{name}' holds NaN or infinity: it can't be factorised")
            forms[name] = low_rank.candidates(layer, positions, methods, self.subspaces)
            context.log(Progress("factorise", number + 1, len(places)))
        return forms, whole

    def _chosen(self, body: nn.Module, forms: dict[str, list[Candidate]], full: Cost) -> dict[str, Choice]:
        """Layer -> the form it takes, of those that become smaller; RecipeError where the budget is out of reach."""
        counted: Counted = self.keep.target[0] if self.keep else "parameters"
        sizes = {name: _size(body.get_submodule(name), full, name, counted) for name in forms}
        cheapest = partial(self._cheapest, counted=counted)
        if self.energy is not None:
            error = (1 - self.energy) ** 0.5
            return {name: choice for name in forms if (choice := cheapest(forms[name], error, below=sizes[name]))}
        if self.ratio is not None:
            chosen = {}
            for name, size in sizes.items():
                choices = [_least_error(form, (1 - self.ratio) * size, counted, self.round_to) for form in forms[name]]
                fitting = [choice for choice in choices if choice is not None]
                if fitting:
                    chosen[name] = min(fitting, key=lambda choice: choice.form.error(choice.ranks))
            return chosen
        assert self.keep is not None
        share = self.keep.target[1]

        def within(error: float) -> dict[str, Choice]:
            return {name: choice for name in forms if (choice := cheapest(forms[name], error, below=sizes[name]))}

        def remains(chosen: dict[str, Choice]) -> float:
            saved = sum(sizes[name] - choice.cost(counted) for name, choice in chosen.items())
            return 1 - saved / full.of(counted)

        if (least := remains(within(1.0))) > share * (1 + CLOSE):
            raise RecipeError(f"keep.{counted}: {share} is out of reach by low ranks: at least {least:.3f} remains")
        return within(_bisect(lambda error: remains(within(error)) <= share))

    def _smallest(self, body: nn.Module, forms: dict[str, list[Candidate]], full: Cost) -> dict[str, Choice]:
        """What a smoke run takes where its random weights have no low rank: the form of each layer that costs least."""
        sizes = {name: _size(body.get_submodule(name), full, name, "parameters") for name in forms}
        choices = {name: self._cheapest(forms[name], 1.0, counted="parameters", below=sizes[name]) for name in forms}
        return {name: choice for name, choice in choices.items() if choice is not None}

    def _cheapest(self, forms: list[Candidate], error: float, *, counted: Counted, below: int) -> Choice | None:
        """The form that costs least at this relative error; None where none costs less than the layer."""
        choices = [Choice(form, form.ranks(error, self.round_to)) for form in forms]
        best = min(choices, key=lambda choice: choice.cost(counted), default=None)
        return best if best is not None and best.cost(counted) < below else None

    def _reached(self, before: Cost, after: Cost, context: Context) -> dict[str, Any]:
        if self.keep is None:
            return {}
        counted, share = self.keep.target
        remains = after.of(counted) / before.of(counted)
        is_near = abs(remains - share) <= CLOSE * share
        if not is_near:
            note = f"keep.{counted}: {share} was asked for; {remains:.3f} is the nearest that whole ranks allow"
            context.log(Progress("factorise", 1, 1, note=note))
        return {"asked": {counted: share}, "got": {counted: remains}, "reached": is_near}


def _least_error(form: Candidate, budget: float, counted: Counted, round_to: int) -> Choice | None:
    """The ranks of least error within a cost; None where rank 1 costs more."""

    def fits(error: float) -> bool:
        return Choice(form, form.ranks(error, round_to)).cost(counted) <= budget

    return Choice(form, form.ranks(_bisect(fits), round_to)) if fits(1.0) else None


def _bisect(fits: Callable[[float], bool]) -> float:
    """About the least error that fits; larger ones do."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _size(layer: nn.Module, full: Cost, name: str, counted: Counted) -> int:
    """What a layer's weight costs."""
    weight = f"{name}.weight".lstrip(".")
    if counted == "macs":
        return full.by_weight()[weight]
    assert isinstance(layer.weight, Tensor)
    return layer.weight.numel()


def _described(choice: Choice) -> dict[str, Any]:
    form = choice.form
    return {
        "method": form.method,
        "ranks": list(choice.ranks),
        "of": list(form.full),
        **({"groups": form.groups} if form.groups > 1 else {}),
        "relative_error": form.error(choice.ranks),
    }
