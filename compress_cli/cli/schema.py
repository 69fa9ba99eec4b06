"""`compress schema`"""

import typer

from compress_cli.cli import Plugins, read_plugins


def command(plugins: Plugins = []) -> None:  # noqa: B006 - typer copies it
    """Print the JSON Schema of recipes, plugin choices included, for an editor to complete and check with."""
    import json

    from compress_cli.recipe import Recipe

    read_plugins(plugins)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Recipe.model_json_schema(),
        "title": "compress recipe",
    }
    typer.echo(json.dumps(schema, indent=1))
