"""How a network is pruned: the settings of its cuts, and the cuts themselves, one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from compress_cli.context import Context
from compress_cli.errors import RecipeError, StageError
from compress_cli.networks import narrowing, restore
from compress_cli.networks.edits import Edit
from compress_cli.networks.narrowing import Proof
from compress_cli.progress import Progress
from compress_cli.pruning import widths
from compress_cli.pruning.cost import Cost
from compress_cli.pruning.distributions import Curve
from compress_cli.pruning.distributions.uniform import Uniform
from compress_cli.settings import Settings
from compress_cli.stages import _cut, _exported, _importance, _teaching
from compress_cli.training import loop
from compress_cli.training.config import TrainingConfig

if TYPE_CHECKING:
    from compress_cli.stages.prune import Prune

Share = Annotated[float, Field(gt=0, lt=1)]


class Keep(Settings):
    """How much of the model's cost remains after the cut. One of these."""

    macs: Share | None = Field(None, description="share of the multiply-accumulates that remains")
    parameters: Share | None = Field(None, description="share of the parameters that remains")
    bytes: Share | None = Field(None, description="share of the exported file's bytes that remains")
    latency: Share | None = Field(None, description="share of the exported file's latency that remains, measured here")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError("give one target, either 'macs' or 'parameters' or 'bytes' or 'latency'")
        return self

    @property
    def target(self) -> tuple[str, float]:
        """What is counted, and the share of it that remains."""
        return next(((name, share) for name in type(self).model_fields if (share := getattr(self, name))), ("", 1.0))


class Steps(Settings):
    """The cut in several steps, with training in between."""

    count: int = Field(ge=2, le=1000, description="cuts")
    pace: Literal["even", "cubic"] = Field(
        "even",
        description="even: every step removes as much; cubic: the first most, 1 - (1 - t / count)^3 of all after t of them "
        "(Zhu and Gupta 2017, arXiv:1710.01878)",
    )
    training: TrainingConfig | None = Field(None, description="training after each step but the last; default: none")

    def done(self, step: int) -> float:
        """The share of the cut that is made after so many steps."""
        left = 1 - step / self.count
        return 1 - (left if self.pace == "even" else left**3)


def with_edits(restored: restore.Restored, edits: Sequence[Edit]) -> restore.Restored:
    """The same with further edits, which its network already has."""
    return replace(restored, edits=(*restored.network.edits, *edits))


