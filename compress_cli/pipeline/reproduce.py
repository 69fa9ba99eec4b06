"""Whether a run can be reproduced: run afresh from its lock file, and compared artifact by artifact.

On the same kind of machine with the same libraries every byte has to agree, but for timings. Elsewhere other bytes are
to be expected, and the metrics have to lie within the intervals that the run reported.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from compress_cli.errors import ArtifactError, GateError
from compress_cli.measurement.measure import COMPARISON, MEASUREMENT, Figures, Timing
from compress_cli.pipeline import lock
from compress_cli.pipeline.estimate import MEMORY
from compress_cli.pipeline.executor import Listener
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.run import Run
from compress_cli.store import artifact, durable
from compress_cli.store.artifact import Artifact, Comparison, Measurement
from compress_cli.store.record import Record
from compress_cli.store.store import Store

MATTERS = ("device", "processor", "threads", "processes", "python", "libraries", "precision")
"""Entries of an artifact's environment that its bytes may depend on."""


class Compared(BaseModel):
    """One artifact, then and now."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: str
    outcome: Literal["same bytes", "within intervals", "timed", "other bytes", "other figures"]
    detail: str = ""

    @property
    def reproduced(self) -> bool:
        return not self.outcome.startswith("other")


class Reproduction(BaseModel):
    """A run, then and now."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    by: Literal["bytes", "figures"]
    differs: list[str]
    """How this machine differs."""
    artifacts: list[Compared]

    def decide(self) -> None:
        """GateError names what was not reproduced."""
        changed = [pair for pair in self.artifacts if not pair.reproduced]
        failed = [pair for pair in changed if self.by == "bytes" or pair.outcome == "other figures"]
        lines = [f"{pair.step}: {pair.outcome}{f': {pair.detail}' if pair.detail else ''}" for pair in failed]
        if lines:
            raise GateError("\n".join([*lines, f"  {self.run} was not reproduced (compared by {self.by})"]))


def reproduce(directory: Path, output: Path, listener: Listener) -> Reproduction:
    """Run the lock file of the run in `directory` afresh under `output`, with the threads it had, and compare.

    ArtifactError where the run is not whole; what running raises.
    """
    record = Record.read(directory)
    before = _whole(record, directory)
    planned = _as_then(lock.planned(directory, record), before)
    store = Store(output / ".store")
    if store.entries():
        raise ArtifactError(f"{store.root}: holds artifacts already; name an empty folder with --output")
    memory = directory / record.store / MEMORY
    if memory.is_dir():  # what was chosen by timing on this machine is repeated, since it changes results
        shutil.copytree(memory, store.root / MEMORY, dirs_exist_ok=True, ignore=_odd_entries)
    again = output / planned.recipe.name
    Run(planned, store, again, listener).execute()
    return compared(directory, again)


def _odd_entries(folder: str, names: list[str]) -> list[str]:
    """Entries that are neither files nor folders, such as FIFOs, which would be waited for."""
    return [name for name in names if durable.kind_of(Path(folder, name)) not in ("file", "folder")]


def compared(then: Path, now: Path) -> Reproduction:
    """Two runs of one recipe, by the folders of both; ArtifactError where either is not whole."""
    runs = [(Record.read(folder), folder) for folder in (then, now)]
    old, new = (_whole(record, folder) for record, folder in runs)
    differs = _differences([(stored, new[name]) for name, stored in old.items() if name in new])
    missing = [Compared(step=name, outcome="other bytes", detail="was not produced") for name in old if name not in new]
    pairs = [_compare(name, stored, new[name], exact=not differs) for name, stored in old.items() if name in new]
    return Reproduction(
        run=str(then), by="figures" if differs else "bytes", differs=differs, artifacts=[*missing, *pairs]
    )  # fmt: skip


def _whole(record: Record, directory: Path) -> dict[str, Artifact]:
    """A run's artifacts by the names of their steps, each compared with its hashes."""
    store, artifacts = Store(directory / record.store), {}
    for name, key in record.keys(directory).items():
        stored = store.get(key)
        if stored is None:
            raise ArtifactError(f"{name}: {store.directory(key)} is missing; {artifact.REMEDY}")
        stored.verify()
        artifacts[name] = stored
    return artifacts


def _as_then(planned: Plan, before: dict[str, Artifact]) -> Plan:
    """With the number of threads that the run had, on which bytes depend."""
    threads = next((artifact.manifest.environment.get("threads") for artifact in before.values()), None)
    if not isinstance(threads, int) or threads < 1:
        return planned
    recipe = planned.recipe.model_copy(update={"threads": threads})
    return replace(planned, recipe=recipe)


def _differences(pairs: list[tuple[Artifact, Artifact]]) -> list[str]:
    differences: dict[str, None] = {}
    for then, now in pairs:
        for name in MATTERS:
            one, other = (artifact.manifest.environment.get(name) for artifact in (then, now))
            if one != other:
                differences[f"{name}: {_difference(one, other)}"] = None
    return list(differences)


def _difference(one: Any, other: Any) -> str:
    """`torch 2.14, now 2.15`"""
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        return ", ".join(f"{name} {one.get(name)}, now {other.get(name)}" for name in names)
    return f"{one}, now {other}"


def _compare(name: str, then: Artifact, now: Artifact, exact: bool) -> Compared:
    if isinstance(then, Comparison) and COMPARISON in then.manifest.files:
        old, new = (_timed(_document(artifact, COMPARISON, Timing)) for artifact in (then, now))
        return Compared(step=name, outcome="timed", detail=f"{old} then, {new} now")
    if then.digest == now.digest:
        return Compared(step=name, outcome="same bytes")
    if isinstance(then, Measurement) and not exact:
        return _figures(name, *(_document(source, MEASUREMENT, Figures) for source in (then, now)))
    old_files, new_files = then.manifest.files, now.manifest.files
    changed = [file for file in sorted({**old_files, **new_files}) if old_files.get(file) != new_files.get(file)]
    return Compared(step=name, outcome="other bytes", detail=", ".join(changed))


def _timed(timing: Timing) -> str:
    """The speed-up against the baseline; the latency of a model that has none."""
    estimate, unit = (timing.speedup.speedup, "x") if timing.speedup else (timing.latency.p50_ms, " ms")
    return f"{estimate.value:.3g}{unit} [{estimate.low:.3g}, {estimate.high:.3g}]"


def _figures(name: str, then: Figures, now: Figures) -> Compared:
    outside = [
        f"{metric} {now.metrics[metric].value:.4g} is not within [{old.low:.4g}, {old.high:.4g}]"
        for metric, old in then.metrics.items()
        if metric not in now.metrics or not old.low <= now.metrics[metric].value <= old.high
    ]
    if outside:
        return Compared(step=name, outcome="other figures", detail="; ".join(outside))
    within = [f"{metric} {now.metrics[metric].value:.4g}, then {old.value:.4g}" for metric, old in then.metrics.items()]
    return Compared(step=name, outcome="within intervals", detail="; ".join(within))


def _document(source: Artifact, name: str, kind: Any) -> Any:
    return kind.model_validate(json.loads(source.file(name).read_text()))
