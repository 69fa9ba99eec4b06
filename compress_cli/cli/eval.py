"""`compress eval`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from compress_cli.cli import Gates, Json, JUnit, Plugins, Quiet, Tables, read_plugins, write_junit, write_tables
from compress_cli.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from compress_cli.measurement.evaluation import Evaluation, EvaluationRequest
    from compress_cli.measurement.sessions import Options
    from compress_cli.progress import Progress

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="the samples to measure on: a dataset's name, a mapping in YAML or JSON ('{type: npz, train: my.npz}'), a .npz, a "
        ".csv or a folder of pictures, all of which is measured, or the folder of the data that the file was made with; "
        "default: the dataset that the file's card names",
        show_default=False,
    ),
]
TaskName = Annotated[
    str, typer.Option("--task", help="the task, which defines the metrics; default: the card's", show_default=False)
]
SplitChoice = Annotated[Literal["test", "val", "train"], typer.Option("--split", help="the samples to measure on")]
Prepare = Annotated[
    str,
    typer.Option(
        "--preprocess",
        help="how pictures are prepared for a model that was not made here: resize=256,crop=224 (or size=224, which stretches),"
        "scale=1/255,mean=0.485:0.456:0.406,std=...,colour=bgr,layout=nhwc",
        show_default=False,
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, max=10**6, help="samples in one run while predicting")]
LatencyBatch = Annotated[int, typer.Option("--latency-batch", min=1, max=10**6, help="samples in one timed run")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="threads; default: all cores", show_default=False)
]
Providers = Annotated[
    str,
    typer.Option(
        "--providers", help="ONNX Runtime's execution providers, the preferred one first: cuda,cpu", show_default=False
    ),
]
SessionOptions = Annotated[
    str,
    typer.Option(
        "--session", help="other ONNX Runtime options: '{optimisation: basic, execution: parallel}'", show_default=False
    ),
]
Seconds = Annotated[float, typer.Option("--seconds", min=0.01, max=600, help="duration of the timing")]
CachesChoice = Annotated[
    Literal["warm", "cold"],
    typer.Option(
        "--caches",
        help="warm: timed run after run, as benchmarks and busy servers do; cold: the processor's caches hold other data "
        "before each timed run, as in a program that does other work between two calls",
    ),
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, max=1024, help="clients at once, whose throughput is measured too")
]
Shape = Annotated[
    list[str],
    typer.Option(
        "--shape", help="without data: shape of an input that the file leaves open: input=1x3x224x224", show_default=False
    ),
]
Value = Annotated[
    list[str], typer.Option("--value", help="without data: the number that fills an input: sr=16000", show_default=False)
]

SILENCE_S = 30.0
"""Without a terminal a measurement that takes longer says how far it is."""


def command(
    model: Annotated[Path, typer.Argument(help="an ONNX file", show_default=False)],
    data: Data = "",
    task: TaskName = "",
    split: SplitChoice = "test",
    baseline: Annotated[Path | None, typer.Option(help="an older ONNX file to compare with", show_default=False)] = None,
    preprocess: Prepare = "",
    batch: Batch = 128,
    latency_batch: LatencyBatch = 1,
    threads: Threads = None,
    providers: Providers = "",
    session: SessionOptions = "",
    seconds: Seconds = 0.5,
    caches: CachesChoice = "warm",
    concurrency: Concurrency = 1,
    shape: Shape = [],  # noqa: B006 - typer copies it
    value: Value = [],  # noqa: B006
    profile: Annotated[
        bool, typer.Option("--profile", help="time each node too, and show the float islands of an int8 graph")
    ] = False,
    gates: Gates = [],  # noqa: B006
    junit: JUnit = None,
    csv: Tables = None,
    latex: Tables = None,
    plugins: Plugins = [],  # noqa: B006
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure an ONNX file: size, accuracy, latency. With --baseline against an older one, with --gate as a test."""
    from compress_cli.measurement.evaluation import EvaluationRequest
    from compress_cli.report import evaluation

    read_plugins(plugins)
    request = EvaluationRequest(
        data=data,
        task=task,
        split=split,
        preprocess=preprocess,
        batch=batch,
        latency_batch=latency_batch,
        threads=threads,
        options=session_options(providers, session),
        seconds=seconds,
        caches=caches,
        concurrency=concurrency,
        shapes=tuple(shape),
        values=tuple(value),
        profiled=profile,
    )
    outputs = Outputs(gates, junit, csv, latex, json)
    measure_and_check(model, baseline, request, outputs, quiet, evaluation.show)


class Outputs(NamedTuple):
    """Where the results of an evaluation are written besides the terminal."""

    gates: list[str]
    junit: Path | None
    csv: Path | None
    latex: Path | None
    json: bool


def measure_and_check(
    model: Path,
    baseline: Path | None,
    request: "EvaluationRequest",
    outputs: Outputs,
    quiet: bool,
    show: "Callable[[Evaluation], None]",
) -> None:
    """Measure, write the requested files, print, and check the gates: GateError where one is not met."""
    from compress_cli.cli._summary import write_summary
    from compress_cli.report import against, evaluation
    from compress_cli.report import gates as promises
    from compress_cli.statistics import gate

    promised = tuple(gate.parse(text) for text in outputs.gates)
    against.refuse(promised, model, baseline)
    if outputs.junit and not promised:
        raise RecipeError("--junit: there are no gates to write; name some with --gate")
    result = measured(model, baseline, request, quiet)
    report = against.report(result, promised)
    result = result.model_copy(update={"gates": report.gates})
    write_tables(evaluation.table(result), outputs.csv, outputs.latex)
    write_junit(report, outputs.junit)
    write_summary(against.summary(report, result))
    if outputs.json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        show(result)
        for line in against.printed(report):
            typer.echo(line)
    promises.decide(report)


def session_options(providers: str, session: str) -> "Options":
    """The options of ONNX Runtime; RecipeError for a provider that it does not have."""
    from pydantic import ValidationError

    from compress_cli.document import setting
    from compress_cli.measurement.sessions import Options

    options = setting(Options, session, "--session") if session else Options()
    if not providers:
        return options
    names = tuple(name.strip() for name in providers.split(",") if name.strip())
    try:
        return Options.model_validate({**options.model_dump(), "providers": names})
    except ValidationError as error:
        raise RecipeError(f"--providers: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def measured(model: Path, baseline: Path | None, request: "EvaluationRequest", quiet: bool) -> "Evaluation":
    """The evaluation, with notes, and a bar on standard error where that is a terminal, else a line now and then."""
    import time

    from rich.console import Console
    from rich.progress import Progress as Bars

    from compress_cli.measurement.evaluation import evaluate

    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        bar = bars.add_task("measure", total=None)
        shown = time.monotonic()

        def log(progress: "Progress") -> None:
            nonlocal shown
            if progress.note:
                typer.echo(f"note: {progress.note}", err=True)
            elif not console.is_terminal and not quiet and time.monotonic() - shown >= SILENCE_S:
                typer.echo(f"{progress.what}: {progress.done} of {progress.total}", err=True)
                shown = time.monotonic()
            else:
                bars.update(bar, completed=progress.done, total=progress.total)

        return evaluate(model, baseline, request, log)
