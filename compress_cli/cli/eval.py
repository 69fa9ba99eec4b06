"""`compress eval`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compress_cli.cli import Json, Plugins, Quiet, complain, read_plugins

if TYPE_CHECKING:
    from compress_cli.datasets import Dataset, Split
    from compress_cli.latency import Latency
    from compress_cli.measure import Result
    from compress_cli.report.evaluation import Against, Evaluation
    from compress_cli.runtime import Session
    from compress_cli.tasks import Task

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="a dataset: its name, or a mapping as JSON or YAML ('{type: npz, train: my.npz}'); default: what the file says",
        show_default=False,
    ),
]


def command(
    model: Annotated[Path, typer.Argument(help="an ONNX file", show_default=False)],
    data: Data = "",
    task: Annotated[str, typer.Option(help="what counts as good; default: what the file says", show_default=False)] = "",
    split: Annotated[Literal["test", "val", "train"], typer.Option(help="the samples to measure on")] = "test",
    baseline: Annotated[Path | None, typer.Option(help="an older ONNX file to compare with", show_default=False)] = None,
    batch: Annotated[int, typer.Option(min=1, help="samples in one run while predicting")] = 128,
    latency_batch: Annotated[int, typer.Option(min=1, help="samples in one timed run")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="threads; default: all cores", show_default=False)] = None,
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure an ONNX file: parameters, MACs, bytes, accuracy, latency; with --baseline against an older one."""
    from compress_cli.report import evaluation

    read_plugins(plugins)
    made = evaluated(model, baseline, data, task, split, batch, latency_batch, threads, quiet)
    if json:
        typer.echo(made.model_dump_json(indent=1))
    else:
        evaluation.show(made)


def evaluated(
    model: Path,
    baseline: Path | None,
    data: str,
    task: str,
    split: Literal["test", "val", "train"],
    batch: int,
    latency_batch: int,
    threads: int | None,
    quiet: bool,
) -> "Evaluation":
    """All that is measured of a file, and of the baseline on the same samples."""
    from compress_cli import contents as held
    from compress_cli import runtime
    from compress_cli.report.evaluation import Evaluation

    session = runtime.open_session(model, threads)
    older = runtime.open_session(baseline, threads) if baseline else None
    dataset, judge = _about(session, data, task)
    part = dataset.split(split) if dataset else None
    results = []
    if part is not None and dataset is not None:
        judge.check(dataset.signature(), part.targets)
        results = [_result(each, part, judge, batch, quiet) for each in (session, older) if each]
    latency, against = _timed(session, older, part, latency_batch, results)
    return Evaluation(
        model=str(model),
        contents=held.contents(model),
        machine=runtime.machine(),
        latency=latency,
        data=dataset.type if dataset else "",
        split=split if dataset else "",
        samples=len(part) if part else 0,
        primary=judge.primary,
        metrics=results[0].metrics if results else {},
        against=against,
    )


def _about(session: "Session", data: str, task: str) -> "tuple[Dataset | None, Task]":
    """Dataset and task: from the command line, or else from the file's own card."""
    from compress_cli.card import Card, chosen
    from compress_cli.datasets import Dataset
    from compress_cli.recipe import setting
    from compress_cli.tasks import Task

    card = None if data and task else Card.from_metadata(session.metadata)
    judge = chosen(Task, card.task) if card and not task else setting(Task, task or "classification", "--task")
    assert isinstance(judge, Task)
    if data:
        given = setting(Dataset, data, "--data")
        assert isinstance(given, Dataset)
        return given, judge
    if card is None:
        return None, judge
    named = chosen(Dataset, card.dataset)
    assert isinstance(named, Dataset)
    if named.fingerprint() != card.fingerprint:
        complain(f"note: the dataset {named.type} here is not the one the file was made with; its figures may differ")
    return named, judge


def _result(session: "Session", part: "Split", judge: "Task", batch: int, quiet: bool) -> "Result":
    """Metrics with a bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from compress_cli import measure

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        bar = bars.add_task(session.path.name, total=len(part))
        return measure.evaluate(session, part, judge, batch, lambda each: bars.update(bar, completed=each.done))


def _timed(
    session: "Session", older: "Session | None", part: "Split | None", batch: int, results: "list[Result]"
) -> "tuple[Latency, Against | None]":
    """Latency on the first samples, or on made-up ones; in turn with the baseline's where there is one."""
    from compress_cli import contents as held
    from compress_cli import latency, measure
    from compress_cli.intervals import mcnemar, paired_difference
    from compress_cli.report.evaluation import Against

    sessions = [each for each in (session, older) if each]
    feeds = [measure.sample(each, part, batch) if part else latency.made_up(each, batch) for each in sessions]
    if older is None:
        return latency.latency(session, feeds[0]), None
    speedup = latency.compare(older, session, (feeds[1], feeds[0]), seconds=1.0)
    change = p = None
    if results:
        before, after = results[1].correct, results[0].correct
        change = paired_difference(before, after)
        p = mcnemar(before, after)
    new, old = (held.contents(each.path) for each in sessions)
    against = Against(
        baseline=str(older.path),
        contents=old,
        metrics=results[1].metrics if results else {},
        compression_ratio=old.size_bytes / new.size_bytes,
        speedup=speedup,
        change=change,
        change_p=p,
    )
    return speedup.model, against
