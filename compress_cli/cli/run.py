"""`compress run`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress_cli.cli import Gates, Json, JUnit, Output, Plugins, Quiet, Recipe, Set, StoreFolder, read_plugins, write_junit

if TYPE_CHECKING:
    from compress_cli.cli._live import Live
    from compress_cli.pipeline.plan import Plan
    from compress_cli.pipeline.schedule import Schedule
    from compress_cli.report import Report
    from compress_cli.store.store import Store


def command(
    context: typer.Context,
    recipe: Recipe,
    overrides: Set = [],  # noqa: B006 - typer copies it
    output: Output = Path("runs"),
    store: StoreFolder = None,
    force: Annotated[list[str], typer.Option(help="run this stage although it is up to date", show_default=False)] = [],  # noqa: B006
    until: Annotated[str, typer.Option(help="stop after this stage", show_default=False)] = "",
    smoke: Annotated[bool, typer.Option("--smoke", help="only try two batches through every stage")] = False,
    within: Annotated[str, typer.Option(help="fit epochs to a time: 60m, 1h30m", show_default=False)] = "",
    repair: Annotated[bool, typer.Option("--repair", help="make damaged artifacts anew")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="make so many steps at once, each in a process of its own")] = 1,
    on: Annotated[
        str,
        typer.Option(help="make long steps on workers: slurm, '{type: slurm, hours: 8}', ray", show_default=False),
    ] = "",
    processes: Annotated[
        int,
        typer.Option(min=1, max=1024, help="train each step by so many processes of this machine; several machines: torchrun"),
    ] = 1,
    gates: Gates = [],  # noqa: B006
    junit: JUnit = None,
    plugins: Plugins = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe, print its report, check its gates. Stages that are up to date are skipped."""
    import time

    from compress_cli.cli import _several
    from compress_cli.cli._live import Live
    from compress_cli.errors import RecipeError

    def made() -> tuple["Plan", "Store"]:
        """What another process of the run takes part in."""
        from compress_cli.store.bucket import opened

        read_plugins(plugins)
        return _planned(recipe, overrides, until, force, [], None, True, within), opened(store, output)

    begun = time.monotonic()
    schedule: Schedule | None = _several.joined(context, processes, jobs > 1 or bool(on), made)
    read_plugins(plugins)
    planned = _planned(recipe, overrides, until, force, gates, junit, quiet, within)

    # PyTorch comes with these: only after the recipe proved right
    from compress_cli.pipeline import fitting, run, time_limit
    from compress_cli.pipeline.tracking import Tracked
    from compress_cli.report import gates as promises
    from compress_cli.store.bucket import opened

    directory, limit = output / planned.recipe.name, planned.recipe.within
    if limit and (schedule or processes > 1):
        raise RecipeError(
            f"within {limit.time}: only what steps take in one process is known; leave out the time, or --processes"
        )
    if processes > 1 and not smoke:
        arguments = _arguments(recipe, overrides, plugins, output, store, until)
        schedule = _several.started(context, processes, arguments, planned.recipe.threads)
    schedule = schedule or _schedule(jobs, on, recipe, overrides, plugins, within)
    with Live(quiet=quiet) as listener:
        kept = opened(store, output)
        if smoke:
            _try_out(planned, kept, directory, listener, json=json, quiet=quiet)
            return
        if planned.recipe.within and not planned.missing_data:
            planned = fitting.applied(planned, fitting.fitted(planned, kept, directory, listener, begun, frozenset(force)))
            if not quiet:
                typer.echo(planned.fitted, err=True)
        with Tracked(planned, directory, listener) as tracked:
            forced = frozenset(force)
            run.Run(planned, kept, directory, tracked, forced, repair, schedule).execute()
            report = promises.collect(directory)
            write_report(report, directory)
            tracked.results(report)
    write_junit(report, junit)
    late = time_limit.overrun(limit, time.monotonic() - begun)
    if late and not quiet:
        typer.echo(late, err=True)
    tell(report, f"report: {directory}/report.html, report.md, report.json", json=json, quiet=quiet)


