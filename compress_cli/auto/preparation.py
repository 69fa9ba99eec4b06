"""From a request to a written recipe: everything before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress_cli.auto import promises, writing
from compress_cli.auto.decider import Decider
from compress_cli.auto.decision import Decision
from compress_cli.auto.given import Given
from compress_cli.auto.journal import Journal, Timekeeper
from compress_cli.auto.request import Request
from compress_cli.auto.subject import Subject, settings_of
from compress_cli.auto.workshop import Workshop
from compress_cli.data.datasets import Dataset
from compress_cli.document import Document
from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.identity import path_marks
from compress_cli.pipeline.executor import Listener
from compress_cli.report import Report
from compress_cli.store import durable
from compress_cli.store.store import Store

HOME = ".auto"  # in the folder of runs: the recipes that were tried


@dataclass(frozen=True)
class Places:
    """Where things are written."""

    recipe: Path
    output: Path  # the folder of runs
    store: Store


def prepared(
    request: Request, subject: Subject, places: Places, listener: Listener, overwrite: bool
) -> tuple[Decision, Journal]:
    """Measure, decide, and write the recipe. RecipeError where the goals can't be judged or the time is too short, or where
    another file has the recipe's name."""
    promises.check(request.goals, request.dataset, request.task)
    _writable(places.recipe, overwrite)
    journal = Journal.open(places.store.root, request.key)
    if places.recipe.is_file() and not overwrite and not journal.answers:  # nothing of this request was ever written
        raise _another(places.recipe)
    with journal.timed():
        return _prepared(request, subject, places, Timekeeper(journal, listener), journal, overwrite), journal


def _prepared(
    request: Request, subject: Subject, places: Places, listener: Listener, journal: Journal, overwrite: bool
) -> Decision:
    folder = places.output / HOME / request.key[:12]
    shop = Workshop(request, _settings(request, folder), places.store, folder, listener)
    stage = subject.stage(str(subject.path.absolute()))
    made = shop.make("given", [stage, {"type": "export", "name": "onnx", "start": "given"}])
    file = (made["onnx"] if subject.trainable else made["given"]).file("model.onnx")
    alone = journal.remember("given", lambda: shop.judged(file, None).model_dump(mode="json"))  # its latency differs each time
    given = Given(stage, made["given"], file, Report.model_validate(alone))
    decision = Decider(request, subject, given, shop, journal).decide()
    settings = _settings(request, places.recipe.absolute().parent)
    text = writing.recipe(request, subject, decision, settings, writing.path_of(subject.path, places.recipe))
    _write(places.recipe, text, overwrite)
    return decision


def _settings(request: Request, folder: Path) -> dict[str, Any]:
    """The recipe's fields in front of its gates and stages; files are written as seen from `folder`."""
    timing = request.timing.model_dump(mode="json", exclude_defaults=True)
    measure = {"threads": request.timing.threads} if request.timing.threads else {}
    settings: dict[str, Any] = {"seed": request.seed, "dataset": _dataset(request.dataset, folder)}
    if request.task.type != "classification" or len(settings_of(request.task)) > 1:
        settings["task"] = settings_of(request.task)
    return {**settings, **({"measure": measure} if measure else {}), **({"compare": timing} if timing else {})}


def _dataset(dataset: Dataset, folder: Path) -> Any:
    """The dataset as a recipe names it, its files and folders in full."""
    settings = settings_of(dataset)
    for name, info in type(dataset).model_fields.items():
        value = getattr(dataset, name)
        if name in settings and path_marks(info) and isinstance(value, Path):
            settings[name] = writing.path_of(value, folder / "recipe.yaml")
    return dataset.type if len(settings) == 1 else settings


def _writable(path: Path, overwrite: bool) -> None:
    """RecipeError where the file is there and is no recipe of this command."""
    if not path.parent.is_dir():
        raise ArtifactError(f"{path.parent}: there is no such folder for the recipe")
    if not path.exists() or overwrite:
        return
    if not path.is_file() or not path.read_text(encoding="utf-8", errors="replace").startswith(writing.MARK):
        raise RecipeError(f"{path}: exists already, and was not written by this command; name another with --recipe")


def _write(path: Path, text: str, overwrite: bool) -> None:
    """Write the recipe, unless it is there already; RecipeError where it was changed since, or is of another request."""
    if path.is_file() and not overwrite:
        if path.read_text(encoding="utf-8") == text:
            return
        raise _another(path)
    durable.write(path, text.encode())
    Document.read(path).data()  # what was written can be read


def _another(path: Path) -> RecipeError:
    return RecipeError(
        f"{path}: is the recipe of another request, or was changed by hand; run it with `compress run {path}`, name "
        "another with --recipe, or write it anew with --force"
    )


def training_facts(decision: Decision, artifacts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The facts of the stage that trained what was chosen."""
    if decision.chosen is None or decision.chosen.name not in artifacts:
        return None
    facts: Mapping[str, Any] = artifacts[decision.chosen.name].manifest.facts
    return facts if "epochs" in facts else None
