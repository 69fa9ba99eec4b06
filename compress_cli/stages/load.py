"""Existing weights, or an existing ONNX file, become the start of a recipe."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnx
from pydantic import Field, model_validator

from compress_cli.context import Context
from compress_cli.data import arrays
from compress_cli.data.signature import Signature
from compress_cli.distillation import table
from compress_cli.errors import ArtifactError, DataError, RecipeError
from compress_cli.identity import file_digest
from compress_cli.measurement import sessions
from compress_cli.networks import restore, weights
from compress_cli.networks.models import Model
from compress_cli.onnx_graph import files
from compress_cli.settings import InputFile, Many
from compress_cli.stages import Role, Stage
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Table


class Load(Stage):
    """Take existing weights into a named architecture, an ONNX file as it is, or what a teacher said of the data.

    Weights are read as data, never run: safetensors, or a state dict saved by torch, tensors only. A model may take some of
    the dataset's inputs and have some of its heads, as each of several teachers of one student does.
    """

    consumes: ClassVar[dict[str, Role]] = {}
    shared: ClassVar[dict[str, int]] = {"onnx_file": files.VERSION}
    seed_dependent: ClassVar[bool] = False
    task_dependent: ClassVar[bool] = False

    weights: InputFile | None = Field(None, description="safetensors, or a state dict saved by torch.save")
    model: Model | None = Field(None, description="the architecture that the weights belong to")
    mean: Many[float] = Field(
        (),
        description="what the weights were trained to subtract, per channel, in the data's raw range; default: the dataset's",
    )
    deviation: Many[float] = Field((), description="what they were trained to divide by; given together with mean")
    onnx: InputFile | None = Field(None, description="an ONNX file, instead of weights and model")
    inputs: Many[str] = Field(
        (),
        description="of the dataset's inputs, those that the model takes; default: all. For an ONNX file: what its inputs "
        "are, in its order, where it calls them otherwise",
    )
    heads: Many[str] = Field(
        (),
        description="of the heads that the dataset asks for, those that the model has; default: all. For an ONNX file: what "
        "its outputs are, in its order, where it calls them otherwise",
    )
    outputs: InputFile | None = Field(
        None,
        description="what a teacher said, instead of a model: an .npz of sample ids `index` (N,), such as rows of the "
        "training file from 0, and heads such as `logits` (N, classes), to be the teacher of a distill stage",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        alone = [name for name in ("onnx", "outputs") if getattr(self, name) is not None]
        if len(alone) > 1 or (alone and (self.weights or self.model or self.mean or self.deviation)):
            raise ValueError(f"'{alone[0]}' stands alone: weights, model, mean and deviation belong to weights")
        if self.outputs and (self.inputs or self.heads):
            raise ValueError("'outputs' stands alone: its arrays are called as the heads are")
        for what, names in (("inputs", self.inputs), ("heads", self.heads)):
            twice = [name for place, name in enumerate(names) if name in names[:place]]
            if twice:
                raise ValueError(f"{what}: '{twice[0]}' stands twice")
        if not alone and (self.weights is None or self.model is None):
            raise ValueError("give either 'weights' and their 'model', or 'onnx', or 'outputs'")
        if len(self.mean) != len(self.deviation) or any(each <= 0 for each in self.deviation):
            raise ValueError("'mean' and 'deviation' go together, one value per channel each, and no deviation of 0 or less")
        return self

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Table if self.outputs else OnnxModel if self.onnx else Checkpoint

    def depends(self) -> dict[str, Any]:
        """Files beside the ONNX file that hold its weights: they count by content too."""
        if self.onnx is None or not self.onnx.is_file():
            return {}
        external = files.external_files(self.onnx, files.load(self.onnx))
        return {"external": [file_digest(path) for path in external if path.is_file()]}

    def run(self, context: Context) -> dict[str, Any]:
        signature = context.dataset.signature()
        if self.outputs is not None:
            return _take_outputs(self.outputs, context.output)
        if self.onnx is not None:
            return self._take_onnx(self.onnx, context.output / "model.onnx", signature)
        assert self.weights is not None
        assert self.model is not None
        state = weights.read(self.weights)
        own = self._normalised(signature.narrowed(self.inputs, self.heads))
        restored = restore.build(self.model, own, context.seed)
        several = f"; the dataset asks for {', '.join(own.heads)}: name in `heads` those that the weights have"
        remedy = several if len(own.heads) > 1 and not self.heads else ""
        restore.load(restored.network.body, state, self.weights, remedy)
        restore.save(restored, context.output)
        return {"file": self.weights.name, "tensors": len(state), "parameters": sum(each.numel() for each in state.values())}

    def _normalised(self, signature: Signature) -> Signature:
        """The dataset's signature, with the normalisation that the weights know."""
        if not self.mean:
            return signature
        images = [name for name, each in signature.inputs.items() if each.shape[:1] == (len(self.mean),)]
        if len(images) != 1:
            shapes = {name: each.shape for name, each in signature.inputs.items()}
            raise ArtifactError(f"mean: has {len(self.mean)} values, but the dataset's inputs are {shapes} (channels first)")
        known = signature.inputs[images[0]].model_copy(update={"mean": self.mean, "deviation": self.deviation})
        return signature.model_copy(update={"inputs": {**signature.inputs, images[0]: known}})

    def _take_onnx(self, path: Path, target: Path, signature: Signature) -> dict[str, Any]:
        """Copy a checked ONNX file, weights that lie beside it included, into `target`; facts about it."""
        if not path.is_file():
            raise ArtifactError(f"{path}: there is no such file")
        model = files.load(path)
        external = files.external_files(path, model)
        outside = [each.relative_to(path.parent).as_posix() for each in external]
        if path.stat().st_size + files.external_bytes(path, model) > files.LARGEST:
            raise ArtifactError(f"{path}: with its weights it is above 2 GB, more than one ONNX file can hold")
        try:
            if outside:
                onnx.load_external_data_for_model(model, str(path.parent))
            onnx.checker.check_model(model)
        except (onnx.checker.ValidationError, OSError, ValueError) as error:
            raise ArtifactError(f"{path}: is not a valid ONNX model ({str(error).strip().partition(chr(10))[0]})") from None
        if outside:
            onnx.save_model(model, target)
        else:
            shutil.copyfile(path, target)
        session = sessions.open_session(target, threads=1)
        inputs, heads = (
            _called(what, names, ports, path)
            for what, names, ports in (("inputs", self.inputs, session.inputs), ("heads", self.heads, session.outputs))
        )
        signature.narrowed(tuple(inputs.values()), tuple(heads.values()))
        if inputs or heads:
            files.rename(model, {**inputs, **heads})
            onnx.save_model(model, target)
            session = sessions.open_session(target, threads=1)
        _compare(path, session, signature)
        return {
            "file": path.name,
            "merged": outside,
            "opsets": {each.domain or "ai.onnx": each.version for each in model.opset_import},
        }


