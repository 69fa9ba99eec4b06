"""`compress plan`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from compress_cli.cli import Json, Output, Plugins, Quiet, Recipe, Set, StoreFolder, read_plugins

WIDTH = 150  # columns: the names of implied steps are long, and a status that is cut says nothing


def command(
    recipe: Recipe,
    overrides: Set = [],  # noqa: B006 - typer copies it
    output: Output = Path("runs"),
    store: StoreFolder = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="also try two batches through every stage")] = False,
    plugins: Plugins = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a run would do and what it may cost. Steps, inputs, keys, what is up to date; nothing is run."""
    import json as format_json

    from compress_cli.pipeline import plan as plans
    from compress_cli.pipeline import recipe as recipes

    read_plugins(plugins)
    planned = plans.plan(recipes.load(recipe, overrides))

    from compress_cli.cli._live import Live
    from compress_cli.pipeline import fitting, run
    from compress_cli.pipeline import smoke as smoke_run
    from compress_cli.pipeline.estimate import MEMORY, Estimates
    from compress_cli.store.bucket import opened

    kept = opened(store, output)
    with Live(quiet=quiet) as listener:
        trials = []
        if smoke and not planned.missing_data:
            memory = kept.root / MEMORY if kept.root.is_dir() else None
            trials = smoke_run.smoke(planned, listener, memory=memory)
            if memory:
                smoke_run.note(planned, trials, memory)
        limited, fitted = planned.recipe.within is not None and not planned.missing_data, None
        if limited:
            fitted = fitting.foreseen(planned, kept, output / planned.recipe.name, trials)
            planned = fitted.plan if fitted else planned
        state = run.Run(planned, kept, output / planned.recipe.name, listener, repair=True)
    estimates = Estimates(planned.recipe, kept, trials)
    names = {step.key: step.name for step in planned.steps}  # what several share is one step, called as its first user calls it
    steps = [_step(step, planned, names, _status(step, state), estimates.of(step)) for step in planned.steps]
    document = {
        "recipe": planned.recipe.name,
        "baseline": planned.baseline,
        **({"fitted": fitted.decision.model_dump() if fitted else None} if limited else {}),
        "missing_data": planned.missing_data,
        "steps": steps,
    }
    if json:
        typer.echo(format_json.dumps(document, indent=1))
    else:
        _show(document)
        if limited:
            typer.echo(fitted.decision.sentence if fitted else "epochs are fitted when the run begins (--smoke shows to what)")
    if state.damaged:
        from compress_cli.errors import ArtifactError

        raise ArtifactError("\n".join(state.damaged.values()))


def _status(step: Any, state: Any) -> str:
    if state.current(step) is not None:
        return "up to date"
    return "damaged" if step.key in state.damaged else "to run"


def _step(step: Any, planned: Any, names: dict[str, str], status: str, cost: Any) -> dict[str, Any]:
    return {
        "name": step.name,
        "stage": step.stage.type,
        "makes": step.kind.__name__,
        "implied": step.implied,
        "inputs": {role: [names[source.key] for source in steps] for role, steps in step.inputs.items() if steps},
        "key": None if planned.missing_data else step.key,
        "status": status,
        "cost": cost.model_dump() if cost else None,
    }


def _show(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("step", "stage", "takes", "key", "status", "time", "disk", "from"):
        right = heading in ("time", "disk")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "takes", overflow="fold")
    for step in document["steps"]:
        cost, to_run = step["cost"], step["status"] != "up to date"
        table.add_row(
            ("  " if step["implied"] else "") + step["name"],
            step["stage"],
            ", ".join(name for names in step["inputs"].values() for name in names),
            step["key"][:12] if step["key"] else "unknown",
            step["status"],
            f"{cost['seconds']:.1f} s" if cost and to_run else "?" if to_run else "",
            f"{cost['disk_bytes'] / 1e3:.0f} kB" if cost else "?",
            cost["source"] if cost and to_run else "",
        )
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, WIDTH)  # a narrower window shows the lines wrapped
    console.print(table)
    console.print(_total(document["steps"]), soft_wrap=True)
    if document["missing_data"]:
        console.print(f"keys unknown until the data is here: {document['missing_data']}", soft_wrap=True)


def _total(steps: list[dict[str, Any]]) -> str:
    to_run = [step for step in steps if step["status"] != "up to date"]
    if not to_run:
        return "everything is up to date"
    costs = [step["cost"] for step in to_run if step["cost"]]
    if not costs:
        return f"{len(to_run)} steps to run; no earlier run to estimate from (--smoke times two batches of each stage)"
    memory = max((cost["memory_bytes"] or 0 for cost in costs), default=0)
    sources = ", ".join(sorted({cost["source"] for cost in costs}))
    unknown = f", {len(to_run) - len(costs)} of them not estimated" if len(costs) < len(to_run) else ""
    return (
        f"{len(to_run)} steps to run{unknown}: about {sum(cost['seconds'] for cost in costs):.0f} s, "
        f"{sum(cost['disk_bytes'] for cost in costs) / 1e6:.1f} MB on disk, {memory / 1e9:.1f} GB of memory (from: {sources})"
    )
