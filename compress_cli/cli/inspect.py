"""`compress inspect`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress_cli.cli import Json, Plugins, read_plugins

if TYPE_CHECKING:
    from compress_cli.onnx_graph.layers import Listing


def command(
    model: Annotated[Path, typer.Argument(help="an ONNX file, a .safetensors file, or a stage's folder", show_default=False)],
    plugins: Plugins = [],  # noqa: B006 - typer copies it
    json: Json = False,
) -> None:
    """Show what a model is made of, layer by layer. Shapes, parameters, MACs, number formats, zeros; nothing is run."""
    from compress_cli.onnx_graph import layers
    from compress_cli.report import listing
    from compress_cli.store import safetensors

    read_plugins(plugins)
    if model.is_dir():
        found = _artifact(model)
    elif model.suffix == ".safetensors":
        found = safetensors.listing(model)
    else:
        found = layers.of_onnx(model)
    if json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        listing.show(found)


def _artifact(folder: Path) -> "Listing":
    """What a stage left; a Checkpoint's multiply-accumulates are counted by PyTorch on its rebuilt network."""
    from compress_cli.errors import ArtifactError
    from compress_cli.onnx_graph import layers
    from compress_cli.store import artifact, safetensors
    from compress_cli.store.artifact import Checkpoint, OnnxModel, Program

    found = artifact.read(folder)
    if found is None:
        raise ArtifactError(f"{folder}: holds no artifact; name a stage's folder (runs/RECIPE/STAGE), or a file")
    found.verify()
    if isinstance(found, OnnxModel):
        return layers.of_onnx(found.file("model.onnx"))
    if not isinstance(found, Checkpoint | Program):
        raise ArtifactError(f"{folder}: is a {found.manifest.kind}, which holds no model")

    from compress_cli.networks import restore
    from compress_cli.pruning.cost import Cost

    what = "checkpoint" if isinstance(found, Checkpoint) else "quantised program, as the float weights its export will round"
    restored = restore.checkpoint(found)
    cost = Cost(restored.network.body, restore.example(restored.signature))
    return safetensors.listing(found.file("weights.safetensors"), what, "body.", cost.by_weight())
