"""Stored outputs as a teacher."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from compress_cli.data.batch import Batch, Outputs
from compress_cli.distillation import table
from compress_cli.distillation.teachers import Opened, Teacher
from compress_cli.errors import DataError, RecipeError
from compress_cli.store import artifact
from compress_cli.store.artifact import Artifact


class TableTeacher(Teacher):
    """Outputs stored by sample id, of each fixed view or of the sample without augmentation; memory-mapped from disk."""

    takes: ClassVar[tuple[type[Artifact], ...]] = (artifact.Table,)

    def open(self, artifact: Artifact, layers: tuple[str, ...], device: str) -> Opened:
        stored = table.StoredOutputs(artifact)
        columns = [name for kind, name in stored.arrays if kind == "features"]
        missing = [layer for layer in layers if layer not in columns]
        if missing:
            raise RecipeError(
                f"a loss asks for the teacher's layer '{missing[0]}', but the teacher is a table of stored outputs that holds "
                f"{', '.join(columns) or 'no layers'}; use a loss on outputs such as soft_targets"
            )
        return _Lookup(stored, layers, device)

    def check(self, artifact: Artifact, index: np.ndarray) -> None:
        lacking = np.setdiff1d(index, table.StoredOutputs(artifact).ids)
        if len(lacking):
            first = ", ".join(map(str, lacking[:5].tolist()))
            file = artifact.manifest.facts.get("file", artifact.directory)  # a stage's folder may be gone when this is read
            raise DataError(
                f"{file}: the table of stored outputs lacks {len(lacking)} of the {len(index)} samples asked for "
                f"(the first ids: {first}); store the teacher's outputs for them too"
            )


class _Lookup:
    """Rows of a table by sample id and view, looked up on an accelerator where the table takes little of its memory."""

    def __init__(self, stored: table.StoredOutputs, layers: tuple[str, ...], device: str):
        arrays = {(kind, name): array for (kind, name), array in stored.arrays.items() if kind == "heads" or name in layers}
        memory = device if _fits(arrays, device) else "cpu"
        self.views, self.class_axes = stored.views, stored.class_axes
        self.ids, self.rows = (torch.from_numpy(np.asarray(array)).to(memory) for array in (stored.ids, stored.rows))
        self.columns = {name: torch.from_numpy(np.asarray(array)).to(memory) for name, array in arrays.items()}

    def __call__(self, batch: Batch) -> Outputs:
        index = batch.index.to(self.ids.device)
        rows = self.rows[torch.searchsorted(self.ids, index)]
        view = batch.view if self.views > 1 else 0
        outputs: dict[str, dict[str, Tensor]] = {"heads": {}, "features": {}}
        for (kind, name), column in self.columns.items():
            outputs[kind][name] = column[view][rows].to(batch.index.device)
        return Outputs(outputs["heads"], outputs["features"], self.class_axes)


def _fits(arrays: table.Arrays, device: str) -> bool:
    if not device.startswith("cuda"):
        return False
    return sum(array.nbytes for array in arrays.values()) <= torch.cuda.mem_get_info(device)[0] // 2
