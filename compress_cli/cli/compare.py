"""`compress compare`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Gates, Json, JUnit, Plugins, Quiet, Tables, read_plugins
from compress_cli.cli.eval import (  # fmt: skip
    Batch,
    CachesChoice,
    Data,
    LatencyBatch,
    Outputs,
    Prepare,
    Providers,
    Seconds,
    SessionOptions,
    Shape,
    SplitChoice,
    TaskName,
    Threads,
    Value,
    measure_and_check,
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
    caches: CachesChoice = "warm",
    shape: Shape = [],  # noqa: B006 - typer copies it
    value: Value = [],  # noqa: B006
    gates: Gates = [],  # noqa: B006
    junit: JUnit = None,
    csv: Tables = None,
    latex: Tables = None,
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two ONNX files. Bytes, MACs, accuracy on the same samples, latency timed in turn."""
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
        shapes=tuple(shape),
        values=tuple(value),
    )
    measure_and_check(after, before, request, Outputs(gates, junit, csv, latex, json), quiet, evaluation.compare)
