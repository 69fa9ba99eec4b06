"""How a network is pruned: its cuts, one after the other."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from compress_cli.context import Context
from compress_cli.errors import RecipeError, StageError
from compress_cli.networks import narrowing, restore
from compress_cli.networks.edits import Edit
from compress_cli.networks.narrowing import Proof
from compress_cli.progress import Progress
from compress_cli.pruning import widths
from compress_cli.pruning.channels import Group
from compress_cli.pruning.cost import Cost
from compress_cli.pruning.distributions import Curve
from compress_cli.pruning.distributions.uniform import Uniform
from compress_cli.stages import _cut, _exported, _importance
from compress_cli.stages._cuts import Cuts, Keep
from compress_cli.statistics.findings import Findings, Line
from compress_cli.training.config import TrainingConfig

if TYPE_CHECKING:
    from compress_cli.stages.prune import Prune


def with_edits(restored: restore.Restored, edits: Sequence[Edit]) -> restore.Restored:
    """The same with further edits, which its network already has."""
    return replace(restored, edits=(*restored.network.edits, *edits))


class Pruning:
    """A network on its way through the cuts of a stage.

    masked: whether channels are masked while the network is trained, and cut afterwards: groups whose cut is not equal to
    their mask, since a normalisation tells the two apart, stay whole.
    """

    def __init__(self, stage: Cuts, restored: restore.Restored, context: Context, masked: bool = False):
        self._stage, self.restored, self._context = stage, restored, context
        self._inputs = _cut.probes(restored, context)
        self._proof = Proof(restored.network.body, self._inputs, keeps_norms=masked)
        self._groups, self._whole = _cut.cuttable(restored.network.body, self._inputs, stage.ignore, self._proof)
        self._cost = Cost(restored.network.body, self._inputs, self._groups)
        self._proven = self._groups
        self._full = {group.layer: group.channels for group in self._groups}
        self._before = _cut.facts(self._groups, self._cost, [group.channels for group in self._groups])
        self._by_layer = _cut.matched(stage.ratios, self._groups)
        self._curves = _curves(context)
        self._got: float | None = None
        self._errors: dict[str, dict[str, float]] = {}
        self._history: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._pace: dict[str, float] = {}  # of the trainings so far
        self._cuts: list[dict[str, list[int]]] = []  # layer of a group -> the numbers of its channels that were removed
        self._after: dict[str, int] = {}

    def cut(self, done: float) -> None:
        """Cut so far that this share of the whole cut is made."""
        self._find_groups()
        importance = self.importance()
        kept = self._widths(importance, done)
        removed = [_importance.lowest(score, count) for score, count in zip(importance, kept, strict=True)]
        if done == 1:
            network = self.restored.network
            self._errors = _importance.errors(self._stage.criterion, self._groups, importance, removed, network, self._context)
        self.remove(removed)

    @property
    def groups(self) -> list[Group]:
        """The groups that can be cut."""
        return self._groups

    def importance(self) -> list[Tensor]:
        """(channels,) by group, of the weights as they are; StageError where one is not a number."""
        importance = _importance.scores(self._stage.criterion, self._groups, self.restored.network, self._context)
        _importance.check_finite(importance)
        alike = [group.layer for group, score in zip(self._groups, importance, strict=True) if bool((score == score[0]).all())]
        if alike:
            self._note(f"criterion {self._stage.criterion.type} scores all channels alike in {', '.join(alike)}: the first go")
        return importance

    def planned(self) -> list[int]:
        """How many channels of each group the whole cut would leave by their importance of now."""
        return self._widths(self.importance(), 1.0)

    def remove(self, removed: Sequence[Tensor]) -> None:
        """Cut the channels of these numbers, by group."""
        _cut.check_cut(self._proof, self._groups, removed)
        self._remove(removed)

    def repeat(self, noted: dict[str, Any]) -> None:
        """Make the cuts again that an interrupted run of this stage had made, of whatever weights."""
        for cut in noted["cuts"]:
            self._find_groups()
            self._remove([torch.tensor(cut[group.layer], dtype=torch.int64) for group in self._groups])
        self._history, self._errors, self._notes = noted["history"], noted["errors"], noted["notes"]
        self._got = noted["got"]

    def noted(self) -> dict[str, Any]:
        """Plain data by which the cuts can be repeated."""
        noted = {"cuts": self._cuts, "history": self._history, "errors": self._errors, "notes": self._notes, "got": self._got}
        return copy.deepcopy(noted)

    def _find_groups(self) -> None:
        """The groups of the network as it is after a cut."""
        if self._cuts:
            body = self.restored.network.body
            self._proof = Proof(body, self._inputs)
            self._groups, _ = _cut.cuttable(body, self._inputs, self._stage.ignore, self._proof, self._proven)
            self._cost = Cost(body, self._inputs, self._groups)

    def _remove(self, removed: Sequence[Tensor]) -> None:
        """Remove these channels of the groups."""
        body = self.restored.network.body
        kept = [group.channels - len(numbers) for group, numbers in zip(self._groups, removed, strict=True)]
        macs, fixed = self._cost.macs(kept), self._cost.fixed
        edits = narrowing.narrow_edited(body, self.restored.network.edits, self._groups, removed)
        after = Cost(body, self._inputs)
        if after.macs() - after.fixed != macs - fixed:
            raise StageError("the narrowed model computes something else than its layers say; name its odd layers in 'ignore'")
        self.restored = replace(self.restored, edits=edits)
        self._cuts.append({group.layer: numbers.tolist() for group, numbers in zip(self._groups, removed, strict=True)})
        self._history.append({"macs": after.macs(), "parameters": self._cost.parameters(kept)})
        self._after = {group.layer: group.width_of(count) for group, count in zip(self._groups, kept, strict=True)}

    def train(self, training: TrainingConfig, context: Context) -> dict[str, Any]:
        """Train the network as it is now; facts of the training."""
        facts = cast("Prune", self._stage).teaching.fit(self.restored.network, training, context)
        worked_s = facts["pace"]["worked_s"] + self._pace.get("worked_s", 0.0)
        facts["pace"] = self._pace = {**facts["pace"], "worked_s": worked_s}
        self._history[-1]["epochs"] = len(facts["epochs"])
        self._notes += [note for note in facts.get("notes", []) if note not in self._notes]
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

    def findings(self) -> Findings | None:
        """What the last cut was foretold to cost, layer by layer; None where the criterion foretells nothing."""
        if not self._errors:
            return None
        columns = list(dict.fromkeys(column for errors in self._errors.values() for column in errors))
        return Findings(
            title="What the removal of channels was foretold to cost, and what it costs",
            about=f"{self._stage.criterion.foretells}{' Of the last step.' if len(self._cuts) > 1 else ''}",
            side="PyTorch",
            what="layer",
            columns=columns,
            lines=[
                Line(name=layer, cells=[errors.get(column) for column in columns]) for layer, errors in self._errors.items()
            ],
        )

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
        stage = cast("Prune", self._stage)
        files = _exported.Files(self.restored.network, self._groups, stage.exporter, stage.timing)
        try:
            measure = files.bytes if counted == "bytes" else files.latency

            def at(macs: float, among: Sequence[widths.WidthChoice]) -> list[int]:
                fixed = self._cost.fixed
                return widths.affordable(fixed + macs * (self._cost.macs() - fixed), self._cost.macs, among, spread)

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
