"""`compress sensitivity`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress_cli.cli import Json, Output, Plugins, Quiet, Recipe, Set, StoreFolder, read_plugins

if TYPE_CHECKING:
    from compress_cli.pipeline.plan import Plan
    from compress_cli.statistics.findings import Findings

Stage = Annotated[str, typer.Option(help="one that prunes or quantises, or whose model is to be", show_default=False)]
Plot = Annotated[Path | None, typer.Option(help="also draw the curves into this file, an HTML page", show_default=False)]


def command(
    recipe: Recipe,
    stage: Annotated[
        str, typer.Option(help="the stage: one that prunes or quantises, or whose model is to be", show_default=False)
    ],
    overrides: Set = [],  # noqa: B006 - typer copies it
    output: Output = Path("runs"),
    store: StoreFolder = None,
    plot: Annotated[
        Path | None, typer.Option(help="also draw the curves into this file, an HTML page", show_default=False)
    ] = None,
    plugins: Plugins = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what the pruning or quantisation of each layer alone costs, on val. Nothing is measured twice."""
    import json as format_json

    from compress_cli.cli._live import Live

    read_plugins(plugins)
    planned, name = _planned(recipe, overrides, stage)

    if plot is not None and planned.step(name).stage.type == "sensitivity":
        from compress_cli.errors import RecipeError

        raise RecipeError("--plot: a quantisation has one figure for each layer, not a curve; leave --plot out")

    from compress_cli.pipeline import run  # PyTorch comes with it: only after the recipe proved right
    from compress_cli.statistics.findings import FINDINGS, Findings
    from compress_cli.store.bucket import opened

    with Live(quiet=quiet) as listener:
        directory = output / f"{planned.recipe.name}-sensitivity"
        running = run.Run(planned, opened(store, output), directory, listener)
        running.execute()
    artifact = running.artifacts[planned.step(name).key]
    findings = Findings.model_validate_json(artifact.file(FINDINGS).read_text())
    curves = artifact.directory / "curves.json"
    document = format_json.loads(curves.read_text()) if curves.is_file() else None
    if plot is not None and document is not None:
        _draw(plot, findings, document)
    if json:
        typer.echo(format_json.dumps({"findings": findings.model_dump(mode="json"), "curves": document}, indent=1))
    else:
        _show(findings)


def _planned(path: Path, overrides: list[str], name: str) -> "tuple[Plan, str]":
    """The plan of what a stage's sensitivity needs, and the stage that measures it; RecipeError where it has none."""
    from dataclasses import replace

    from compress_cli.errors import RecipeError
    from compress_cli.pipeline import plan
    from compress_cli.pipeline import recipe as recipes
    from compress_cli.plugin import find
    from compress_cli.stages import Stage as AnyStage
    from compress_cli.store.artifact import Checkpoint, Program, Table

    recipe = recipes.load(path, overrides)
    planned = plan.plan(recipe)
    step = planned.step(name)
    if issubclass(step.kind, Table) and step.stage.type in ("sensitivity", "pruning_sensitivity"):
        return _alone(planned.until(name)), name
    position = next(at for at, each in enumerate(recipe.stages) if (each.name or each.type) == name)
    stage = recipe.stages[position]
    if stage.type == "prune":
        settings = {field: getattr(stage, field) for field in ("start", "criterion", "ignore")}
        kept = recipe.stages[:position]
        added = find(AnyStage, "pruning_sensitivity").model_validate({"name": f"{name}-sensitivity", **settings})
    elif issubclass(step.kind, Checkpoint | Program):
        kept = recipe.stages[: position + 1]
        kind = "sensitivity" if issubclass(step.kind, Program) else "pruning_sensitivity"
        added = find(AnyStage, kind).model_validate({"name": f"{name}-sensitivity", "start": name})
    else:
        remedy = "name a stage that trains, prunes or quantises"
        if stage.type == "quantize":
            remedy = "name the stage that it quantises, or take a quantizer that makes a program of it, such as static_int8"
        raise RecipeError(f"--stage {name}: makes a file, of which no layer can be cut or rounded alone; {remedy}")
    chain = recipe.model_copy(update={"stages": (*kept, added), "gates": (), "baseline": None})
    return _alone(replace(plan.plan(chain), gates=())), f"{name}-sensitivity"


def _alone(planned: "Plan") -> "Plan":
    """Without the measurements of models, which nobody asked for."""
    from dataclasses import replace

    return replace(planned, rows=(), variants=(), repeated=(), gates=())


def _show(findings: "Findings") -> None:
    """The table as text."""
    wide = max(len(line.name) for line in findings.lines)
    typer.echo(findings.title)
    typer.echo(findings.about)
    typer.echo("  ".join([findings.what.ljust(wide), *(column.rjust(12) for column in findings.columns)]))
    for line in findings.lines:
        cells = ["-" if cell is None else f"{cell if isinstance(cell, float) else cell.value:+.4f}" for cell in line.cells]
        widths = [max(12, len(column)) for column in findings.columns]
        typer.echo("  ".join([line.name.ljust(wide), *(cell.rjust(n) for cell, n in zip(cells, widths, strict=True))]))


def _draw(path: Path, findings: "Findings", curves: "dict") -> None:
    """The curves as a page that opens offline."""
    from importlib.resources import files

    from compress_cli.report import plots
    from compress_cli.store.disk import unwritable

    lines = {layer: [(0.0, 0.0), *((100 * share, change) for share, change in row)] for layer, row in curves["changes"].items()}
    drawn = plots.curves(lines, "% of the channels removed", f"change of {curves['metric']}", "{:+.3g}".format, spread=False)
    style = files("compress_cli.report").joinpath("page.css").read_text()
    try:
        path.write_text(f"<!doctype html><meta charset=utf-8><title>{findings.title}</title><style>{style}</style>{drawn}\n")
    except OSError as error:
        raise unwritable(error, path) from None
