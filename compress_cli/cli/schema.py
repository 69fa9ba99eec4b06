"""`compress schema`"""

from typing import Annotated, Any

import typer

from compress_cli.cli import Plugins, read_plugins


def command(
    document: Annotated[str, typer.Argument(help="recipe; report: a run's report.json; runs: `report A B --json`")] = "recipe",
    plugins: Plugins = [],  # noqa: B006 - typer copies it
) -> None:
    """Print the JSON Schema of recipes, or of reports. With plugin choices, for an editor to check with."""
    import json

    read_plugins(plugins)
    typer.echo(json.dumps(schema_of(document), indent=1))


def schema_of(document: str) -> dict[str, Any]:
    """The JSON Schema of a document; RecipeError where there is none of that name."""
    from pydantic import BaseModel

    from compress_cli.errors import RecipeError
    from compress_cli.pipeline.recipe import Recipe
    from compress_cli.pipeline.searched import accepting
    from compress_cli.report import Report
    from compress_cli.report.runs import Runs
    from compress_cli.settings import suggest

    models: dict[str, type[BaseModel]] = {"recipe": Recipe, "report": Report, "runs": Runs}
    if document not in models:
        raise RecipeError(f"there is no document '{document}'; {suggest(document, list(models))}")
    schema = models[document].model_json_schema(mode="validation" if document == "recipe" else "serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **(accepting(schema) if document == "recipe" else schema),
        "title": f"compress {document}",
    }
