"""Black boxes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from compress_cli.data.batch import Batch, Outputs
from compress_cli.data.datasets import Split
from compress_cli.distillation.teachers import Opened, Teacher
from compress_cli.errors import RecipeError
from compress_cli.measurement import measure
from compress_cli.measurement.sessions import open_session
from compress_cli.store.artifact import Artifact, OnnxModel


class OnnxTeacher(Teacher):
    """Any ONNX file, run by ONNX Runtime on the CPU: its outputs are heads, and it shows no features.

    One that insists on a number of samples gets it: the last of a batch are filled up with copies, which are dropped.
    """

    takes: ClassVar[tuple[type[Artifact], ...]] = (OnnxModel,)

    def open(self, artifact: Artifact, layers: tuple[str, ...], device: str) -> Opened:
        if layers:
            raise RecipeError(
                f"a loss asks for the teacher's layer '{layers[0]}', but the teacher is an ONNX file, which shows only its "
                "outputs; use a loss on outputs such as soft_targets, or the checkpoint the file came from"
            )
        session = open_session(artifact.file("model.onnx"))

        def opened(batch: Batch) -> Outputs:
            missing = [name for name in session.inputs if name not in batch.inputs]
            if missing:
                raise RecipeError(f"the teacher takes an input '{missing[0]}'; the dataset gives: {', '.join(batch.inputs)}")
            given = Split({name: batch.inputs[name].cpu().numpy() for name in session.inputs}, {}, batch.index.cpu().numpy())
            size = session.batch or len(given)
            parts = [
                session.run(measure.sample(session, given.take(np.s_[start : start + size]), size))
                for start in range(0, len(given), size)
            ]
            heads = {name: np.concatenate([part[name] for part in parts])[: len(given)] for name in session.outputs}
            return Outputs({name: torch.from_numpy(each).float().to(batch.index.device) for name, each in heads.items()})

        return opened