class Pruning:
    """A network on its way through the cuts of a stage."""

    def __init__(self, stage: Prune, restored: restore.Restored, context: Context):
        self._stage, self.restored, self._context = stage, restored, context
        self._inputs = _cut.probes(restored, context)
        self._proof = Proof(restored.network.body, self._inputs)
        self._groups, self._whole = _cut.cuttable(restored.network.body, self._inputs, stage.ignore, self._proof)
        self._cost = Cost(restored.network.body, self._inputs, self._groups)
        self._proven = [group.layer for group in self._groups]
        self._full = {group.layer: group.channels for group in self._groups}
        self._before = _cut.facts(self._groups, self._cost, [group.channels for group in self._groups])
        self._by_layer = _cut.matched(stage.ratios, self._groups)
        self._curves = _curves(context)
        self._got: float | None = None
        self._errors: dict[str, dict[str, float]] = {}
        self._history: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._cuts = 0
        self._pace: dict[str, float] = {}  # of the trainings so far
        self._after: dict[str, int] = {}

    def cut(self, done: float) -> None:
        """Cut so far that this share of the whole cut is made."""
        body = self.restored.network.body
        if self._cuts:
            self._proof = Proof(body, self._inputs)
            self._groups, _ = _cut.cuttable(body, self._inputs, self._stage.ignore, self._proof, self._proven)
            self._cost = Cost(body, self._inputs, self._groups)
        importance = _importance.scores(self._stage.criterion, self._groups, self.restored.network, self._context)
        _importance.check_finite(importance)
        alike = [group.layer for group, score in zip(self._groups, importance, strict=True) if bool((score == score[0]).all())]
        if alike:
            self._note(f"criterion {self._stage.criterion.type} scores all channels alike in {', '.join(alike)}: the first go")
        kept = self._widths(importance, done)
        removed = [_importance.lowest(score, count) for score, count in zip(importance, kept, strict=True)]
        _cut.check_cut(self._proof, self._groups, removed)
        if done == 1:
            network = self.restored.network
            self._errors = _importance.errors(self._stage.criterion, self._groups, importance, removed, network, self._context)
        macs = self._cost.macs(kept)
        edits = narrowing.narrow_edited(body, self.restored.network.edits, self._groups, removed)
        if Cost(body, self._inputs).macs() != macs:
            raise StageError("the narrowed model computes something else than its layers say; name its odd layers in 'ignore'")
        self.restored = replace(self.restored, edits=edits)
        self._cuts += 1
        self._history.append({"macs": macs, "parameters": self._cost.parameters(kept)})
        self._after = {group.layer: group.width_of(count) for group, count in zip(self._groups, kept, strict=True)}

    def train(self, training: TrainingConfig, context: Context) -> dict[str, Any]:
        """Train the network as it is now; facts of the training."""
        losses, teachers = _teaching.opened(self._stage, context, self.restored.signature.heads, training.batch)
        facts = loop.fit(self.restored.network, losses, training, context, teachers)
        worked_s = facts["pace"]["worked_s"] + self._pace.get("worked_s", 0.0)
        facts["pace"] = self._pace = {**facts["pace"], "worked_s": worked_s}
        self._history[-1]["epochs"] = len(facts["epochs"])
        return facts

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        last = self._history[-1]
        facts = {
            "macs": [self._before["macs"][0], last["macs"]],
            "parameters": [self._before["parameters"][0], last["parameters"]],
            "widths": {layer: [pair[0], self._after[layer]] for layer, pair in self._before["widths"].items()},
            **self._target(),
            "whole": self._whole,
        }
        if len(self._history) > 1:
            facts["steps"] = self._history
        if not facts.get("reached", True):
            self._note(_shortfall(facts))
        more = {"errors": self._errors, "notes": self._notes, "pace": self._pace}
        return facts | {name: value for name, value in more.items() if value}

    def _note(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)
            self._context.log(Progress("prune", 1, 1, note=note))

    def _target(self) -> dict[str, Any]:
        """The share that was to remain, the share that does, and whether that counts as reached."""
        if self._stage.keep is None:
            return {}
        counted, share = self._stage.keep.target
        if self._got is None:
            self._got = self._history[-1][counted] / self._before[counted][0]
        near = abs(self._got - share) <= widths.CLOSE * share
        return {"asked": {counted: share}, "got": {counted: self._got}, "reached": near}

    def _widths(self, importance: Sequence[Tensor], done: float) -> list[int]:
        """How many channels each group keeps; RecipeError where none is removed, or where the target is out of reach."""
        stage, groups = self._stage, self._groups
        full = [group.channels for group in groups]
        choices = widths.choices([(group.channels, group.multiple, group.fixed) for group in groups], stage.round_to)
        asked = {
            number: max(1, round(self._full[group.layer] * (1 - done * self._by_layer[group.layer])))
            for number, group in enumerate(groups)
            if group.layer in self._by_layer
        }
        choices = _cut.pinned(choices, asked)
        spread = _cut.spread(stage.distribution, groups, importance, self._curves)
        if stage.keep:
            kept = self._kept(stage.keep, choices, spread, done)
        elif stage.ratio:
            kept = self._by_ratio(done * stage.ratio, choices, spread)
        else:
            kept = [asked_count[0] if number in asked else full[number] for number, asked_count in enumerate(choices[-1])]
        if kept == full and done == 1 and not self._cuts:
            wide = sorted({group.width for group in groups})
            raise RecipeError(
                f"no layer loses a channel when {wide} are rounded to {stage.round_to}: remove more, or round to less"
            )
        return kept

    def _by_ratio(self, ratio: float, choices: Sequence[widths.WidthChoice], spread: widths.Spread) -> list[int]:
        if isinstance(self._stage.distribution, Uniform):
            shares = [(1 - ratio) * self._full[group.layer] / group.channels for group in self._groups]
            return widths.nearest(shares, choices)
        full = sum(self._full.values())
        return widths.affordable((1 - ratio) * full, sum, choices, spread)

    def _kept(self, keep: Keep, choices: list[widths.WidthChoice], spread: widths.Spread, done: float) -> list[int]:
        """How many channels each group keeps for the cost that is to remain."""
        counted, share = keep.target
        share = share if done == 1 else 1 - done * (1 - share)
        if counted in ("macs", "parameters"):
            cost = self._cost.macs if counted == "macs" else self._cost.parameters
            before = self._before[counted][0]
            kept = widths.affordable(share * before, cost, choices, spread)
            remains = cost(kept) / before
            if kept == [counts[-1] for counts in choices[-1]] and remains > share * (1 + widths.CLOSE) and done == 1:
                raise RecipeError(
                    f"keep.{counted}: {share} is out of reach: with these layers and round_to {self._stage.round_to}, "
                    f"at least {remains:.3f} remains"
                )
            return kept
        return self._measured(counted, share, choices, spread)

    def _measured(self, counted: str, share: float, choices: list[widths.WidthChoice], spread: widths.Spread) -> list[int]:
        """The same for a cost of the exported file."""
        files = _exported.Files(self.restored.network, self._groups, self._stage.exporter, self._stage.timing)
        try:
            measure = files.bytes if counted == "bytes" else files.latency

            def at(macs: float, among: Sequence[widths.WidthChoice]) -> list[int]:
                return widths.affordable(macs * self._cost.macs(), self._cost.macs, among, spread)

            smoke = self._context.limit is not None
            if counted == "latency" and len(choices) > 2 and not smoke:
                coarse, fine = at(share, choices[:2]), at(share, choices[2:])
                choices = choices[2:] if coarse != fine and measure(fine) < measure(coarse) else choices
            before = 1.0 if self._got is None else self._got  # what earlier steps left, which this one's files start from
            exports = 1 if smoke else _exported.EXPORTS
            among = choices
            kept, left = _exported.search(share / before, lambda macs: at(max(macs, 1e-6), among), measure, counted, exports)
            self._got = before * left
        finally:
            files.close()
        return kept


def _curves(context: Context) -> dict[str, Curve]:
    """The curves of a stage `pruning_sensitivity`, by layer."""
    tables = context.inputs.get("sensitivity", ())
    if not tables:
        return {}
    document = json.loads(tables[0].file(_cut.CURVES).read_text())
    return {layer: [(share, cost) for share, cost in curve] for layer, curve in document["costs"].items()}


def _shortfall(facts: dict[str, Any]) -> str:
    ((counted, share),) = facts["asked"].items()
    return f"keep.{counted}: {share} was asked for; {facts['got'][counted]:.3f} is the nearest that rounding allows"
