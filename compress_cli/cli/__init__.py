"""The `compress` command: one file a command, its function called `command`.

Command bodies import what they need, so that `--help` stays instant. Errors become messages and exit codes here only.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from compress_cli import stopping
from compress_cli.errors import CompressError, Interrupted, RecipeError, ResourceError
from compress_cli.store.disk import lack

if TYPE_CHECKING:
    from compress_cli.report import Report
    from compress_cli.report.table import Table

Tables = Annotated[Path | None, typer.Option(help="write the figures there too, as a table", show_default=False)]
Recipe = Annotated[Path, typer.Argument(help="the recipe, a YAML file", show_default=False)]
Set = Annotated[list[str], typer.Option("--set", help="override a field: --set stages.prune.ratio=0.5", show_default=False)]
Plugins = Annotated[list[Path], typer.Option("--plugin", help="a Python file with plugins of your own", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="where runs go")]
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", envvar="COMPRESS_STORE", help="where artifacts are kept and shared; default: OUTPUT/.store"),
]
Gates = Annotated[
    list[str], typer.Option("--gate", help="a promise: 'accuracy_drop<=0.01', 'int8.size_bytes<=200kB'", show_default=False)
]
JUnit = Annotated[Path | None, typer.Option("--junit", help="write the gates to this file as JUnit XML", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="standard output is one JSON document")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress on standard error")]


LONGEST_LINE = 2000  # characters of a complaint; what a hostile file names may have millions


class _Group(TyperGroup):
    """The one place where an error becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with stopping.listening():
                return super().invoke(ctx)
        except CompressError as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as stop:
            stopped = Interrupted("interrupted", stop.args)
            complain(str(stopped))
            raise typer.Exit(stopped.exit_code) from None
        except MemoryError as error:
            complain(f"out of memory{f' ({error})' if str(error) else ''}; use a smaller batch, or a machine with more")
            raise typer.Exit(ResourceError.exit_code) from None
        except BrokenPipeError:
            sys.stdout = None  # whoever read our output is gone: there is nobody to tell
            raise typer.Exit(1) from None
        except OSError as error:
            lacking = lack(error, Path())
            if lacking is None:
                raise
            complain(str(lacking))
            raise typer.Exit(lacking.exit_code) from None


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `compress` script; always ends in SystemExit."""
    # PyTorch's threads that wait would spin, and beside another busy process that costs most of the speed (12x was seen).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for `deterministic: true`; PyTorch looks once a process
    app()(arguments, prog_name="compress")


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
        line = "".join(each if each.isprintable() else "?" for each in line)
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
    """Write the gates where `--junit` says; ArtifactError where that can't be."""
    if path is None:
        return
    from compress_cli.errors import ArtifactError
    from compress_cli.report import junit

    try:
        path.write_text(junit.render(report))
    except OSError as error:
        raise ArtifactError(f"{path}: can't be written ({error.strerror})") from None


def write_tables(table: Table, csv: Path | None, latex: Path | None) -> None:
    """Figures for other programs; ArtifactError where a file can't be written."""
    from compress_cli.errors import ArtifactError

    for path, text in ((csv, table.csv), (latex, table.latex)):
        try:
            if path:
                path.write_text(text(), encoding="utf-8")
        except OSError as error:
            raise ArtifactError(f"{path}: can't be written ({error.strerror})") from None


def _order(name: str) -> tuple[int, str]:
    first = ("init", "run", "plan", "eval", "predict", "report")
    return (first.index(name) if name in first else len(first), name)
