"""What a run says of samples that stand in train and in val or test too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from compress_cli.data import duplicates
from compress_cli.data.datasets import Dataset
from compress_cli.data.duplicates import Overlap, Tell
from compress_cli.errors import CompressError, StageError
from compress_cli.fault import plugins_raise
from compress_cli.pipeline.executor import Listener
from compress_cli.pipeline.plan import Plan
from compress_cli.progress import Progress
from compress_cli.store import durable

_REMARKS = TypeAdapter(tuple[str, ...])


def told(plan: Plan, memory: Path, listener: Listener) -> tuple[str, ...]:
    """The remarks on a plan's data, which its listener hears too."""
    data = replace(plan.steps[0], name="dataset")

    def tell(done: int, total: int) -> None:
        listener.progress(data, Progress("compare splits", done, total))

    transfers = [getattr(step.stage, "transfer", None) for step in plan.stages]
    others = list({dataset.model_dump_json(): dataset for dataset in transfers if isinstance(dataset, Dataset)}.values())
    doubts = remarks(plan.datasets, others, memory, tell)
    for doubt in doubts:
        listener.progress(data, Progress("compare splits", 1, 1, note=doubt))
    return doubts


def remarks(datasets: Sequence[Dataset], transfers: Sequence[Dataset], memory: Path, tell: Tell) -> tuple[str, ...]:
    """A sentence for each split that shares samples with train; empty where none does.

    datasets: the recipe's, or its folds, which share their samples out in different ways; transfers: other data whose train
    split students learn from. `memory` keeps what was found, by
    the datasets' fingerprints. A dataset that can't be read gets no sentence: the stage that needs it says why.
    """
    try:
        with plugins_raise(StageError):
            known = [duplicates.VERSION, *(dataset.fingerprint() for dataset in (*datasets, *transfers))]
            path = memory / f"duplicates-{hashlib.sha256(json.dumps(known).encode()).hexdigest()}.json"
            earlier = _read(path)
            found = tuple(overlap.remark() for overlap in _overlaps(datasets, transfers, tell)) if earlier is None else earlier
    except CompressError:
        return ()
    if earlier is None:
        memory.mkdir(parents=True, exist_ok=True)
        durable.write(path, _REMARKS.dump_json(found))
    return found


def _overlaps(datasets: Sequence[Dataset], transfers: Sequence[Dataset], tell: Tell) -> list[Overlap]:
    """Of all folds together, in which a sample is tested once; samples are hashed once for all of them."""
    digests = duplicates.digests(datasets[0], tell)
    taught = [np.unique(duplicates.digests(transfer, tell, ("train",)).values) for transfer in transfers]
    found: dict[tuple[str, str], list[Overlap]] = {}
    for dataset in datasets:
        overlaps = digests.overlaps(dataset)
        for train in taught:
            overlaps += digests.among(dataset, train, "a sample of the transfer data")
        for overlap in overlaps:
            found.setdefault((overlap.split, overlap.trained), []).append(overlap)
    return [
        Overlap(
            split=several[0].split,
            samples=sum(len(dataset.split(several[0].split)) for dataset in datasets),
            ids=tuple(sorted({sample for overlap in several for sample in overlap.ids})),
            trained=several[0].trained,
        )
        for several in found.values()
    ]


def _read(path: Path) -> tuple[str, ...] | None:
    """What was found before; None where nothing was, or it can't be read."""
    try:
        return _REMARKS.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