def _try_out(planned: "Plan", store: "Store", directory: Path, listener: "Live", *, json: bool, quiet: bool) -> None:
    """Run two batches through every stage, and say how long all data would take."""
    import json as format_json

    from compress_cli.pipeline import fitting, smoke
    from compress_cli.pipeline.estimate import MEMORY

    memory = store.root / MEMORY if store.root.is_dir() else None
    trials = smoke.smoke(planned, listener, memory=memory)
    if memory:
        smoke.note(planned, trials, memory)
    if json:
        typer.echo(format_json.dumps([{"step": trial.name, "seconds": trial.seconds} for trial in trials], indent=1))
    else:
        seconds = sum(trial.seconds for trial in trials)
        typer.echo(f"every stage works on two batches; on all data they would take about {seconds:.0f} s together")
    foreseen = fitting.foreseen(planned, store, directory, trials) if planned.recipe.within else None
    if foreseen and not quiet:
        typer.echo(foreseen.decision.sentence, err=True)


def _arguments(
    recipe: Path, overrides: list[str], plugins: list[Path], output: Path, store: str | None, until: str
) -> list[str]:
    """The arguments of another process that trains with this one."""
    named = {"--output": str(output), "--store": store, "--until": until}
    options = [text for name, value in named.items() if value for text in (name, value)]
    options += [text for override in overrides for text in ("--set", override)]
    options += [text for path in plugins for text in ("--plugin", str(path))]
    return ["run", *options, "--", str(recipe)]


def tell(report: "Report", place: str, *, json: bool, quiet: bool) -> None:
    """Print a run's report, say where it lies, and check its gates."""
    from compress_cli.report import gates as promises
    from compress_cli.report import terminal

    if json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        terminal.show(report)
        if not quiet:
            typer.echo(place, err=True)
    promises.decide(report)


def _schedule(jobs: int, on: str, recipe: Path, overrides: list[str], plugins: list[Path], within: str) -> "Schedule":
    """Where steps are made, as `--jobs` and `--on` say; RecipeError for workers that this machine can't have."""
    from compress_cli.document import Document
    from compress_cli.errors import RecipeError
    from compress_cli.pipeline.parallel import Parallel
    from compress_cli.pipeline.schedule import Schedule
    from compress_cli.pipeline.workers import Choice
    from compress_cli.pipeline.workers.local import Local

    if on and jobs > 1:
        raise RecipeError("--jobs and --on: choose one; --jobs 2 is short for --on '{type: local, jobs: 2}'")
    if not on and jobs == 1:
        return Schedule()
    workers = Document.parse(f"workers: {on}", "--on").settings(Choice, Path()).workers if on else Local(jobs=jobs)
    workers.check()
    return Parallel(workers, recipe, tuple(overrides), tuple(plugins), within)


def _planned(
    recipe: Path,
    overrides: list[str],
    until: str,
    force: list[str],
    gates: list[str],
    junit: Path | None,
    quiet: bool,
    within: str,
) -> "Plan":
    """The plan with the gates of the command line; RecipeError where either is wrong."""
    from compress_cli.errors import RecipeError
    from compress_cli.pipeline import plan, time_limit
    from compress_cli.pipeline import recipe as recipes
    from compress_cli.statistics import gate

    promised = tuple(gate.parse(text) for text in gates)
    loaded = recipes.load(recipe, overrides)
    if within:
        loaded = loaded.model_copy(update={"within": time_limit.of_option(within, loaded.within)})
    planned = plan.plan(loaded)
    forced = [planned.step(name) for name in force]
    if until:
        if planned.gates and not quiet:
            typer.echo(f"the recipe's gates are about its end, and wait: this run stops after '{until}'", err=True)
        planned = planned.until(until)
        late = [step.name for step in forced if step not in planned.stages]
        if late:
            raise RecipeError(f"--force {late[0]}: the run stops before it, after '{until}'; leave out one of the two")
    planned = planned.promising(promised)
    if junit and not planned.gates:
        raise RecipeError("--junit: there are no gates to write; name some with --gate, or in the recipe under 'gates'")
    return planned


def write_report(report: "Report", directory: Path) -> None:
    """The report's files, and the summary of the CI job where there is one."""
    from compress_cli.cli._summary import write_summary
    from compress_cli.report import markdown, page
    from compress_cli.store import durable, seal

    text = markdown.render(report)
    durable.write(directory / "report.json", (report.model_dump_json(indent=1) + "\n").encode())
    durable.write(directory / "report.md", text.encode())
    durable.write(directory / "report.html", page.render(report, page.background(directory)).encode())
    seal.seal_reports(directory)
    write_summary(text)
