"""Weights that others saved: read as data, never run."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compress_cli.errors import ArtifactError

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict among other things
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
GROWTH = 10
UNREADABLE = (
    pickle.UnpicklingError, struct.error, ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError,
    MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""Exceptions that torch.load raises for a damaged file, with `weights_only=True` too."""


def read(path: Path) -> dict[str, Tensor]:
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
    """Read a file of torch.save without running any code in it."""
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
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ArtifactError(f"{path}: is a damaged archive ({error})") from None
    if size > GROWTH * path.stat().st_size:
        raise ArtifactError(f"{path}: would unpack to {size} bytes, far more than it has: torch writes no such file")


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a training script saved, without the prefixes of wrappers."""
    wrapped = [name for name in WRAPPERS if isinstance(content, dict) and isinstance(content.get(name), dict)]
    state = content[wrapped[0]] if wrapped else content
    if not isinstance(state, dict) or not state:
        raise ArtifactError(f"{path}: holds a {type(state).__name__}, not a state dict (names and tensors)")
    other = [f"{name} ({type(value).__name__})" for name, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise ArtifactError(
            f"{path}: a state dict holds tensors only; this file has {len(other)} other things (such as {', '.join(other[:3])})"
        )
    grown = [
        name
        for name, tensor in state.items()
        if tensor.layout is not torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes()
    ]
    if grown:
        raise ArtifactError(f"{path}: tensors claim more values than the file holds (such as {', '.join(grown[:3])})")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {name: tensor.detach() for name, tensor in state.items()}
