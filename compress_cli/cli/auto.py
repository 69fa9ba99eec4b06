"""`compress auto`"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compress_cli.cli import Json, JUnit, Output, Plugins, Quiet, StoreFolder, read_plugins, write_junit
from compress_cli.errors import RecipeError

if TYPE_CHECKING:
    from compress_cli.auto.decision import Decision
    from compress_cli.auto.journal import Journal
    from compress_cli.auto.preparation import Places
    from compress_cli.auto.request import Request
    from compress_cli.auto.subject import Subject
    from compress_cli.measurement.latency import TimingConditions

Goals = Annotated[
    list[str],
    typer.Option("--goal", help="a promise as a recipe's gates make it: 'compression_ratio>=10', 'accuracy_drop<=0.005'"),
]


def command(
    model: Annotated[
        Path,
        typer.Argument(
            help="a stage's folder (runs/RECIPE/STAGE), a run's (its baseline), an ONNX file, or weights with --model",
            show_default=False,
        ),
    ],
    goals: Goals = [],  # noqa: B006 - typer copies it
    within: Annotated[str, typer.Option(help="the time for all of it: 90s, 60m, 1h30m")] = "60m",
    data: Annotated[
        str,
        typer.Option(
            help="the dataset, as in a recipe: a name, or a mapping; default: what the model was made with",
            show_default=False,
        ),
    ] = "",
    task: Annotated[str, typer.Option(help="the task; default: the model's own, else classification", show_default=False)] = "",
    architecture: Annotated[
        str,
        typer.Option("--model", help="the architecture of weights: '{type: torchvision, name: resnet18}'", show_default=False),
    ] = "",
    student: Annotated[
        list[str], typer.Option("--student", help="an architecture to consider too: '{type: convnet}'", show_default=False)
    ] = [],  # noqa: B006
    target: Annotated[
        Literal["this", "portable"],
        typer.Option(
            help="where the file will run: this machine, or portable: integers that any x86 and ARM processor adds exactly. "
            "Latency is measured here in either case: run the command on the target for promises about its speed"
        ),
    ] = "this",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="of the runtime; default: the cores at hand", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=10**6, help="samples in a timed run")] = 1,
    recipe: Annotated[Path, typer.Option(help="the recipe to write; its name is that of the run's folder")] = Path("auto.yaml"),
    recipe_only: Annotated[
        bool, typer.Option("--recipe-only", "--dry-run", help="measure, decide and write the recipe, and do not run it")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="write the recipe anew where it was changed")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of everything random")] = 0,
    output: Output = Path("runs"),
    store: StoreFolder = None,
    junit: JUnit = None,
    plugins: Plugins = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose, write and run a recipe that keeps promises. What is measured on val decides; test is measured once, at the end.

    The same command again goes on where it was interrupted. Exit code 0 where every promise holds, 5 where one does not: the
    report then says what limits it.
    """
    import time

    begun = time.monotonic()
    from compress_cli.auto import request as requests
    from compress_cli.auto.preparation import Places, prepared
    from compress_cli.cli._live import Live
    from compress_cli.measurement.latency import TimingConditions
    from compress_cli.store.bucket import opened

    asked, seconds = requests.goals(goals), requests.seconds(within)
    if junit and recipe_only:
        raise RecipeError("--junit: with --recipe-only no gate is judged; leave out one of the two")
    read_plugins(plugins)
    timing = TimingConditions(threads=threads, batch=batch)
    places = Places(recipe, output, opened(store, output))
    subject, request = _request(model, architecture, data, task, student, asked, seconds, timing, target, seed)
    with Live(quiet=quiet) as listener:
        decision, journal = prepared(request, subject, places, listener, force)
    journal.begun = begun  # what was read and checked before is part of the time too
    if not quiet:
        typer.echo(f"recipe: {recipe}", err=True)
    if recipe_only:
        if json:
            import json as format_json

            typer.echo(format_json.dumps({"recipe": str(recipe), "holds_on_val": decision.holds}, indent=1))
        return
    _run(request, decision, places, journal, quiet=quiet, json=json, junit=junit)


