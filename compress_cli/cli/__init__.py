"""The `compress` command: one file a command, its function called `command`.

Command bodies import what they need, so that `--help` stays instant. Errors become messages and exit codes here only.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer._click import ClickException  # of the wrong command line; typer brings its own click
from typer.core import TyperGroup

from compress_cli import stopping
from compress_cli.cli._failure import FailureReport
from compress_cli.cli._several import check_command, is_crew_member
from compress_cli.cli._streams import guarded
from compress_cli.errors import CompressError, Interrupted, RecipeError, ResourceError
from compress_cli.store.disk import lack, unwritable

if TYPE_CHECKING:
    from compress_cli.report import Report
    from compress_cli.report.table import Table

Tables = Annotated[Path | None, typer.Option(help="also write the figures to this file, as a table", show_default=False)]
Recipe = Annotated[Path, typer.Argument(help="the recipe, a YAML file", show_default=False)]
Set = Annotated[list[str], typer.Option("--set", help="override a field: --set stages.prune.ratio=0.5", show_default=False)]
Plugins = Annotated[list[Path], typer.Option("--plugin", help="a Python file with plugins of your own", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="folder of runs")]
StoreFolder = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="COMPRESS_STORE",
        help="where artifacts are stored and shared: a folder, or s3://bucket/prefix; default: OUTPUT/.store",
    ),
]
Gates = Annotated[
    list[str], typer.Option("--gate", help="a promise: 'accuracy_drop<=0.01', 'int8.size_bytes<=200kB'", show_default=False)
]
JUnit = Annotated[Path | None, typer.Option("--junit", help="write the gates to this file as JUnit XML", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="standard output is one JSON document")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress on standard error")]


BUG = 1  # the exit code of an error that is ours; its traceback is kept
LONGEST_LINE = 2000  # characters of a complaint; what a hostile file names may have millions


class _Group(TyperGroup):
    """Commands that a signal may stop."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with stopping.listening():
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted("interrupted", stop.args) from None


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `compress` script; always ends in SystemExit, or in the traceback of a bug.

    The one place where an error becomes a message and an exit code.
    """
    # PyTorch's threads that wait would spin, and next to another busy process that costs most of the speed (12x was seen).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for `deterministic: true`; PyTorch looks once a process
    arguments = sys.argv[1:] if arguments is None else arguments
    with guarded() as output:
        failure = FailureReport.of([] if is_crew_member() else arguments)
        try:
            check_command(arguments)
            failure.begin()
            code = app()(arguments, prog_name="compress", standalone_mode=False) or 0
            output.finish()
            failure.succeeded()
        except Exception as error:
            code, message = _explained(error)
            with suppress(CompressError):  # nobody takes the document either
                failure.failed(code, message, output.used)
            if code == BUG:
                raise
    sys.exit(code)


def _explained(error: Exception) -> tuple[int, str]:
    """The exit code and the message of an error, which is printed unless it is that of a bug."""
    match error:
        case ClickException():
            error.show()
            return error.exit_code, error.format_message()
        case CompressError():
            wrong = error
        case MemoryError():
            reason = f" ({error})" if str(error) else ""
            wrong = ResourceError(f"out of memory{reason}; use a smaller batch, or a machine with more")
        case OSError() if lacking := lack(error, Path()):
            wrong = lacking
        case _:
            return BUG, f"{type(error).__name__}: {error}"
    if str(wrong):
        complain(str(wrong))
    return wrong.exit_code, str(wrong)


@cache
def app() -> typer.Typer:
    """Every command, by the file that holds it."""
    commands = typer.Typer(
        cls=_Group,
        name="compress",
        help="From a trained model to a small, fast, checked ONNX file, driven by one recipe.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: the other kind takes longer to import than all the rest
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )
    names = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    for name in sorted(names, key=_order):
        commands.command(name)(importlib.import_module(f"{__name__}.{name}").command)
    return commands


def complain(message: str) -> None:
    """One line each on standard error, in red where that shows. Names come from files: no control characters among them."""
    for line in message.split("\n"):
        line = "".join(letter if letter.isprintable() else "?" for letter in line)
        line = line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
        typer.secho(line if line.startswith(" ") else f"error: {line}", fg="red", err=True)


def read_plugins(plugins: list[Path]) -> None:
    """Register the files of `--plugin`."""
    from compress_cli.fault import plugins_raise
    from compress_cli.plugin import register

    for path in plugins:
        with plugins_raise(RecipeError):
            register(path)


def write_junit(report: Report, path: Path | None) -> None:
    """Write the gates where `--junit` says; ArtifactError or ResourceError where that can't be."""
    if path is None:
        return
    from compress_cli.report import junit

    try:
        path.write_text(junit.render(report))
    except OSError as error:
        raise unwritable(error, path) from None


def write_tables(table: Table, csv: Path | None, latex: Path | None) -> None:
    """Figures for other programs; ArtifactError or ResourceError where a file can't be written."""
    for path, text in ((csv, table.csv), (latex, table.latex)):
        if path is None:
            continue
        try:
            path.write_text(text(), encoding="utf-8")
        except OSError as error:
            raise unwritable(error, path) from None


def _order(name: str) -> tuple[int, str]:
    first = ("init", "run", "plan", "eval", "predict", "report")
    return (first.index(name) if name in first else len(first), name)
