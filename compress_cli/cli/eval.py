"""`compress eval`"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compress_cli.cli import Json, Plugins, Quiet, Tables, complain, read_plugins, write_tables
from compress_cli.errors import RecipeError

if TYPE_CHECKING:
    from compress_cli.datasets import Dataset, Split
    from compress_cli.latency import Feeds, Latency
    from compress_cli.measure import Result
    from compress_cli.report.evaluation import Against, Evaluation
    from compress_cli.runtime import Options, Session
    from compress_cli.tasks import Task

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="a dataset: its name, a mapping as JSON or YAML ('{type: npz, train: my.npz}'), or just a .npz, a .csv or a "
        "folder of pictures; default: what the file says",
        show_default=False,
    ),
]
TaskName = Annotated[str, typer.Option("--task", help="what counts as good; default: what the file says", show_default=False)]
SplitChoice = Annotated[Literal["test", "val", "train"], typer.Option("--split", help="the samples to measure on")]
Prepare = Annotated[
    str,
    typer.Option(
        "--preprocess",
        help="for a model from elsewhere: scale=1/255,mean=0.485:0.456:0.406,std=...,size=224,colour=bgr,layout=nhwc",
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


Profiled = Annotated[
    bool, typer.Option("--profile", help="also what each node takes, and which float islands an int8 graph has")
]


@dataclass(frozen=True)
class Asked:
    """What is to be measured, and how."""

    data: str
    task: str
    split: Literal["test", "val", "train"]
    preprocess: str
    batch: int
    latency_batch: int
    threads: int | None
    options: "Options"
    seconds: float
    concurrency: int
    shapes: tuple[str, ...]
    profiled: bool
    quiet: bool


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
    """Measure an ONNX file: parameters, MACs, bytes, accuracy, latency; with --baseline against an older one."""
    from compress_cli.report import evaluation

    read_plugins(plugins)
    options = chosen_options(providers, session)
    asked = Asked(
        data, task, split, preprocess, batch, latency_batch, threads, options, seconds, concurrency, tuple(shape), profile,
        quiet,
    )  # fmt: skip
    made = evaluated(model, baseline, asked)
    write_tables(evaluation.table(made), csv, latex)
    if json:
        typer.echo(made.model_dump_json(indent=1))
    else:
        evaluation.show(made)


def chosen_options(providers: str, session: str) -> "Options":
    """How ONNX Runtime is to run; RecipeError for what it does not have."""
    from pydantic import ValidationError

    from compress_cli.recipe import setting
    from compress_cli.runtime import Options

    options = setting(Options, session, "--session") if session else Options()
    if not providers:
        return options
    names = tuple(each.strip() for each in providers.split(",") if each.strip())
    try:
        return Options.model_validate({**options.model_dump(), "providers": names})
    except ValidationError as error:
        raise RecipeError(f"--providers: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def evaluated(model: Path, baseline: Path | None, asked: Asked) -> "Evaluation":
    """All that is measured of a file, and of the baseline on the same samples."""
    from compress_cli import clients, runtime
    from compress_cli import contents as held
    from compress_cli import preprocess as pictures
    from compress_cli import profile as profiler
    from compress_cli.report.evaluation import Evaluation

    prepare = pictures.parse(asked.preprocess) if asked.preprocess else None
    session = runtime.open_session(model, asked.threads, asked.options)
    older = runtime.open_session(baseline, asked.threads, asked.options) if baseline else None
    dataset, judge = _about(session, asked)
    part = dataset.split(asked.split) if dataset else None
    if part is not None and dataset is not None:
        judge.check(dataset.signature(), part.targets)
    if part is not None and prepare:
        part = pictures.prepared(part, prepare)
    results = [_result(each, part, judge, asked) for each in (session, older) if each and part is not None]
    latency, against, feeds = _timed(session, older, part, asked, results)
    return Evaluation(
        model=str(model),
        contents=held.contents(model),
        machine=runtime.machine(),
        session=asked.options,
        latency=latency,
        load=clients.load(session, feeds, asked.concurrency, asked.seconds) if asked.concurrency > 1 else None,
        profile=profiler.profile(model, feeds, asked.threads, asked.options) if asked.profiled else None,
        data=dataset.type if dataset else "",
        split=asked.split if dataset else "",
        samples=len(part) if part else 0,
        primary=judge.primary,
        metrics=results[0].metrics if results else {},
        against=against,
    )


def _about(session: "Session", asked: Asked) -> "tuple[Dataset | None, Task]":
    """Dataset and task: from the command line, or else from the file's own card."""
    from compress_cli.card import Card, chosen
    from compress_cli.datasets import Dataset
    from compress_cli.recipe import setting
    from compress_cli.tasks import Task

    card = None if asked.data and asked.task else Card.from_metadata(session.metadata)
    named_task = asked.task or "classification"
    judge = chosen(Task, card.task) if card and not asked.task else setting(Task, named_task, "--task")  # type: ignore[type-abstract]
    assert isinstance(judge, Task)
    if asked.data:
        return _named(session, asked), judge
    if card is None:
        return None, judge
    named = chosen(Dataset, card.dataset)
    assert isinstance(named, Dataset)
    if named.fingerprint() != card.fingerprint:
        complain(f"note: the dataset {named.type} here is not the one the file was made with; its figures may differ")
    return named, judge


