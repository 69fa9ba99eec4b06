"""The estimated cost of a step, and what it stands on: its own earlier run, one like it, or a smoke run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from compress_cli.errors import ArtifactError
from compress_cli.pipeline import paces
from compress_cli.pipeline.paces import Pace, Paces
from compress_cli.pipeline.recipe import Recipe
from compress_cli.pipeline.smoke import Trial
from compress_cli.pipeline.step import Step
from compress_cli.store import artifact
from compress_cli.store.artifact import MANIFEST, Manifest
from compress_cli.store.store import Store

MEMORY = ".machine"  # in the store: choices made once per machine, and what steps took there
STATES = 6
"""Room for two saved states of a training, each of weights, their averages and the optimizer's moments."""
OPENED_S, LOOKS = 0.15, 1.1
"""A comparison takes so long beside its timing, and times its `seconds`: looks beyond the first now and then."""
RESAMPLED = 0.35
"""A comparison of answers takes that share of a measurement, whose resamples it reads."""

Source = Literal[
    "earlier run", "same settings", "similar run", "same stage", "smoke run", "similar smoke run", "its settings", "elsewhere"
]


class CostEstimate(BaseModel):
    """Time, disk and memory of a step, and how they are known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float
    disk_bytes: int
    memory_bytes: int | None  # the process's peak by the end of that step
    source: Source
    """earlier run: of the very step. same settings, similar run, same stage: of one like it, from much to little, on this
    machine. its settings: what they say of a comparison. elsewhere: of the very step, on another machine or other threads."""


def past(store: Store) -> list[Manifest]:
    """The manifests of everything in the store, newest last; damaged ones say nothing here."""
    manifests = []
    for path in sorted(store.root.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime):
        try:
            stored = artifact.read(path.parent)
        except ArtifactError:
            continue  # `run` reports it when it needs it
        if stored:
            manifests.append(stored.manifest)
    return manifests


@dataclass
class Estimates:
    """Estimates for the steps of a recipe's plans."""

    recipe: Recipe
    store: Store
    trials: Sequence[Trial] = ()
    noted: Paces = field(init=False)
    _past: dict[str, Manifest] | None = None

    def __post_init__(self) -> None:
        self.noted = Paces(self.store.root / MEMORY, self.recipe)

    def of(self, step: Step) -> CostEstimate | None:
        """The best estimate there is, or None."""
        if self._past is None:
            self._past = {manifest.key: manifest for manifest in past(self.store)}
        manifest = self._past.get(step.key)
        if manifest and self.noted.fits(manifest):
            return _cost(paces.of_run(manifest, step.stage), step, "earlier run")
        found = self.noted.find(step)
        if found and found[0].origin == "run":
            names: dict[str, Source] = {"same settings": "same settings", "similar": "similar run", "same stage": "same stage"}
            return _cost(found[0], step, names[found[1]])
        for trial in self.trials:
            if trial.key == step.key:
                return _cost(trial.pace, step, "smoke run")
        if found:
            return _cost(found[0], step, "smoke run" if found[1] == "same settings" else "similar smoke run")
        if step.stage.type == "compare":
            return _comparison(step)
        if step.stage.type == "compare_predictions":
            cost = self.of(step.sources[0])
            changes = {"disk_bytes": 4000, "source": "similar smoke run"}
            return cost and cost.model_copy(update={**changes, "seconds": RESAMPLED * cost.seconds})
        return _cost(paces.of_run(manifest, step.stage), step, "elsewhere") if manifest else None

    def disk_needed(self, steps: Iterable[Step]) -> int:
        """Bytes that the store needs until these steps are done; a step that nothing is known of counts as none."""
        total = training = 0
        for step in steps:
            estimate = self.of(step)
            if estimate:
                total += estimate.disk_bytes
                training = max(training, estimate.disk_bytes if step.stage.long else 0)
        return total + STATES * training


def _cost(pace: Pace, step: Step, source: Source) -> CostEstimate:
    return CostEstimate(
        seconds=pace.seconds(step.stage), disk_bytes=pace.disk_bytes, memory_bytes=pace.memory_bytes, source=source
    )


def _comparison(step: Step) -> CostEstimate:
    """Of two files timed in turn, or one alone, whose settings say how long."""
    seconds = getattr(step.stage, "conditions").seconds  # noqa: B009 - a field of that stage alone
    return CostEstimate(seconds=OPENED_S + LOOKS * seconds, disk_bytes=4000, memory_bytes=None, source="its settings")
