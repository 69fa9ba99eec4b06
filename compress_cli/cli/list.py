"""`compress list`"""

from typing import Annotated

import typer

from compress_cli.cli import Json, Plugins, read_plugins


def command(
    kind: Annotated[str, typer.Argument(help="stages, losses, models, ...; default: all", show_default=False)] = "",
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
) -> None:
    """List the available plugins by kind. Stages, losses, models, datasets, ..."""
    import json as format_json

    from compress_cli.errors import RecipeError
    from compress_cli.plugin import catalogue
    from compress_cli.settings import suggest

    read_plugins(plugins)
    kinds = catalogue()
    if kind and kind not in kinds:
        raise RecipeError(f"there is no kind of plugin '{kind}'; {suggest(kind, list(kinds))}")
    chosen = {kind: kinds[kind]} if kind else kinds
    if json:
        typer.echo(format_json.dumps(chosen, indent=1))
        return
    width = max((len(name) for names in chosen.values() for name in names), default=0)
    for folder, names in chosen.items():
        typer.secho(folder, bold=True)
        for name, summary in names.items():
            typer.echo(f"  {name:{width}}  {summary}")