def _named(session: "Session", asked: Asked) -> "Dataset":
    """The dataset of `--data`: a plugin, or a path by what lies there, all of whose samples are the test split."""
    from compress_cli import arrays
    from compress_cli.datasets import Dataset
    from compress_cli.datasets.csv import Csv
    from compress_cli.datasets.image_folder import ImageFolder
    from compress_cli.datasets.npz import Npz
    from compress_cli.preprocess import parse
    from compress_cli.recipe import setting

    path = Path(asked.data)
    if path.suffix == ".csv" and "{" not in asked.data:
        return Csv(train=path, test=path)
    if path.suffix == ".npz" and "{" not in asked.data:
        names = tuple(arrays.read(path, mapped=True))
        inputs = tuple(name for name in names if name in session.inputs)
        targets = tuple(name for name in names if name not in inputs)
        if not inputs and "label" in names:
            inputs, targets = tuple(name for name in names if name != "label"), ("label",)
        return Npz(train=path, test=path, inputs=inputs, targets=targets if len(targets) == 1 else ("label",))
    if "{" not in asked.data and path.is_dir():
        shape = next(iter(session.inputs.values())).shape
        wanted = parse(asked.preprocess)
        size, axes = wanted.size, shape[2:] if wanted.layout == "nchw" else shape[1:3]
        sides = [axis for axis in axes if axis is not None] if len(shape) == 4 else []
        if size is None and len(sides) != 2:
            raise RecipeError(f"--data {path}: the file leaves the size of pictures open; say it by --preprocess size=224")
        height, width = (size, size) if size else sides
        channels: Literal[1, 3] = 1 if 1 in shape[1:] else 3
        return ImageFolder(root=path, height=height, width=width, channels=channels)
    return setting(Dataset, asked.data, "--data")  # type: ignore[type-abstract]


def _result(session: "Session", part: "Split", judge: "Task", asked: Asked) -> "Result":
    """Metrics with a bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from compress_cli import measure

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=asked.quiet or not console.is_terminal) as bars:
        bar = bars.add_task(session.path.name, total=len(part))
        return measure.evaluate(session, part, judge, asked.batch, lambda each: bars.update(bar, completed=each.done))


def _timed(
    session: "Session", older: "Session | None", part: "Split | None", asked: Asked, results: "list[Result]"
) -> "tuple[Latency, Against | None, Feeds]":
    """Latency on the first samples, or on made-up ones; in turn with the baseline's where there is one."""
    from compress_cli import contents as held
    from compress_cli import latency, measure
    from compress_cli.intervals import mcnemar, paired_difference
    from compress_cli.report.evaluation import Against

    sessions = [each for each in (session, older) if each]
    shapes = _shapes(session, asked.shapes)
    batch = asked.latency_batch
    feeds = [measure.sample(each, part, batch) if part else latency.made_up(each, batch, shapes) for each in sessions]
    if older is None:
        return latency.latency(session, feeds[0], asked.seconds), None, feeds[0]
    speedup = latency.compare(older, session, (feeds[1], feeds[0]), 2 * asked.seconds)
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
    return speedup.model, against, feeds[0]


def _shapes(session: "Session", given: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`--shape image=1x3x224x224`: RecipeError for another form, or an input that there is not."""
    from compress_cli.settings import suggest

    found = {}
    for each in given:
        name, _, axes = each.rpartition("=")
        numbers = axes.split("x")
        if not name or not all(one.isascii() and one.isdigit() and 0 < int(one) < 10**6 for one in numbers):
            raise RecipeError(f"--shape {each}: is not of the form input=1x3x224x224")
        if name not in session.inputs:
            raise RecipeError(f"--shape {each}: the file has no input '{name}'; {suggest(name, list(session.inputs))}")
        found[name] = tuple(map(int, numbers))
    return found
