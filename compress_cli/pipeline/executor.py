"""One step at work: its context, its errors in the user's words, and the manifest that makes its folder an artifact."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from compress_cli.context import Context
from compress_cli.errors import ArtifactError, RecipeError, ResourceError, StageError
from compress_cli.fault import plugins_raise
from compress_cli.measurement import sessions
from compress_cli.pipeline.recipe import Recipe
from compress_cli.pipeline.step import Step
from compress_cli.processes import ALONE, Processes
from compress_cli.progress import Log, Progress
from compress_cli.store import disk
from compress_cli.store.artifact import Artifact, Draft, Source
from compress_cli.store.saves import Saves

LIBRARIES = ("torch", "torchao", "onnx", "onnxruntime", "onnxscript", "numpy")

Inputs = dict[str, tuple[Artifact, ...]]


class Listener(Protocol):
    """Shows the progress of a run."""

    def begins(self, step: Step, smoke: bool) -> None: ...
    def progress(self, step: Step, progress: Progress) -> None: ...
    def ended(self, step: Step, cached: bool, seconds: float, problem: str) -> None: ...


def device(name: str) -> str:
    """The device a recipe means; RecipeError for a GPU that is not there."""
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name.startswith("cuda") and not available:
        raise RecipeError(f"device '{name}': PyTorch sees no CUDA device here; use 'cpu' or 'auto'")
    if name.startswith("cuda:") and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise RecipeError(f"device '{name}': PyTorch sees only {torch.cuda.device_count()} here, counted from cuda:0")
    return name


def named(device: str) -> str:
    """A device as manifests know it, `cuda (NVIDIA H200)`: two kinds of GPU add in another order."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


@dataclass(frozen=True)
class Workspace:
    """Where a step works and to whom it reports."""

    output: Path  # an empty folder that becomes the artifact
    memory: Path  # a folder that remembers choices made once per machine
    log: Log = lambda progress: None
    saves: Saves = field(default_factory=Saves)
    limit: int | None = None  # at most so many training steps and batches: a smoke run
    processes: Processes = ALONE  # those that make the step together


def perform(recipe: Recipe, step: Step, inputs: Inputs, workspace: Workspace) -> Artifact:
    """Run a step's stage in the workspace and commit its output as an artifact.

    RecipeError and ArtifactError, with the stage's line, where its settings or what they name prove wrong; StageError for
    any step that fails.
    """
    context = _context(recipe, step, inputs, workspace)
    try:
        facts = _facts(step, context)
    except (RecipeError, ArtifactError) as error:
        raise type(error)(recipe.complaint(step.loc, str(error))) from error
    draft = Draft(
        kind=step.kind,
        key=step.key,
        stage=step.stage.model_dump(mode="json"),
        facts=facts,
        inputs={role: recorded(sources) for role, sources in inputs.items()},
        environment={**context.environment, "peak_memory_bytes": peak_memory()},
        wall_time_s=workspace.saves.spent_s,
    )
    return draft.commit(workspace.output)


def _context(recipe: Recipe, step: Step, inputs: Inputs, workspace: Workspace) -> Context:
    where = workspace.processes.device(device(recipe.device))
    return Context(
        inputs=inputs,
        output=workspace.output,
        dataset=step.dataset or recipe.dataset,
        task=recipe.task,
        device=where,
        seed=step.seed,
        log=workspace.log,
        key=step.key,
        memory=workspace.memory,
        saves=workspace.saves,
        limit=workspace.limit,
        processes=workspace.processes,
        splits=step.stage.splits,
        environment=_environment(where, workspace.processes),
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def recorded(sources: Sequence[Artifact]) -> list[Source]:
    """The manifest's entries for a step's inputs in one role."""
    return [Source(key=source.manifest.key, digest=source.digest) for source in sources]


def peak_memory() -> int:
    """Of the process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def libraries() -> dict[str, str]:
    """Versions of the libraries that results may depend on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _environment(where: str, processes: Processes) -> dict[str, Any]:
    return {
        **({"processes": processes.count} if processes.several else {}),
        "device": named(where),
        "threads": torch.get_num_threads(),
        "processor": sessions.machine()["processor"],
        "python": platform.python_version(),
        "libraries": libraries(),
    }


def _facts(step: Step, context: Context) -> dict[str, Any]:
    """The facts that the stage returns; a full disk or memory is a ResourceError, since the user can mend it."""
    try:
        with plugins_raise(StageError):
            return step.stage.run(context)
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = str(error).partition("\n")[0] or "no more to be had"
        raise ResourceError(f"out of memory ({reason}); {_memory()}; use a smaller batch") from error
    except RuntimeError as error:  # which the CPU's allocator raises
        if "can't allocate memory" not in str(error) and "bad_alloc" not in str(error):
            raise
        raise ResourceError(
            f"out of memory ({_allocated(error)}); {_memory()}; use a smaller batch or a smaller model"
        ) from error
    except SafetensorError as error:  # which words the system's errors its own way
        system_error = disk.os_error(str(error), context.output)
        lacking = disk.lack(system_error, context.output) if system_error else None
        if lacking is None:
            raise
        raise lacking from error
    except OSError as error:
        lacking = disk.lack(error, context.output)
        if lacking is None and error.errno is None:
            raise
        raise lacking or StageError(f"{error.filename or context.output}: {error.strerror}") from error


def _memory() -> str:
    """The process's peak memory before the failure."""
    return f"{disk.amount(peak_memory())} were taken before"


def _allocated(error: RuntimeError) -> str:
    """`you tried to allocate 25599 bytes`, out of PyTorch's longer message."""
    line = str(error).partition("\n")[0]
    return line.partition("can't allocate memory: ")[2].partition(". Error code")[0] or line