def _take_outputs(path: Path, target: Path) -> dict[str, Any]:
    """Make a table of what a teacher said in an .npz; facts about it."""
    held = arrays.read(path)
    index = held.pop("index", None)
    if index is None or index.ndim != 1 or index.dtype.kind not in "iu":
        raise DataError(f"{path}: needs an array 'index' of the sample ids, whole numbers (N,): positions in the data's file")
    if len(np.unique(index)) < len(index):
        raise DataError(f"{path}: some ids stand twice in 'index'; keep one answer a sample")
    if not held or not len(index):
        raise DataError(f"{path}: holds no outputs; add an array named as the head is, such as 'logits' (N, classes)")
    wrong = [name for name, each in held.items() if each.dtype.kind != "f" or each.ndim < 2 or not np.isfinite(each).all()]
    if wrong:
        raise DataError(f"{path}: the array '{wrong[0]}' should hold real numbers (N, classes), none NaN or infinite")
    heads: dict[tuple[table.Kind, str], np.ndarray] = {("heads", name): each.astype(np.float32) for name, each in held.items()}
    writer = table.Writer(target, index.astype(np.int64), len(index), 1, heads, class_axes={})
    writer.write(heads)
    writer.close()
    return {"file": path.name, "samples": len(index), "heads": {name: each.shape[1] for name, each in held.items()}}


def _called(what: str, names: tuple[str, ...], ports: dict[str, sessions.Port], path: Path) -> dict[str, str]:
    """Name in the file -> the recipe's other name for it; RecipeError where the recipe names more of them, or fewer."""
    if not names or set(names) == set(ports):
        return {}
    if len(names) != len(ports):
        raise RecipeError(f"{what}: names {len(names)}, and {path} has {len(ports)} ({_listed(ports)}); name each, in order")
    return {own: name for own, name in zip(ports, names, strict=True) if own != name}


def _compare(path: Path, session: sessions.Session, signature: Signature) -> None:
    """ArtifactError where the file takes something else than the dataset gives, or gives none of its heads as it asks."""
    given = {name: sessions.Port((None, *each.shape), each.dtype) for name, each in signature.inputs.items()}
    fits = session.inputs.keys() <= given.keys() and all(
        port.dtype == given[name].dtype and _agree(port.shape, given[name].shape) for name, port in session.inputs.items()
    )
    if not fits:
        remedy = "" if session.inputs.keys() <= given.keys() else "; where these are meant, name them in `inputs`"
        raise ArtifactError(f"{path}: takes {_listed(session.inputs)}, but the dataset gives {_listed(given)}{remedy}")
    asked = {name: sessions.Port((None, each.size), "float32") for name, each in signature.heads.items()}
    known = session.outputs.keys() & asked.keys()
    wrong = [name for name in known if not {signature.heads[name].size, None} & set(session.outputs[name].shape[1:])]
    if wrong or (asked and not known):
        remedy = "" if known else "; where these are meant, name them in `heads`"
        raise ArtifactError(f"{path}: gives {_listed(session.outputs)}, but the dataset asks for {_listed(asked)}{remedy}")


def _agree(one: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Shapes that can be the same; the first axis, the samples, is never compared."""
    return len(one) == len(other) and all(None in pair or pair[0] == pair[1] for pair in zip(one[1:], other[1:], strict=True))


def _listed(ports: dict[str, sessions.Port]) -> str:
    return ", ".join(f"{name} {port}" for name, port in ports.items())
