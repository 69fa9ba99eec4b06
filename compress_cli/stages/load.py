"""Existing weights, or an existing ONNX file, become the start of a recipe."""

from __future__ import annotations

import pickle
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnx
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compress_cli import arrays, onnx_file, restore, runtime, table
from compress_cli.artifact import Artifact, Checkpoint, OnnxModel, Table
from compress_cli.context import Context
from compress_cli.errors import ArtifactError, DataError
from compress_cli.identity import file_digest
from compress_cli.models import Model
from compress_cli.settings import InputFile, Many
from compress_cli.signature import Signature
from compress_cli.stages import Role, Stage

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict among other things
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
GROWTH = 10
UNREADABLE = (
    pickle.UnpicklingError, struct.error, ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError,
    MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What reading a damaged file raises, with `weights_only=True` too."""


class Load(Stage):
    """Take existing weights into a named architecture, an ONNX file as it is, or what a teacher said of the data.

    Weights are read as data, never run: safetensors, or a state dict saved by torch, tensors only.
    """

    consumes: ClassVar[dict[str, Role]] = {}
    seeded: ClassVar[bool] = False
    judged: ClassVar[bool] = False

    weights: InputFile | None = Field(None, description="safetensors, or a state dict saved by torch.save")
    model: Model | None = Field(None, description="the architecture that the weights belong to")
    mean: Many[float] = Field(
        (),
        description="what the weights were trained to subtract, per channel, in the data's raw range; default: the dataset's",
    )
    deviation: Many[float] = Field((), description="what they were trained to divide by; given together with mean")
    onnx: InputFile | None = Field(None, description="an ONNX file, instead of weights and model")
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
        beside = onnx_file.beside(self.onnx, onnx_file.load(self.onnx))
        return {"external": [file_digest(path) for path in beside if path.is_file()]}

    def run(self, context: Context) -> dict[str, Any]:
        signature = context.dataset.signature()
        if self.outputs is not None:
            return _take_outputs(self.outputs, context.output)
        if self.onnx is not None:
            return _take_onnx(self.onnx, context.output / "model.onnx", signature)
        assert self.weights is not None
        assert self.model is not None
        state = _read(self.weights)
        restored = restore.build(self.model, self._normalised(signature), context.seed)
        restore.load(restored.network.body, state, self.weights)
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


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file. ArtifactError where it is missing, damaged, or holds more than tensors."""
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file")
    if path.suffix == ".pt2":
        raise ArtifactError(
            f"{path}: a .pt2 file can run code when it is opened, so it is not read; where you trust it, load it yourself with "
            f"torch.export.load and save its weights: safetensors.torch.save_file(program.state_dict, 'weights.safetensors')"
        )
    if path.suffix == ".safetensors":
        try:
            state: Any = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtifactError(f"{path}: is not a whole safetensors file ({error})") from None
    elif path.suffix in TORCH_SUFFIXES:
        state = _unwrapped(_torch_load(path), path)
    else:
        known = ", ".join((".safetensors", *TORCH_SUFFIXES))
        hint = "; give an ONNX file as 'onnx'" if path.suffix == ".onnx" else ""
        raise ArtifactError(f"{path}: weights are files that end in one of {known}{hint}")
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if broken:
        raise ArtifactError(f"{path}: {len(broken)} tensors hold NaN or infinity (such as {', '.join(broken[:3])})")
    return dict(state)


def _torch_load(path: Path) -> Any:
    """What torch.save wrote, read without running any of it."""
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        text = str(error)
        if "TorchScript" in text:
            raise ArtifactError(
                f"{path}: is a TorchScript program, which is code; save its weights alone: "
                "torch.save(torch.jit.load(path).state_dict(), 'weights.pt')"
            ) from None
        if isinstance(error, pickle.UnpicklingError) and "nsupported" in text:
            raise ArtifactError(
                f"{path}: holds pickled objects besides tensors, such as a whole module, and opening these can run code; "
                "nothing of it was run. Save the weights alone, where the file comes from: "
                "torch.save(model.state_dict(), 'weights.pt'), or safetensors.torch.save_model(model, 'weights.safetensors')"
            ) from None
        raise ArtifactError(f"{path}: is not a whole file of torch.save: it is truncated, damaged or something else") from None


def _check_archive(path: Path) -> None:
    """torch.save packs no weights (TorchScript its code): an archive that grows a lot when it is unpacked is of neither."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(each.file_size for each in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ArtifactError(f"{path}: is a damaged archive ({error})") from None
    if size > GROWTH * path.stat().st_size:
        raise ArtifactError(f"{path}: would unpack to {size} bytes, more than it has: torch writes no such file")


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a training script saved, without the prefixes of wrappers."""
    wrapped = [name for name in WRAPPERS if isinstance(content, dict) and isinstance(content.get(name), dict)]
    state = content[wrapped[0]] if wrapped else content
    if not isinstance(state, dict) or not state:
        raise ArtifactError(f"{path}: holds a {type(state).__name__}, not a state dict (names and tensors)")
    other = [f"{name} ({type(each).__name__})" for name, each in state.items() if not isinstance(each, Tensor)]
    if other:
        raise ArtifactError(
            f"{path}: a state dict holds tensors only; here are {len(other)} other things (such as {', '.join(other[:3])})"
        )
    grown = [
        name
        for name, each in state.items()
        if each.layout is not torch.strided or each.nbytes > each.untyped_storage().nbytes()
    ]
    if grown:
        raise ArtifactError(f"{path}: tensors stand for more values than the file holds (such as {', '.join(grown[:3])})")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): each for name, each in state.items()}
    return {name: each.detach() for name, each in state.items()}


