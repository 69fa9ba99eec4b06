"""Whole channels are removed, and what is left is trained on."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from compress_cli.context import Context
from compress_cli.data.batch import from_arrays
from compress_cli.distillation.ensemble import Ensemble, assemble
from compress_cli.errors import RecipeError, StageError
from compress_cli.losses import Loss
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.networks import features, restore
from compress_cli.networks.edits.narrow import Narrow
from compress_cli.progress import Progress
from compress_cli.pruning import channels, dependency_graph, widths
from compress_cli.pruning.channels import Group, evaluating
from compress_cli.pruning.cost import Cost
from compress_cli.pruning.criteria import Criterion
from compress_cli.pruning.criteria.l2 import L2
from compress_cli.settings import Many, Settings
from compress_cli.stages import Role, Stage
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program
from compress_cli.training import loop
from compress_cli.training.config import TrainingConfig
from compress_cli.training.objective import hard_losses

BATCH, BATCHES = 64, 16  # how many training images a criterion that needs gradients sees


class Keep(Settings):
    """What remains after the cut, as a share of what there was."""

    macs: float | None = Field(None, gt=0, lt=1, description="share of the multiply-accumulates that remains")
    parameters: float | None = Field(None, gt=0, lt=1, description="share of the parameters that remains")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.macs is None) == (self.parameters is None):
            raise ValueError("give one target, either 'macs' or 'parameters'")
        return self

    @property
    def target(self) -> tuple[Literal["macs", "parameters"], float]:
        """What is counted, and the share that remains."""
        return ("macs", self.macs) if self.macs is not None else ("parameters", self.parameters or 0.0)


class Prune(Stage):
    """Remove whole channels, everywhere they reach, and train what is left.

    Layers whose channels hang together (through additions, concatenations, depthwise convolutions) are cut together,
    found by the dependency graph of Fang et al. 2023 (arXiv:2301.12900). Every group loses about the same share, its
    least important channels first; what makes the model's outputs is never cut.
    """

    consumes: ClassVar[dict[str, Role]] = {
        "start": Role((Checkpoint,)),
        "teacher": Role((Checkpoint, Program, OnnxModel), previous=False, optional=True, many=False),
    }
    shared: ClassVar[dict[str, int]] = {"channels": channels.VERSION, "training": loop.VERSION}
    long: ClassVar[bool] = True

    start: str | None = Field(None, description="stage whose result is pruned; default: the one before")
    teacher: str | None = Field(None, description="stage whose model teaches while what is left is trained")
    ratio: float | None = Field(None, gt=0, lt=1, description="share of channels removed from each layer; or give 'keep'")
    keep: Keep | None = Field(None, description="share of macs or parameters that remains; or give 'ratio'")
    criterion: Criterion = Field(L2(), description="which channels go first: those that score lowest")
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="widths left are multiples of this; auto: 16 or 8 by layer width, smaller below 16"
    )
    ignore: Many[str] = Field((), description="layers that stay whole; a name covers what stands below it")
    training: TrainingConfig | None = Field(None, description="training after the cut; default: none")
    losses: Many[Loss] = Field((), description="for that training; default: hard labels, with a teacher its soft targets too")

    @field_validator("round_to", mode="before")
    @classmethod
    def _whole_or_auto(cls, value: Any) -> Any:
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError("must be a whole number from 1 on, or 'auto'")  # one complaint, not one for each choice
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.ratio is None) == (self.keep is None):
            raise ValueError("give either 'ratio' (the share of channels removed) or 'keep' (the share of cost that remains)")
        idle = "teacher" if self.teacher else "losses" if self.losses else ""
        if self.training is None and idle:
            raise ValueError(f"'{idle}' does nothing without 'training': add a training block, or take '{idle}' out")
        return self

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Checkpoint

    def depends(self) -> dict[str, Any]:
        return {"torch-pruning": importlib.metadata.version("torch-pruning")}

    def run(self, context: Context) -> dict[str, Any]:
        restored = restore.checkpoint(context.inputs["start"][0])
        body, inputs = restored.network.body, _normalised(restored)
        groups, whole = _cuttable(body, inputs, self.ignore)
        cost = Cost(body, inputs, groups)
        kept = self._kept(groups, cost)
        facts = {**_facts(groups, cost, kept), **self._target(cost, kept), "whole": whole}
        if not facts.get("reached", True):
            context.log(Progress("prune", 1, 1, note=_shortfall(facts)))
        scores = _scores(self.criterion, groups, restored, context)
        edit = _narrow(body, groups, [_lowest(score, count) for score, count in zip(scores, kept, strict=True)])
        if Cost(body, inputs).macs() != facts["macs"][1]:
            raise StageError("the narrowed model computes something else than its layers say; name its odd layers in 'ignore'")
        narrowed = restore.Restored(restored.network, restored.model, (*restored.edits, edit))
        if self.training is not None:
            losses, teachers = self._distillation(context, restored.signature.heads, self.training.batch)
            facts |= loop.fit(narrowed.network, losses, self.training, context, teachers)
        restore.save(narrowed, context.output)
        return facts

    def _kept(self, groups: Sequence[Group], cost: Cost) -> list[int]:
        """How many channels each group keeps; RecipeError where none goes, or where the target is out of reach."""
        choices = widths.choices([(group.channels, group.multiple) for group in groups], self.round_to)
        if self.keep is None:
            kept = widths.nearest(1 - (self.ratio or 0.0), choices)
        else:
            what, share = self.keep.target
            count = _count(cost, what)
            kept = widths.affordable(share * count(), count, choices)
            if all(each[-1] == mine for each, mine in zip(choices[-1], kept, strict=True)) and count(kept) > share * count() * (
                1 + widths.CLOSE
            ):
                raise RecipeError(
                    f"keep.{what}: {share} is out of reach: with these layers and round_to {self.round_to}, "
                    f"at least {count(kept) / count():.3f} remains"
                )
        if all(count == group.channels for count, group in zip(kept, groups, strict=True)):
            wide = sorted({group.width for group in groups})
            raise RecipeError(
                f"no layer loses a channel when {wide} are rounded to {self.round_to}: remove more, or round to less"
            )
        return kept

    def _target(self, cost: Cost, kept: list[int]) -> dict[str, Any]:
        """For the manifest: what was asked to remain, what does, and whether that counts as reached."""
        if self.keep is None:
            return {}
        what, share = self.keep.target
        remains = _count(cost, what)(kept) / _count(cost, what)()
        near = abs(remains - share) <= widths.CLOSE * share
        return {"asked": {what: share}, "got": {what: remains}, "reached": near}

    def _distillation(self, context: Context, heads: Collection[str], batch: int) -> tuple[tuple[Loss, ...], Ensemble]:
        """The losses of the training after the cut, and the opened teacher where there is one."""
        losses = self.losses
        if not losses:
            losses = hard_losses(context.task, heads)
            if self.teacher:
                soft = (SoftTargets(head=getattr(each, "head", ""), weight=0.9, temperature=4.0) for each in losses)
                losses = (*soft, *(each.model_copy(update={"weight": 0.1}) for each in losses))
        sources = dict(zip((self.teacher or "",), context.inputs.get("teacher", ()), strict=False))
        return losses, assemble(sources, losses, context.split("train", batch).index, context.device)


def _cuttable(body: nn.Module, inputs: tuple[Tensor, ...], ignore: Sequence[str]) -> tuple[list[Group], dict[str, str]]:
    """The groups that can be cut, and the layers that stay whole, with the reason.

    Whether a model bears a cut is tried: code that writes a width down (heads of attention, a channel shuffle) fails, or
    computes something else.
    """
    found = dependency_graph.build(body, inputs, ignore)
    groups, whole = list(found.groups), dict(found.whole)
    if not _survives_pruning(body, inputs, groups):
        for group in groups:
            if not _survives_pruning(body, inputs, [group]):
                whole[group.layer] = "the model does not run, or goes wrong, when it is narrower"
        groups = [group for group in groups if group.layer not in whole]
    if not groups:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in list(whole.items())[:5])
        raise RecipeError(f"there is no layer that can be cut ({reasons})")
    return groups, whole


def _survives_pruning(body: nn.Module, inputs: tuple[Tensor, ...], groups: Sequence[Group]) -> bool:
    """Whether the body without every other channel of each group computes what it does with these channels masked.

    A layer that normalises over channels has other statistics over fewer of them: there only the shapes are compared.
    """
    removed = [torch.arange(min(1, group.channels - 1), group.channels, 2) for group in groups]
    removed = [gone[: group.channels - 1] for gone, group in zip(removed, groups, strict=True)]
    silent, narrower = copy.deepcopy(body), copy.deepcopy(body)
    silent.load_state_dict(channels.masked(body, groups, removed))
    _narrow(narrower, groups, removed)
    with torch.no_grad(), evaluating(silent), evaluating(narrower):
        expected = _heads(silent(*inputs))
        try:
            found = _heads(narrower(*inputs))
        except (RuntimeError, ValueError, LookupError, AssertionError):  # whatever the user's model says to a wrong shape
            return False
    if {name: head.shape for name, head in found.items()} != {name: head.shape for name, head in expected.items()}:
        return False
    if any(isinstance(module, nn.LayerNorm | nn.GroupNorm) for module in body.modules()):
        return True
    return all(_close(found[name], expected[name]) for name in expected)


def _close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding, which grows with the size of the numbers."""
    return bool((found - expected).abs().max() <= 1e-3 * expected.abs().max().clamp(min=1e-6))