def _request(
    path: Path,
    architecture: str,
    data: str,
    task: str,
    students: list[str],
    goals: "tuple[object, ...]",
    within_s: float,
    timing: "TimingConditions",
    target: Literal["this", "portable"],
    seed: int,
) -> "tuple[Subject, Request]":
    """What was asked for, checked; RecipeError where something is missing or does not fit."""
    from compress_cli.auto import request as requests
    from compress_cli.auto import subject as subjects
    from compress_cli.data.datasets import Dataset
    from compress_cli.data.tasks import Task
    from compress_cli.document import setting
    from compress_cli.networks.models import Model

    subject = subjects.find(path, setting(Model, architecture, "--model") if architecture else None)  # type: ignore[type-abstract]
    dataset = setting(Dataset, _as_dataset(data), "--data") if data else subject.dataset  # type: ignore[type-abstract]
    if dataset is None:
        raise RecipeError(
            f"--data: {path} does not say what it was made with; name the data: --data digits, or --data "
            "'{type: image_folder, root: photos}' (`compress list datasets` shows all)"
        )
    if subject.dataset is not None and dataset.fingerprint() != subject.dataset.fingerprint():
        subject = replace(subject, loading={}, training={}, dataset=None)  # what its own run knew is about other data
    if not len(dataset.split("val")):
        raise RecipeError(
            "--data: the dataset has no val split, and every choice is made on it; give one, such as val_share: 0.1"
        )
    known = setting(Task, task or "classification", "--task") if task or subject.task is None else subject.task  # type: ignore[type-abstract]
    models: list[Model] = [setting(Model, text, "--student") for text in students]  # type: ignore[type-abstract]
    digest = requests.digest(subject.files, subject.stage(""), subject.model)
    request = requests.Request(digest, dataset, known, goals, within_s, timing, target, tuple(models), seed)  # type: ignore[arg-type]
    return subject, request


def _as_dataset(data: str) -> str:
    """What names a dataset; RecipeError for a bare path, which does not say how it is read and divided."""
    path = Path(data)
    if "{" in data or not path.exists():
        return data
    forms = {
        ".csv": "csv, train: {}, label: COLUMN",
        ".tsv": "csv, train: {}, delimiter: tab, label: COLUMN",
        ".parquet": "parquet, train: {}, label: COLUMN",
        ".npz": "npz, train: {}, inputs: [ARRAY]",
    }
    form = "image_folder, root: {}, height: 224, width: 224" if path.is_dir() else forms.get(path.suffix, "TYPE, ...")
    raise RecipeError(
        f"--data {data}: does not say how it is read and divided into train, val and test; such as "
        f"--data '{{type: {form.format(data)}}}' (`compress list datasets` shows all)"
    )


def _run(
    request: "Request",
    decision: "Decision",
    places: "Places",
    journal: "Journal",
    *,
    quiet: bool,
    json: bool,
    junit: Path | None,
) -> None:
    """Run the recipe, say what limits it, and check its gates."""
    import time

    from compress_cli.auto import limits
    from compress_cli.auto.journal import Timekeeper
    from compress_cli.auto.preparation import training_facts
    from compress_cli.auto.request import duration
    from compress_cli.cli._live import Live
    from compress_cli.cli.run import tell, write_report
    from compress_cli.pipeline import fitting, plan, run
    from compress_cli.pipeline import recipe as recipes
    from compress_cli.report import gates as promises

    planned = plan.plan(recipes.load(places.recipe))
    directory = places.output / planned.recipe.name
    with Live(quiet=quiet) as live, journal.timed():
        listener = Timekeeper(journal, live)
        if planned.recipe.within:
            try:
                fitted = fitting.fitted(planned, places.store, directory, listener, time.monotonic())
            except RecipeError as error:
                raise RecipeError(
                    f"{error}\n--within {duration(request.within_s)}: measuring and deciding left too little of it for the "
                    f"run; give more, or run the recipe with a time of its own: compress run {places.recipe} --within ..."
                ) from None
            planned = fitting.applied(planned, fitted)
        execution = run.Run(planned, places.store, directory, listener)
        execution.execute()
    made = {step.name: execution.artifacts[step.key] for step in planned.stages if step.key in execution.artifacts}
    report = promises.collect(directory)
    sentences = limits.sentences(request, decision, report, training_facts(decision, made))
    late = limits.late(request, journal.complete(), trained=decision.chosen is not None)
    limits.write(directory, [*sentences, *([late] if late else [])])
    report = promises.collect(directory)
    write_report(report, directory)
    write_junit(report, junit)
    place = f"report: {directory}/report.html, report.md, report.json; recipe: {places.recipe}"
    tell(report, place, json=json, quiet=quiet)
