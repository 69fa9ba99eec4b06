"""The estimated cost of a step: from its own earlier run, from one with the same settings, or from a smoke run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from compress_cli.errors import ArtifactError
from compress_cli.identity import not_in_key
from compress_cli.pipeline.smoke import Trial
from compress_cli.pipeline.step import Step
from compress_cli.store import artifact
from compress_cli.store.artifact import MANIFEST, Manifest
from compress_cli.store.store import Store

STATES = 6
"""Room for two saved states of a training, each of weights, their averages and the optimizer's moments."""


class CostEstimate(BaseModel):
    """Time, disk and memory of a step, and how they are known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float
    disk_bytes: int
    memory_bytes: int | None  # the process's peak by the end of that step
    source: str  # "earlier run", "same settings", "smoke run"


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


def cost(step: Step, known: Iterable[Manifest], trials: Iterable[Trial]) -> CostEstimate | None:
    """The best estimate there is, or None. Of the same settings counts the newest that had the same architecture to do with."""
    by_key = {manifest.key: manifest for manifest in known}
    if step.key in by_key:
        return _of(by_key[step.key], "earlier run")
    alike = _alike(step, by_key) if by_key else None
    if alike:
        return _of(alike, "same settings")
    for trial in trials:
        if trial.key == step.key:
            return CostEstimate(seconds=trial.seconds, disk_bytes=trial.bytes, memory_bytes=trial.memory, source="smoke run")
    return None


def _alike(step: Step, known: dict[str, Manifest]) -> Manifest | None:
    """The newest artifact of the same settings and architecture."""
    settings, architecture = _settings(step.stage.model_dump(mode="json"), step), _architecture(step)
    newest = None
    for manifest in known.values():
        if _settings(manifest.stage, step) == settings and _recorded_architecture(manifest, known) == architecture:
            newest = manifest
    return newest


def disk_needed(steps: Iterable[Step], store: Store, trials: Sequence[Trial]) -> int:
    """Bytes that a store needs until these steps are done; a step that nothing is known of counts as none."""
    known, total, training = past(store), 0, 0
    for step in steps:
        estimate = cost(step, known, trials)
        if estimate:
            total += estimate.disk_bytes
            training = max(training, estimate.disk_bytes if step.stage.long else 0)
    return total + STATES * training


def _settings(stage: dict[str, Any], step: Step) -> dict[str, Any]:
    left_out = {field for field, info in type(step.stage).model_fields.items() if not_in_key(info)} | step.stage.consumes.keys()
    return {field: value for field, value in stage.items() if field not in left_out}


def _architecture(step: Step) -> Any:
    """The settings of the model that a step makes or works on."""
    model = step.stage.model_dump(mode="json").get("model")
    sources = [*step.inputs.get("start", ()), *step.sources]
    return model or next(filter(None, map(_architecture, sources)), None)


def _recorded_architecture(manifest: Manifest, known: dict[str, Manifest]) -> Any:
    if model := manifest.stage.get("model"):
        return model
    sources = [*manifest.inputs.get("start", []), *(source for sources in manifest.inputs.values() for source in sources)]
    architectures = (_recorded_architecture(known[source.key], known) for source in sources if source.key in known)
    return next(filter(None, architectures), None)


def _of(manifest: Manifest, source: str) -> CostEstimate:
    return CostEstimate(
        seconds=manifest.wall_time_s,
        disk_bytes=sum(file.bytes for file in manifest.files.values()),
        memory_bytes=manifest.environment.get("peak_memory_bytes"),
        source=source,
    )
