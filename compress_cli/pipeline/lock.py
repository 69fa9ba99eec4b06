"""A run's lock file: the recipe with all defaults filled in, from which the run can be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.pipeline import executor, plan, recipe
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.recipe import Recipe
from compress_cli.pipeline.step import Step
from compress_cli.store import durable
from compress_cli.store.record import LOCK, Record


def write(recipe: Recipe, directory: Path) -> None:
    """Every default filled in, overrides applied, paths absolute."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value.absolute()) if isinstance(value, Path) else value

    versions = ", ".join(f"{name} {version}" for name, version in executor.libraries().items())
    document = yaml.safe_dump(plain(recipe.model_dump()), sort_keys=False, allow_unicode=True)
    durable.write(directory / LOCK, f"# {recipe.path.name} as it was run, with {versions}\n{document}".encode())


def planned(directory: Path, record: Record) -> Plan:
    """The plan of the run in `directory`, up to the stage and with the gates that it had; of a search's trial with the
    measurements on val that it was judged by.

    ArtifactError where the lock file is missing, can't be read, or makes other artifacts than the run has.
    """
    path = directory / LOCK
    if not path.is_file():
        raise ArtifactError(f"{path}: is missing; run the recipe again")
    try:
        loaded = recipe.load(path)
        again, on_val = plan.plan(loaded), plan.plan(loaded, "val")
    except RecipeError as error:
        raise ArtifactError(f"{error}\n  (a run with plugins of your own needs the same --plugin)") from None
    if again.missing_data:
        raise ArtifactError(again.missing_data)
    names = record.keys(directory)
    again = _as_measured(again, on_val, names)
    last = [step.name for step in again.stages if step.name in names]
    if last:
        again = replace(again.until(last[-1]), gates=record.gates)
    keys = {step.key for step in again.steps}
    changed = [name for name, key in names.items() if key not in keys]
    if changed or not last:
        raise ArtifactError(
            f"{directory}: its recipe makes other artifacts now ({', '.join(changed[:3])}): the data, a file it names or this "
            "program changed since; `compress run` makes them"
        )
    return again


def _as_measured(on_test: Plan, on_val: Plan, names: Mapping[str, str]) -> Plan:
    """The plan by what a run measured its models on; of a trial without the measurements that its search did not ask for."""
    keys = set(names.values())
    if any(row.measurement.key in keys for row in on_test.rows) or all(row.measurement.key not in keys for row in on_val.rows):
        return on_test

    def known(step: Step | None) -> Step | None:
        return step if step and step.key in keys else None

    rows = (row for row in on_val.rows if row.measurement.key in keys)
    rows = (replace(row, comparison=known(row.comparison), predictions=known(row.predictions)) for row in rows)
    return replace(on_val, rows=tuple(rows))
