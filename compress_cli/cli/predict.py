"""`compress predict`"""

from pathlib import Path
from typing import Annotated

import typer

from compress_cli.cli import Json


def command(
    model: Annotated[Path, typer.Argument(help="an ONNX file that classifies", show_default=False)],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="a picture, a folder of pictures, or a .npz", show_default=False)
    ],
    head: Annotated[str, typer.Option(help="the output with the class scores; default: the only one", show_default=False)] = "",
    top: Annotated[int, typer.Option(min=1, help="classes to show of each")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="samples in one run")] = 32,
    json: Json = False,
) -> None:
    """Classify pictures, or the arrays of an npz. Prints class names with probabilities."""
    import json as format_json

    from compress_cli.measurement import sessions
    from compress_cli.measurement.prediction import classify
    from compress_cli.report.figures import printable

    answers = classify(sessions.open_session(model), source, head, top, batch)
    if json:
        document = [
            {"input": each.input, "classes": [{"class": name, "probability": share} for name, share in each.classes]}
            for each in answers
        ]
        typer.echo(format_json.dumps(document, indent=1))
        return
    width = max(len(each.input) for each in answers)
    for each in answers:
        classes = ", ".join(f"{name} {100 * share:.1f}%" for name, share in each.classes)
        typer.echo(printable(f"{each.input:{width}}  {classes}"))
