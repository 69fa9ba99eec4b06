"""ONNX Runtime sessions: opening a file, running it, and saying clearly why it can't be opened or run."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort
from pydantic import Field, field_validator

from compress_cli.errors import ArtifactError, StageError
from compress_cli.measurement.machine import cores as cores
from compress_cli.measurement.machine import machine as machine
from compress_cli.onnx_graph import expansion
from compress_cli.settings import Many, Settings, suggest
from compress_cli.store.artifact import Artifact

Feeds = dict[str, np.ndarray]

FAILURES = (
    ort.EPFail, ort.EngineError, ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.InvalidProtobuf, ort.NoModel,
    ort.NoSuchFile, ort.NotFound, ort.NotImplemented, ort.RuntimeException, ValueError,
)  # fmt: skip
"""What ONNX Runtime raises: these derive from Exception alone, so they have to be listed."""

WITHOUT_NUMPY = ("bfloat16", "int4", "uint4", "int2", "uint2", "float4e2m1")
"""Number types in which ONNX Runtime computes, and which it can't hand over: NumPy does not have them."""
BATCH_AXIS = re.compile(r"n|b|bs|.*batch.*|.*samples.*", re.IGNORECASE)
"""Names of an axis that counts samples."""
OTHER_AXIS = re.compile(r".*(seq|len|time|token|step|past|height|width|channel|layer).*|[htwcl]", re.IGNORECASE)
"""Names of an axis that counts something else."""
NUMPY_NAMES = {"float": "float32", "double": "float64"}
CPU = "CPUExecutionProvider"
LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class Options(Settings):
    """How ONNX Runtime runs a file, besides the number of threads."""

    providers: Many[str] = Field((CPU,), min_length=1, description="execution providers, the preferred one first")
    optimisation: Literal["none", "basic", "extended", "all"] = Field("all", description="how far it rewrites the graph")
    execution: Literal["sequential", "parallel"] = Field(
        "sequential", description="one operator after the other, or independent ones at once"
    )
    inter_threads: int = Field(1, ge=1, le=1024, description="operators at once, where execution is parallel")

    @field_validator("providers")
    @classmethod
    def _available(cls, providers: tuple[str, ...]) -> tuple[str, ...]:
        """`cpu` and `CPUExecutionProvider` alike; in full, so that both make one key."""
        at_hand = {name.removesuffix("ExecutionProvider").lower(): name for name in onnxruntime.get_available_providers()}
        full_names = []
        for provider in providers:
            short = provider.removesuffix("ExecutionProvider").lower()
            if short not in at_hand:
                raise ValueError(f"this ONNX Runtime has no provider '{provider}'; {suggest(short, list(at_hand))}")
            full_names.append(at_hand[short])
        return tuple(full_names)


@dataclass(frozen=True)
class Port:
    """An input or output of a file: an axis that the file leaves open is None."""

    shape: tuple[int | None, ...]
    dtype: str  # NumPy's name
    names: tuple[str, ...] = field(default=(), compare=False)  # of the axes; empty for one without

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('?' if axis is None else str(axis) for axis in self.shape)})"


class Session:
    """An open ONNX file."""

    def __init__(
        self,
        path: Path,
        session: onnxruntime.InferenceSession,
        threads: int,
        options: Options,
        opened_in_s: float = 0.0,
        origin: str = "",
    ):
        self.path = path
        self.origin = origin
        self.threads = threads
        self.options = options
        self.opened_in_s = opened_in_s
        self.raw = session  # for timing loops, where a layer of Python would be measured too
        self.inputs = {node.name: _port(node) for node in session.get_inputs()}
        self.outputs = {node.name: _port(node) for node in session.get_outputs()}
        self.readable = [name for name, port in self.outputs.items() if port.dtype not in WITHOUT_NUMPY]

    def __str__(self) -> str:
        """The file as messages name it."""
        return _named(self.path, self.origin)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The file's `metadata_props`."""
        return dict(self.raw.get_modelmeta().custom_metadata_map)

    @cached_property
    def batch_axes(self) -> dict[str, int]:
        """Input name -> the axis that counts samples, of the inputs that have one; empty where the file does not tell.

        It is the axis whose name says so; without such a name the first axis of the inputs that leave it open; of a file
        that leaves none open the first axis, where all inputs agree on its size. The state of a recurrent layer, (layers,
        samples, size), has another first axis than the samples, and agrees with none of this.
        """
        named = {
            name: position
            for name, port in self.inputs.items()
            for position, axis in reversed([*enumerate(port.names)])
            if BATCH_AXIS.fullmatch(axis)
        }
        if named:
            return named
        tensors = {name: port for name, port in self.inputs.items() if port.shape}
        opened = {name: port.names[0] for name, port in tensors.items() if port.shape[0] is None}
        if opened:
            axes = set(opened.values()) - {""}
            agree = len(axes) <= 1 and not any(OTHER_AXIS.fullmatch(axis) for axis in axes)
            return dict.fromkeys(opened, 0) if agree else {}
        agree = len({port.shape[0] for port in tensors.values()}) == 1
        return dict.fromkeys(tensors, 0) if agree else {}

    @property
    def batch(self) -> int | None:
        """The number of samples that the file insists on; None where any number will do, or it is not known."""
        sizes = {self.inputs[name].shape[axis] for name, axis in self.batch_axes.items()}
        return next(iter(sizes)) or None if len(sizes) == 1 else None

    @property
    def per_sample(self) -> list[str]:
        """Outputs that may hold one row a sample: not those whose declared first axis has another size, if there are others."""
        sizes = {name: self.outputs[name].shape[:1] for name in self.readable}
        return [name for name, size in sizes.items() if size and size[0] in (None, self.batch)] or self.readable

    def samples(self, feeds: Feeds) -> int | None:
        """How many samples these arrays hold; None where the file does not tell which axis counts them."""
        sizes = {feeds[name].shape[axis] for name, axis in self.batch_axes.items() if name in feeds}
        return next(iter(sizes)) if len(sizes) == 1 else None

    def reopened(self) -> Session:
        """Another session of the same file, with the same options."""
        return open_session(self.path, self.threads, self.options, origin=self.origin)

    def run(self, inputs: Feeds) -> dict[str, np.ndarray]:
        """Output name -> array; StageError where the file and the inputs do not fit or an operator fails.

        Outputs of a number type that NumPy does not have are left out; ArtifactError where there are no others.
        """
        if not self.readable:
            port = next(iter(self.outputs.items()), None)
            what = f"output '{port[0]}' is {port[1].dtype}, which NumPy does not have" if port else "it has no output"
            raise ArtifactError(f"{self}: {what}; export it with a Cast to float32 at the end")
        try:
            outputs = self.raw.run(self.readable, inputs)
        except FAILURES as error:
            raise StageError(f"{self}: ONNX Runtime could not run it: {_reason(error)}") from None
        return dict(zip(self.readable, outputs, strict=True))


