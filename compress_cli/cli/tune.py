"""`compress tune`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress_cli.cli import Json, Output, Plugins, Quiet, Recipe, Set, StoreFolder, read_plugins

if TYPE_CHECKING:
    from compress_cli.search.outcome import Outcome
    from compress_cli.search.tuner import Order, Tuner

HEADER = "Written by `compress tune`"


def command(
    recipe: Recipe,
    overrides: Set = [],  # noqa: B006 - typer copies it
    trials: Annotated[int, typer.Option(help="how many combinations of values the study tries in all")] = 40,
    workers: Annotated[int, typer.Option(help="processes that work on trials at once")] = 1,
    within: Annotated[str, typer.Option(help="stop after this time: 90s, 30m, 2h", show_default=False)] = "",
    objectives: Annotated[
        list[str], typer.Option("--objective", help="size, latency or accuracy; two make a front", show_default=False)
    ] = [],  # noqa: B006
    storage: Annotated[str, typer.Option(help="the study's database, as a URL; default: an SQLite file beside the runs")] = "",
    study: Annotated[str, typer.Option(help="the study's name; default: the recipe's", show_default=False)] = "",
    sampler: Annotated[str, typer.Option(help="auto, tpe or gp (Gaussian process)")] = "auto",
    trial: Annotated[int | None, typer.Option(help="write this trial's recipe, not the best", show_default=False)] = None,
    best: Annotated[Path | None, typer.Option(help="where the best recipe is written; default: RECIPE.best.yaml")] = None,
    output: Output = Path("runs"),
    store: StoreFolder = None,
    plugins: Plugins = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
    order: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Search over a recipe's fields. Trials are measured on val, gates are constraints, the best recipe is written out."""
    read_plugins(plugins)

    from compress_cli.errors import RecipeError
    from compress_cli.search.tuner import Order, Tuner, serve

    def say(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    if order:  # a worker of another process's search
        ordered = Order.model_validate_json(order)
        read_plugins(list(ordered.plugins))
        serve(ordered, say)
        return
    if sampler not in ("auto", "tpe", "gp"):
        raise RecipeError(f"--sampler {sampler}: there is no such sampler; choose from: auto, tpe, gp")
    asked = Order(
        recipe=recipe,
        overrides=tuple(overrides),
        output=output,
        store=store,
        storage=storage,
        study=study,
        objectives=tuple(objectives),
        trials=trials,
        workers=workers,
        sampler=sampler,
        seconds=_seconds(within) if within else None,
        plugins=tuple(plugins),
        quiet=quiet,
    )
    target = best or recipe.with_suffix(".best.yaml")
    _ours(target)
    tuner = Tuner.of(asked, say)
    outcome = _outcome(tuner, asked, trial, target)
    if json:
        typer.echo(outcome.model_dump_json(indent=1))
    else:
        _show(outcome)
        if not quiet:
            typer.echo(f"report: {tuner.folder}/tune.html, tune.md, tune.json", err=True)
    _decide(outcome)


def _outcome(tuner: "Tuner", order: "Order", trial: int | None, target: Path) -> "Outcome":
    """Search, write the best recipe and the report."""
    from compress_cli.search import best, markdown, outcome, page
    from compress_cli.store import durable

    opened = tuner.search()
    found = outcome.collect(opened, tuner.space, tuner.goal, order.recipe, trial)
    if found.best is not None:
        found = found.model_copy(update={"written": str(target)})
        text = best.text(tuner.space, opened.trials(), found, HEADER)
        durable.write(target, text.encode())
        best.check(target, order.overrides, found)
    durable.write(tuner.folder / "tune.json", (found.model_dump_json(indent=1) + "\n").encode())
    durable.write(tuner.folder / "tune.md", markdown.render(found).encode())
    durable.write(tuner.folder / "tune.html", page.render(found).encode())
    return found


def _seconds(text: str) -> float:
    """`90s`, `30m`, `2h` or `1h30m`; RecipeError for anything else."""
    import re

    from compress_cli.errors import RecipeError

    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    if not match or not any(match.groups()):
        raise RecipeError(f"--within {text}: is no time; write 90s, 30m, 2h or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def _ours(target: Path) -> None:
    """RecipeError where the file that would be written is somebody's own."""
    from compress_cli.errors import RecipeError
    from compress_cli.store import durable

    durable.require_file(target)
    if target.is_file() and HEADER not in target.read_text(encoding="utf-8", errors="replace").partition("\n")[0]:
        raise RecipeError(f"{target}: is in the way, and was not written by `compress tune`; name another file with --best")


def _show(outcome: "Outcome") -> None:
    from compress_cli.search import terminal

    terminal.show(outcome)


def _decide(outcome: "Outcome") -> None:
    """StageError where no trial was completed, GateError where none keeps every promise."""
    from compress_cli.errors import GateError, StageError
    from compress_cli.report import figures as write

    if outcome.best is not None and outcome.trial(outcome.best).feasible:
        return
    number = outcome.best if outcome.best is not None else outcome.nearest
    if number is None:
        problems = [f"trial {each.number}: {each.problem}" for each in outcome.trials if each.problem]
        waiting = outcome.count("paused") + outcome.count("queued")
        waits = "1 trial waits" if waiting == 1 else f"{waiting} trials wait"
        reason = problems[-1] if problems else f"{waits}; give it more time: the same command goes on"
        raise StageError(f"no trial was completed; {reason}")
    nearest = outcome.trial(number)
    assert nearest.figures is not None
    lines = [f"gate {write.gate(result)}" for result in nearest.figures.gates if not result.passes]
    chosen = ", ".join(f"{name}: {value}" for name, value in nearest.values.items())
    named = f"trial {number}, which --trial names, does not keep every gate on val ({chosen})"
    said = named if outcome.named else f"no trial keeps every gate on val; the nearest is trial {number} ({chosen})"
    raise GateError("\n".join([said, *lines]))