def _narrow(body: nn.Module, groups: Sequence[Group], removed: Sequence[Tensor]) -> Narrow:
    """Cut the body in place; the record of it."""
    before = {name: tensor.shape for name, tensor in body.state_dict().items()}
    after = channels.cut(body, groups, removed)
    edit = Narrow(shapes={name: tuple(each.shape) for name, each in after.items() if each.shape != before[name]})
    edit(body)
    body.load_state_dict(after)
    return edit


def _scores(criterion: Criterion, groups: Sequence[Group], restored: restore.Restored, context: Context) -> list[Tensor]:
    """The importance of each group's channels, averaged over training batches where it needs gradients."""
    if not criterion.gradients:
        return [criterion(group, {}) for group in groups]
    network, losses = restored.network, hard_losses(context.task, restored.signature.heads)
    body = dict(network.body.named_parameters(remove_duplicate=False))
    split, sums = context.split("train", BATCH), [torch.zeros(group.channels) for group in groups]
    order = np.random.default_rng(context.seed).permutation(len(split))[: BATCH * BATCHES]
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for rows in batches:
        part = split.take(rows)
        batch = from_arrays(part.inputs, part.targets, part.index)
        outputs = features.outputs(network, restored.signature, batch, (), {})
        loss = torch.stack([each(outputs, (), batch, nn.Identity()) for each in losses]).sum()
        given = torch.autograd.grad(loss, list(body.values()), materialize_grads=True)
        gradients = dict(zip(body, given, strict=True))
        sums = [total + criterion(group, gradients) for total, group in zip(sums, groups, strict=True)]
    return [total / len(batches) for total in sums]


