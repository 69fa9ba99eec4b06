"""`compress compare`"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from compress_cli.cli import Json, Plugins, Quiet, read_plugins
from compress_cli.cli.eval import Data, evaluated


def command(
    before: Annotated[Path, typer.Argument(help="an ONNX file", show_default=False)],
    after: Annotated[Path, typer.Argument(help="the ONNX file to compare with it", show_default=False)],
    data: Data = "",
    task: Annotated[str, typer.Option(help="what counts as good; default: what the file says", show_default=False)] = "",
    split: Annotated[Literal["test", "val", "train"], typer.Option(help="the samples to measure on")] = "test",
    batch: Annotated[int, typer.Option(min=1, help="samples in one run while predicting")] = 128,
    latency_batch: Annotated[int, typer.Option(min=1, help="samples in one timed run")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="threads; default: all cores", show_default=False)] = None,
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put two ONNX files side by side: bytes, MACs, accuracy on the same samples, latency timed in turn."""
    from compress_cli.report import evaluation

    read_plugins(plugins)
    made = evaluated(after, before, data, task, split, batch, latency_batch, threads, quiet)
    if json:
        typer.echo(made.model_dump_json(indent=1))
    else:
        evaluation.compare(made)
