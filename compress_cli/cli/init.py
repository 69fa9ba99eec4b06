"""`compress init`"""

from pathlib import Path
from typing import Annotated

import typer

HEAD = """\
# yaml-language-server: $schema=./compress.schema.json
# (`compress schema > compress.schema.json` gives your editor completion and checking)
#
# compress plan {file}      what would run, and what it may cost
# compress run {file}       run it; what is up to date is skipped
# compress describe distill   every field of a stage, with bounds and papers

seed: 0

# The data. `digits` is built in; `compress list datasets` shows the others, and --plugin my_data.py adds a Dataset class
# of your own.
dataset: digits

"""

TEACHER = """\
stages:
  # The teacher may be large: it is never shipped. To use a model you have trained already, write instead
  #   - {type: load, name: teacher, weights: my_weights.safetensors, model: {type: resnet, depth: 56}}
  - type: train
    name: teacher
    model: {type: convnet, widths: [32, 64, 128]}
    training: {epochs: 30}

"""

STUDENT = """\
  # A small student that copies the teacher's softened probabilities learns more than from labels alone: they tell which
  # wrong classes are nearly right (Hinton et al. 2015, arXiv:1503.02531).
  - type: distill
    name: student
    teacher: teacher
    model: {type: convnet, widths: [16, 32, 64]}
    losses:
      - {type: soft_targets, temperature: 4.0, weight: 0.9}
      - {type: cross_entropy, weight: 0.1}
    training: {epochs: 30}

"""

MOBILE = """\
  # Whole channels are removed, so the model is smaller and faster everywhere: a phone's runtime gains nothing from
  # single zeros. Widths stay multiples of 8, which is how wide a phone's vector units are.
  - type: prune
    name: pruned
    keep: {macs: 0.5}
    round_to: 8
    teacher: teacher          # the teacher that the student had also guides the fine-tuning
    training: {epochs: 15}

  # 8-bit integers: a quarter of the bytes, and the number format that mobile processors are fastest at.
  - type: quantize
    name: int8

"""

SERVER = """\
  # On a server bytes are cheap and time is not: cut to multiples of 16, the width at which x86 kernels run full
  # (at half the MACs, unrounded widths can be slower than the unpruned model), and keep more than half.
  - type: prune
    name: pruned
    keep: {macs: 0.6}
    round_to: 16
    teacher: teacher
    training: {epochs: 15}

  # 8-bit integers, with quantisation nodes where ONNX Runtime fuses them into integer kernels from end to end.
  - type: quantize
    name: int8
    quantizer: {type: static_int8, reduce_range: false}   # full 8-bit weights: exact with VNNI, so since 2019 on servers

"""

CI = """\
  # Quick enough for every commit: quantisation needs calibration only, no training, and what has not changed is not run
  # again (jobs share the store with COMPRESS_STORE=/a/persistent/path).
  - type: quantize
    name: int8

"""

EXPORT = """\
  # One file with a dynamic batch; it takes raw pixels, and its metadata name the task and the data, so that
  # `compress eval model.onnx` needs no flags.
  - type: export
    name: onnx
"""

GATES = """
# What every commit has to keep, checked at the unfavourable end of the interval; a gate that is not met gives exit code 5.
gates:
  - size_ratio<=0.5
  # - accuracy_drop<=0.01     # fails as undecided until there are enough test samples
  # - latency_ms<=2
"""

STARTERS = {
    "mobile": TEACHER + STUDENT + MOBILE + EXPORT,
    "server": TEACHER + STUDENT + SERVER + EXPORT,
    "ci": TEACHER + CI + EXPORT + GATES,
}


def command(
    path: Annotated[Path, typer.Argument(help="the recipe to write")] = Path("recipe.yaml"),
    target: Annotated[
        str,
        typer.Option(
            "--for", help="mobile, server or ci: the comments say why each method is used", autocompletion=lambda: [*STARTERS]
        ),
    ] = "mobile",
    force: Annotated[bool, typer.Option("--force", help="overwrite an existing file")] = False,
) -> None:
    """Write a commented starter recipe that runs as it is."""
    from compress_cli.errors import RecipeError
    from compress_cli.store.disk import unwritable

    if target not in STARTERS:
        from compress_cli.settings import suggest

        raise RecipeError(f"--for: there is no starter '{target}'; {suggest(target, list(STARTERS))}")
    if path.exists() and not force:
        raise RecipeError(f"{path}: exists already; name another file, or overwrite it with --force")
    try:
        path.write_text(HEAD.format(file=path) + STARTERS[target])
    except OSError as error:
        raise unwritable(error, path) from None
    typer.echo(f"{path}: next, `compress plan {path}` and `compress run {path}`", err=True)
