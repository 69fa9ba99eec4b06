"""`compress describe`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from compress_cli.cli import Json, Plugins, read_plugins

WIDTH = 120  # columns: longer lines are hard to read


def command(
    name: Annotated[str, typer.Argument(help="a plugin: distill, soft_targets, losses/soft_targets", show_default=False)],
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
) -> None:
    """Describe a plugin: what it does, its paper, its fields. Types, bounds and defaults too."""
    import json as format_json

    from compress_cli.errors import RecipeError
    from compress_cli.plugin import catalogue, contract
    from compress_cli.settings import suggest

    read_plugins(plugins)
    folder, _, short = name.rpartition("/")
    known = [(kind, plugin) for kind, names in catalogue().items() for plugin in names]
    chosen = [(kind, plugin) for kind, plugin in known if plugin == short and folder in ("", kind)]
    if not chosen:
        raise RecipeError(f"there is no plugin '{name}'; {suggest(short, sorted({plugin for _, plugin in known}))}")
    documents = [plugin_document(where, plugin) for where, plugin in chosen]
    folders = {contract(folder).__name__.lower(): folder for folder in catalogue()}
    if json:
        typer.echo(format_json.dumps(documents, indent=1))
        return
    for document in documents:
        typer.secho(f"{document['kind']}/{document['name']}", bold=True)
        typer.echo(f"{document['about']}\n")
        _show(document["fields"])
        words = {word for field in document["fields"].values() for word in field["type"].split()}
        lists = [folder for kind, folder in folders.items() if kind in words]
        if lists:
            typer.echo(f"\n`compress list` names the choices of {', '.join(lists)}")


def plugin_document(folder: str, name: str) -> dict[str, Any]:
    """A plugin's description and fields as JSON-ready data: `plugin_document("losses", "soft_targets")`."""
    import inspect

    from compress_cli.plugin import contract, find

    cls = find(contract(folder), name)
    schema = cls.model_json_schema()
    fields = _fields(schema, schema.get("$defs", {}))
    return {"kind": folder, "name": name, "about": inspect.getdoc(cls) or "", "fields": fields}


def _fields(schema: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """The fields of a plugin, and after a block of settings (`training`) those of the block, as `training.epochs`."""
    fields = {}
    for field, spec in schema.get("properties", {}).items():
        if field == "type":
            continue
        fields[prefix + field] = _field(spec, definitions, field in schema.get("required", []))
        for part in (spec, *spec.get("anyOf", [])):
            block = definitions.get(part.get("$ref", "").rpartition("/")[2], {})
            if "properties" in block and "type" not in block["properties"]:
                fields |= _fields(block, definitions, f"{prefix}{field}.")
    return fields


def _field(spec: dict[str, Any], definitions: dict[str, Any], required: bool) -> dict[str, Any]:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "minItems": "entries at least",
    }
    parts = [spec, *spec.get("anyOf", [])]
    bounds = [f"{word} {part[key]}" for part in parts for key, word in words.items() if key in part]
    return {
        "type": _type(spec, definitions),
        "bounds": ", ".join(bounds),
        "default": "required" if required else spec.get("default"),
        "description": spec.get("description", ""),
    }


def _type(spec: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in spec:
        name = spec["$ref"].rpartition("/")[2]
        return str(definitions[name].get("properties", {}).get("type", {}).get("const", name.lower()))
    if "const" in spec:
        return str(spec["const"])
    if "enum" in spec:
        return " | ".join(map(str, spec["enum"]))
    if "anyOf" in spec:
        return " | ".join(dict.fromkeys(_type(part, definitions) for part in spec["anyOf"]))
    if spec.get("type") == "array":
        return f"list of {_type(spec.get('items', {}), definitions)}"
    return {"null": "nothing", "object": "mapping"}.get(spec.get("type", ""), str(spec.get("type", "any")))


def _show(fields: dict[str, dict[str, Any]]) -> None:
    """Print each field on a line with its type, bounds and default, and its description below."""
    import json
    import shutil
    import textwrap

    columns = max(60, min(shutil.get_terminal_size((WIDTH, 0)).columns, WIDTH))
    width = max(map(len, fields), default=0)
    indent = " " * (width + 2)
    for field, entry in fields.items():
        default = f"default {json.dumps(_brief(entry['default']))}" if entry["default"] is not None else "optional"
        kind = entry["type"].removesuffix(" | nothing")
        about = ", ".join(filter(None, (kind, entry["bounds"], "required" if entry["default"] == "required" else default)))
        name = typer.style(field, bold=True) + " " * (width - len(field) + 2)
        typer.echo(textwrap.fill(about, columns, initial_indent=indent, subsequent_indent=indent).replace(indent, name, 1))
        if entry["description"]:
            typer.echo(textwrap.fill(entry["description"], columns, initial_indent=indent, subsequent_indent=indent))


def _brief(default: Any) -> Any:
    """A plugin by its name alone."""
    if isinstance(default, list):
        return [_brief(about) for about in default]
    return default["type"] if isinstance(default, dict) and "type" in default else default
