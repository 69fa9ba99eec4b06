"""`compress predict`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress_cli.cli import Json

if TYPE_CHECKING:
    from compress_cli.measurement.prediction import Answer


def command(
    model: Annotated[Path, typer.Argument(help="an ONNX file", show_default=False)],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="a picture, a folder of pictures, or a .npz", show_default=False)
    ],
    head: Annotated[str, typer.Option(help="the output to read; default: the only one", show_default=False)] = "",
    top: Annotated[int, typer.Option(min=1, help="classes to show for each input")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="samples in one run")] = 32,
    json: Json = False,
) -> None:
    """Predict the classes of pictures, or of the arrays of an npz. Prints class names with probabilities, or numbers."""
    import json as format_json

    from compress_cli.measurement import prediction, sessions
    from compress_cli.report.figures import printable

    answers = prediction.predict(sessions.open_session(model), source, head, top, batch)
    if json:
        typer.echo(format_json.dumps([_document(answer) for answer in answers], indent=1))
        return
    width = max((len(answer.input) for answer in answers), default=0)
    for answer in answers:
        typer.echo(printable(f"{answer.input:{width}}  {_line(answer)}"))


def _document(answer: "Answer") -> dict[str, object]:
    if answer.classes is None:
        return {"input": answer.input, "numbers": answer.numbers}
    return {
        "input": answer.input,
        "classes": [{"class": name, "probability": probability} for name, probability in answer.classes],
    }


def _line(answer: "Answer") -> str:
    if answer.classes is None:
        return ", ".join(f"{number:.6g}" for number in answer.numbers or [])
    return ", ".join(f"{name} {100 * probability:.1f}%" for name, probability in answer.classes)
