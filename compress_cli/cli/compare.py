"""`compress compare`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Json, Plugins, Quiet, Tables, read_plugins, write_tables
from compress_cli.cli.eval import (  # fmt: skip
    Batch,
    Data,
    LatencyBatch,
    Prepare,
    Providers,
    Seconds,
    SessionOptions,
    Shape,
    SplitChoice,
    TaskName,
    Threads,
    measured,
    session_options,
)


def command(
    before: Annotated[Path, typer.Argument(help="an ONNX file", show_default=False)],
    after: Annotated[Path, typer.Argument(help="the ONNX file to compare with it", show_default=False)],
    data: Data = "",
    task: TaskName = "",
    split: SplitChoice = "test",
    preprocess: Prepare = "",
    batch: Batch = 128,
    latency_batch: LatencyBatch = 1,
    threads: Threads = None,
    providers: Providers = "",
    session: SessionOptions = "",
    seconds: Seconds = 0.5,
    shape: Shape = [],  # noqa: B006 - typer copies it
    csv: Tables = None,
    latex: Tables = None,
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put two ONNX files side by side. Bytes, MACs, accuracy on the same samples, latency timed in turn."""
    from compress_cli.measurement.evaluation import Asked
    from compress_cli.report import evaluation

    read_plugins(plugins)
    options = session_options(providers, session)
    asked = Asked(data, task, split, preprocess, batch, latency_batch, threads, options, seconds, shapes=tuple(shape))
    made = measured(after, before, asked, quiet)
    write_tables(evaluation.table(made), csv, latex)
    if json:
        typer.echo(made.model_dump_json(indent=1))
    else:
        evaluation.compare(made)