def open_session(
    path: Path,
    threads: int | None = None,
    options: Options | None = None,
    profile: Path | None = None,
    origin: str = "",
) -> Session:
    """Open an ONNX file, with `threads` threads for one operator (default: the cores at hand).

    profile: a folder where ONNX Runtime writes what each node took and the graph as it rewrote it. origin: the user's file of
    which this one is a copy, for messages. ArtifactError where there is no such file, it is no ONNX file, is truncated, lacks
    its external data, or asks for an operator that this ONNX Runtime does not have.
    """
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder, not an ONNX file")
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file")
    _check_file(path, origin)
    count, options = threads or cores(), options or Options()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what matters is raised; warnings of the runtime help nobody here
    settings.intra_op_num_threads = count
    settings.inter_op_num_threads = options.inter_threads
    settings.graph_optimization_level = LEVELS[options.optimisation]
    if options.execution == "parallel":
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    if profile:
        settings.enable_profiling = True
        settings.profile_file_prefix = os.fspath(profile / "profile")
        settings.optimized_model_filepath = os.fspath(profile / "optimised.onnx")
    # Threads of a session that has finished its run would spin on, and slow the other model of a comparison.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    begun = time.perf_counter()
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), settings, providers=list(options.providers))
    except FAILURES as error:
        raise ArtifactError(f"{_named(path, origin)}: {_why_not(path, error)}") from None
    lacking = [name for name in options.providers if name not in session.get_providers()]
    if lacking:  # ONNX Runtime goes on without it, with a warning
        raise ArtifactError(f"ONNX Runtime could not start its {lacking[0]} on this machine; its driver or device is missing")
    try:
        return Session(path, session, count, options, time.perf_counter() - begun, origin)
    except UnicodeDecodeError:
        raise ArtifactError(f"{path}: is damaged: a name in it is not UTF-8; export it again or fetch it again") from None


def open_stored(artifact: Artifact, threads: int | None = None, options: Options | None = None) -> Session:
    """Open the file of an OnnxModel; messages name the user's file that it was loaded from, if it was."""
    return open_session(artifact.file("model.onnx"), threads, options, origin=str(artifact.manifest.facts.get("file", "")))


def _check_file(path: Path, origin: str) -> None:
    """ArtifactError for an empty file, and for one whose constants unpack to far more than its size."""
    if path.stat().st_size == 0:
        raise ArtifactError(f"{_named(path, origin)}: is empty, not an ONNX file")
    try:
        expansion.check(path)
    except ArtifactError as error:
        raise ArtifactError(str(error).replace(str(path), _named(path, origin), 1)) from None


def _named(path: Path, origin: str) -> str:
    return f"{origin} (its copy {path})" if origin else str(path)


def _port(node: onnxruntime.NodeArg) -> Port:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(axis if isinstance(axis, int) and axis >= 0 else None for axis in node.shape)
    names = tuple(axis if isinstance(axis, str) else "" for axis in node.shape)
    return Port(shape, NUMPY_NAMES.get(kind, kind), names)


def _why_not(path: Path, error: Exception) -> str:
    text = str(error)
    if isinstance(error, ort.InvalidProtobuf) or "No graph was found" in text:
        return "is not an ONNX file, or is truncated or damaged; export it again or fetch it again"
    if "external data" in text.lower() and ("not allowed" in text or "allowed directory" in text or "escape" in text):
        return f"refers to weights outside its folder, which are never read ({_reason(error)})"
    if "External data path" in text or "external data" in text.lower():
        return f"its weights lie in another file, which is missing or damaged ({_reason(error)})"
    if "No Op registered" in text or "not a registered function/op" in text or isinstance(error, ort.NotImplemented):
        return f"uses an operator that ONNX Runtime {onnxruntime.__version__} does not have ({_reason(error)})"
    if "IR version" in text or "under development" in text:
        return f"is of a later ONNX version than ONNX Runtime {onnxruntime.__version__} reads ({_reason(error)})"
    return f"ONNX Runtime {onnxruntime.__version__} can't load it ({_reason(error)})"


def _reason(error: Exception) -> str:
    """What went wrong, without ONNX Runtime's codes, source lines and repetition of the path."""
    text = " ".join(str(error).split())
    for noise in (r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", r"^Load model from \S+ failed:", r"^/onnxruntime_src.*?\) (?=[A-Z])",
                  r"^.*Error: \S+:\d+ \w+ ", r"^This is an invalid model. "):  # fmt: skip
        text = re.sub(noise, "", text)
    return text[:300].removesuffix(".")
