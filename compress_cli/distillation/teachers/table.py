"""What a teacher said once."""

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
    """Outputs stored by sample id, of each fixed view or of the sample as it is; read where they lie on disk."""

    takes: ClassVar[tuple[type[Artifact], ...]] = (artifact.Table,)

    def open(self, artifact: Artifact, layers: tuple[str, ...], device: str) -> Opened:
        read = table.StoredOutputs(artifact)
        held = [name for kind, name in read.arrays if kind == "features"]
        missing = [layer for layer in layers if layer not in held]
        if missing:
            raise RecipeError(
                f"a loss asks for the teacher's layer '{missing[0]}', but the teacher is a table of stored outputs that holds "
                f"{', '.join(held) or 'no layers'}; use a loss on outputs such as soft_targets"
            )
        return _Lookup(read, layers, device)

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

    def __init__(self, read: table.StoredOutputs, layers: tuple[str, ...], device: str):
        wanted = {(kind, name): each for (kind, name), each in read.arrays.items() if kind == "heads" or name in layers}
        where = device if _fits(wanted, device) else "cpu"
        self.views = read.views
        self.ids, self.rows = (torch.from_numpy(np.asarray(each)).to(where) for each in (read.ids, read.rows))
        self.columns = {name: torch.from_numpy(np.asarray(each)).to(where) for name, each in wanted.items()}

    def __call__(self, batch: Batch) -> Outputs:
        index = batch.index.to(self.ids.device)
        rows = self.rows[torch.searchsorted(self.ids, index)]
        view = batch.view if self.views > 1 else 0
        found: dict[str, dict[str, Tensor]] = {"heads": {}, "features": {}}
        for (kind, name), each in self.columns.items():
            found[kind][name] = each[view][rows].to(batch.index.device)
        return Outputs(**found)


def _fits(arrays: table.Arrays, device: str) -> bool:
    if not device.startswith("cuda"):
        return False
    return sum(each.nbytes for each in arrays.values()) <= torch.cuda.mem_get_info(device)[0] // 2
