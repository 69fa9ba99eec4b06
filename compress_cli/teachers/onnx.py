"""Black boxes."""

from __future__ import annotations

from typing import ClassVar

import torch

from compress_cli.artifact import Artifact, OnnxModel
from compress_cli.batch import Batch, Outputs
from compress_cli.errors import RecipeError
from compress_cli.runtime import open_session
from compress_cli.teachers import Opened, Teacher


class Onnx(Teacher):
    """Any ONNX file, run by ONNX Runtime on the CPU: its outputs are heads, and it shows no features."""

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
            given = {name: batch.inputs[name].cpu().numpy().astype(port.dtype) for name, port in session.inputs.items()}
            heads = session.run(given)
            return Outputs({name: torch.from_numpy(each).float().to(batch.index.device) for name, each in heads.items()})

        return opened
