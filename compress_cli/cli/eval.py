"""`compress eval`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compress_cli.cli import Json, Plugins, Quiet, Tables, read_plugins, write_tables
from compress_cli.errors import RecipeError

if TYPE_CHECKING:
    from compress_cli.measurement.evaluation import Asked, Evaluation
    from compress_cli.measurement.sessions import Options
    from compress_cli.progress import Progress

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="a dataset: its name, a mapping as JSON or YAML ('{type: npz, train: my.npz}'), or a .npz, a .csv or a folder "
        "of pictures, all of which is measured, or the folder of the data that the file was made with; default: what the "
        "file says",
        show_default=False,
    ),
]
TaskName = Annotated[str, typer.Option("--task", help="what counts as good; default: what the file says", show_default=False)]
SplitChoice = Annotated[Literal["test", "val", "train"], typer.Option("--split", help="the samples to measure on")]
Prepare = Annotated[
    str,
    typer.Option(
        "--preprocess",
        help="for a model from elsewhere: resize=256,crop=224 (or size=224, which stretches),scale=1/255,"
        "mean=0.485:0.456:0.406,std=...,colour=bgr,layout=nhwc",
        show_default=False,
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, max=10**6, help="samples in one run while predicting")]
LatencyBatch = Annotated[int, typer.Option("--latency-batch", min=1, max=10**6, help="samples in one timed run")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="threads; default: all cores", show_default=False)
]
Providers = Annotated[
    str, typer.Option("--providers", help="ONNX Runtime's providers, the preferred one first: cuda,cpu", show_default=False)
]
SessionOptions = Annotated[
    str, typer.Option("--session", help="its other options: '{optimisation: basic, execution: parallel}'", show_default=False)
]
Seconds = Annotated[float, typer.Option("--seconds", min=0.01, max=600, help="time for the timing")]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, max=1024, help="clients at once, whose throughput is measured too")
]
Shape = Annotated[
    list[str],
    typer.Option("--shape", help="of an input that the file leaves open: input=1x3x224x224 (without data)", show_default=False),
]


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
    concurrency: Concurrency = 1,
    shape: Shape = [],  # noqa: B006 - typer copies it
    profile: Annotated[
        bool, typer.Option("--profile", help="also what each node takes, and an int8 graph's float islands")
    ] = False,
    csv: Tables = None,
    latex: Tables = None,
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure an ONNX file: size, accuracy, latency. With --baseline against an older one."""
    from compress_cli.measurement.evaluation import Asked
    from compress_cli.report import evaluation

    read_plugins(plugins)
    options = session_options(providers, session)
    asked = Asked(
        data, task, split, preprocess, batch, latency_batch, threads, options, seconds, concurrency, tuple(shape), profile
    )
    made = measured(model, baseline, asked, quiet)
    write_tables(evaluation.table(made), csv, latex)
    if json:
        typer.echo(made.model_dump_json(indent=1))
    else:
        evaluation.show(made)


def session_options(providers: str, session: str) -> "Options":
    """How ONNX Runtime is to run; RecipeError for what it does not have."""
    from pydantic import ValidationError

    from compress_cli.document import setting
    from compress_cli.measurement.sessions import Options

    options = setting(Options, session, "--session") if session else Options()
    if not providers:
        return options
    names = tuple(each.strip() for each in providers.split(",") if each.strip())
    try:
        return Options.model_validate({**options.model_dump(), "providers": names})
    except ValidationError as error:
        raise RecipeError(f"--providers: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def measured(model: Path, baseline: Path | None, asked: "Asked", quiet: bool) -> "Evaluation":
    """The evaluation, with a bar on standard error where that is a terminal, and notes."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    from compress_cli.measurement.evaluation import evaluate

    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        bar = bars.add_task("measure", total=None)

        def log(progress: "Progress") -> None:
            if progress.note:
                typer.echo(f"note: {progress.note}", err=True)
            else:
                bars.update(bar, completed=progress.done, total=progress.total)

        return evaluate(model, baseline, asked, log)
