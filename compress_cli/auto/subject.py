"""The given model: what `load` has to be told of it, and what its own run knew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from compress_cli.data.datasets import Dataset
from compress_cli.data.tasks import Task
from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.networks import restore
from compress_cli.networks.models import Model
from compress_cli.networks.weights import main_file
from compress_cli.onnx_graph import files
from compress_cli.onnx_graph.card import Card, chosen
from compress_cli.plugin import Plugin
from compress_cli.store import artifact
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel
from compress_cli.store.record import LOCK, RECORD, Record

TRAINING = ("batch", "optimizer", "augment", "sampler")
"""Settings of the given model's own training that serve its students too."""


@dataclass(frozen=True)
class Subject:
    """A model to be made smaller or faster."""

    path: Path  # of the ONNX file or of the weights
    files: tuple[Path, ...]  # whose content decides
    model: Model | None  # the architecture; None for an ONNX file
    loading: Mapping[str, Any]  # further settings of the stage `load`
    what: str  # in words, for a comment
    training: Mapping[str, Any] = field(default_factory=dict)  # of its own training, as far as it is known
    dataset: Dataset | None = None  # that it was made with, where that is known
    task: Task | None = None

    @property
    def trainable(self) -> bool:
        return self.model is not None

    def stage(self, path: str) -> dict[str, Any]:
        """The stage that takes it, its file written as `path`."""
        if self.model is None:
            return {"type": "load", "name": "given", "onnx": path}
        return {"type": "load", "name": "given", "weights": path, "model": settings_of(self.model), **self.loading}


def settings_of(plugin: Plugin) -> dict[str, Any]:
    """A plugin's settings as a recipe states them, without defaults."""
    stated = {"type": plugin.type}
    for name, info in type(plugin).model_fields.items():
        value = getattr(plugin, name)
        if value != info.get_default(call_default_factory=True):
            stated[name] = _stated(value)
    return stated


def short(plugin: Plugin) -> Any:
    """Its name alone where all settings are defaults."""
    settings = settings_of(plugin)
    return plugin.type if len(settings) == 1 else settings


def _stated(value: Any) -> Any:
    if isinstance(value, Plugin):
        return short(value)
    if isinstance(value, tuple | list):
        return [_stated(item) for item in value]
    if isinstance(value, BaseModel):
        return {name: _stated(item) for name, item in value if item != type(value).model_fields[name].default}
    return str(value) if isinstance(value, Path) else value


def find(path: Path, model: Model | None) -> Subject:
    """What lies at a path: an ONNX file, weights of a named architecture, or a checkpoint of this program (a stage's folder, or
    a run's, whose baseline is taken).

    RecipeError where it can't be a start, ArtifactError where it is missing or damaged.
    """
    if not path.exists():
        raise ArtifactError(f"{path}: there is no such file or folder")
    if path.is_dir() and (path / RECORD).is_file():
        path = _of_run(path)
    if path.is_dir() and (stored := artifact.read(path)):
        if model is not None:
            raise RecipeError(f"--model: {path} is a stage's result and knows its architecture; leave --model out")
        return _of_artifact(path, stored)
    if path.suffix.lower() == ".onnx" and path.is_file():
        if model is not None:
            raise RecipeError(f"--model: {path} is an ONNX file, which holds its graph; leave --model out")
        return _of_onnx(path, f"the ONNX file {path.name}")
    if model is None:
        raise RecipeError(
            f"{path}: holds weights and no architecture; name it: --model '{{type: torchvision, name: resnet18}}' (`compress "
            "list models` shows all, --plugin my_models.py adds one of your own)"
        )
    try:
        weights = main_file(path)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return Subject(weights, (weights,), model, {}, f"the weights in {path.name}")


def _of_run(folder: Path) -> Path:
    """The folder of a run's baseline."""
    record = Record.read(folder)
    name = record.baseline or next((row.name for row in record.rows), "")
    if not name:
        raise RecipeError(f"{folder}: the run made no model; name a stage's folder")
    return folder / name


def _of_artifact(folder: Path, stored: Artifact) -> Subject:
    stored.verify()
    dataset, task = _of_lock(folder.parent / LOCK)
    if isinstance(stored, OnnxModel):
        subject = _of_onnx(stored.file("model.onnx"), f"the file of the stage {folder.name}")
        known = {"dataset": subject.dataset or dataset, "task": subject.task or task}
        return Subject(folder / "model.onnx", subject.files, None, {}, subject.what, {}, **known)  # type: ignore[arg-type]
    if not isinstance(stored, Checkpoint):
        raise RecipeError(
            f"{folder}: is a {stored.manifest.kind}, which can't be trained and holds no file; name the checkpoint that it was "
            "made from, or its exported ONNX file"
        )
    document = json.loads(stored.file(restore.ARCHITECTURE).read_text())
    try:
        model = Model.model_validate(document["model"])
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{folder}: does not describe a known model ({str(error).splitlines()[0]}); a model of your own "
                            "needs its --plugin") from None  # fmt: skip
    training = stored.manifest.stage.get("training") or {}
    known_of = {name: training[name] for name in TRAINING if training.get(name)}
    loading = {"trained_on": "train"} if dataset is not None and not document.get("trained_on") else {}
    contents = tuple(stored.file(name) for name in sorted(stored.manifest.files))
    what = f"the checkpoint of the stage {folder.name}"
    return Subject(folder / restore.WEIGHTS, contents, model, loading, what, known_of, dataset, task)


def _of_onnx(path: Path, what: str) -> Subject:
    """An ONNX file; its data and task by its card, where that can be opened without further files."""
    loaded = files.load(path)
    card = Card.from_metadata({entry.key: entry.value for entry in loaded.metadata_props})
    contents = (path, *files.external_files(path, loaded))
    dataset, task = None, None
    if card:
        try:
            dataset, task = chosen(Dataset, card.dataset), chosen(Task, card.task)
        except ArtifactError:
            dataset = None
    assert dataset is None or isinstance(dataset, Dataset)
    assert task is None or isinstance(task, Task)
    return Subject(path, contents, None, {}, what, {}, dataset, task)


def _of_lock(path: Path) -> tuple[Dataset | None, Task | None]:
    """The data and the task of the run that a stage belongs to; None where there is no run beside it."""
    if not path.is_file():
        return None, None
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        context = {"base": path.parent}
        return (
            Dataset.model_validate(document["dataset"], context=context),
            Task.model_validate(document["task"], context=context),
        )
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return None, None  # then the command line says it