def _lowest(score: Tensor, kept: int) -> Tensor:
    """The numbers of the channels that go, in order; of equal ones the first."""
    if not score.isfinite().all():
        raise StageError("a channel's importance is not a number: the weights hold NaN or infinity")
    return score.argsort(stable=True)[: len(score) - kept].sort().values


def _facts(groups: Sequence[Group], cost: Cost, kept: list[int]) -> dict[str, Any]:
    return {
        "macs": [cost.macs(), cost.macs(kept)],
        "parameters": [cost.parameters(), cost.parameters(kept)],
        "widths": {group.layer: [group.width, count * group.multiple] for group, count in zip(groups, kept, strict=True)},
    }


def _shortfall(facts: dict[str, Any]) -> str:
    ((what, asked),) = facts["asked"].items()
    return f"keep.{what}: {asked} was asked for; {facts['got'][what]:.3f} is the nearest that rounding allows"


def _count(cost: Cost, what: str) -> Callable[..., int]:
    return cost.macs if what == "macs" else cost.parameters


def _normalised(restored: restore.Restored) -> tuple[Tensor, ...]:
    """An example of what the body takes."""
    raw = restore.example(restored.signature)
    return tuple(prepare(each) for prepare, each in zip(restored.network.normalise, raw, strict=True))


def _heads(outputs: Any) -> dict[str, Tensor]:
    return outputs if isinstance(outputs, dict) else {"": outputs}