def _take_onnx(path: Path, target: Path, signature: Signature) -> dict[str, Any]:
    """Copy a checked ONNX file, weights that lie beside it included, into `target`; facts about it."""
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file")
    model = onnx_file.load(path)
    beside = onnx_file.beside(path, model)
    outside = [each.relative_to(path.parent).as_posix() for each in beside]
    if path.stat().st_size + onnx_file.bytes_beside(path, model) > onnx_file.LARGEST:
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
    session = runtime.open_session(target, threads=1)
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
    table.Writer(target, index.astype(np.int64), len(index), 1, heads).close()
    return {"file": path.name, "samples": len(index), "heads": {name: each.shape[1] for name, each in held.items()}}


def _compare(path: Path, session: runtime.Session, signature: Signature) -> None:
    """ArtifactError where the file takes other inputs than the dataset gives, or lacks one of its heads."""
    given = {name: runtime.Port((None, *each.shape), each.dtype) for name, each in signature.inputs.items()}
    fits = given.keys() == session.inputs.keys() and all(
        port.dtype == session.inputs[name].dtype and _agree(port.shape, session.inputs[name].shape)
        for name, port in given.items()
    )
    if not fits:
        raise ArtifactError(f"{path}: takes {_listed(session.inputs)}, but the dataset gives {_listed(given)}")
    asked = {name: runtime.Port((None, each.size), "float32") for name, each in signature.heads.items()}
    missing = [
        name for name, each in signature.heads.items()
        if name not in session.outputs or not {each.size, None} & set(session.outputs[name].shape[1:])
    ]  # fmt: skip
    if missing:
        raise ArtifactError(f"{path}: gives {_listed(session.outputs)}, but the dataset asks for {_listed(asked)}")


def _agree(one: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Shapes that can be the same; the first axis, the samples, is never compared."""
    return len(one) == len(other) and all(None in pair or pair[0] == pair[1] for pair in zip(one[1:], other[1:], strict=True))


def _listed(ports: dict[str, runtime.Port]) -> str:
    return ", ".join(f"{name} {port}" for name, port in ports.items())
