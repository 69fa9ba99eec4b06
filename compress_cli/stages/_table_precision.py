"""How a teacher's table is computed: the fastest way whose outputs agree with plain float32, timed and compared here."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress_cli.data.batch import Batch, Outputs
from compress_cli.distillation.teachers import Opened
from compress_cli.errors import CompressError
from compress_cli.measurement import sessions
from compress_cli.stages._table_ways import FILES, INTEGERS, NAMES, Name, Request, Ways, in_batches
from compress_cli.store import durable
from compress_cli.store.artifact import Checkpoint

NOISE = 0.02  # of a head or layer: the largest rms difference from float32, as a share of its deviation over samples (34 dB);
# a ResNet-56 gives 0.6% in bfloat16 and 1.3 to 1.5% in integers, another view of the same pictures 30%
SAME = 0.97  # the least share of decisions that are those of float32: others than those nearest to a tie hardly change
GAIN = 0.1  # a smaller gain is not worth other bytes
HOPELESS = 3.0  # a way that takes so many times float32's time on a few samples is not timed further
NEAR = 1.5  # only what takes less than so many times the fastest's time is timed again
WORTH_S = 20.0  # a table that takes less than that in float32 is not worth a choice
WORTH_FILE_S = 60.0  # writing an ONNX file takes seconds: only for a table that takes longer than that
SHARE = 40  # the choice looks at one of so many rows, and at most at the largest batch
FEWEST = 16
SIZES = (64, 128, 256)
PAYS = 0.97  # of the time of the next smaller batch: a larger one that saves less only takes memory
ROUNDS = 2
REMEMBERED = "table_precision.json"


@dataclass(frozen=True)
class Choice:
    """A way, and what it rests on."""

    name: Name
    batch: int  # samples that the teacher sees at once
    reason: str
    samples_per_s: dict[str, float] = field(default_factory=dict)  # of the teacher, in each way that was timed
    noise: dict[str, float] = field(default_factory=dict)  # head or layer -> rms difference from float32 over its deviation
    agreement: dict[str, float] = field(default_factory=dict)  # head -> share of decisions that are those of float32


def choose(ways: Ways, asked: str) -> Choice:
    """The way that was `asked` for; with auto the fastest that agrees. The others are closed."""
    request, plain = ways.request, ways.opened("float32")
    if asked != "auto":
        return Choice(asked, request.largest, "set in the recipe")  # type: ignore[arg-type]
    if not isinstance(request.source, Checkpoint):
        return Choice("float32", request.largest, f"a {request.source.manifest.kind} is run as it is")
    key, subject = _subject(request)
    known = _recall(request.memory)
    if key in known and not request.trial:
        return replace(known[key], reason=f"remembered: {known[key].reason}")
    plain(few := ways.sample(FEWEST))
    one_s = min(_seconds(plain, few) for _ in range(3)) / FEWEST  # the least: other work on the machine must not decide
    if one_s * request.rows < WORTH_S:
        return Choice("float32", request.largest, f"the table takes under {WORTH_S:g} s in float32")
    choice = _choose(ways, one_s, few)
    ways.keep(choice.name)
    if not request.trial:
        _remember(request.memory, key, choice, subject)
    return choice


def _choose(ways: Ways, one_s: float, few: Batch) -> Choice:
    request, plain = ways.request, ways.opened("float32")
    many = ways.sample(min(max(FEWEST, request.rows // SHARE), request.largest))
    reference, float_s = _timed(plain, many)
    agreeing: dict[str, Opened] = {"float32": plain}
    noise: dict[str, dict[str, float]] = {}
    agreement: dict[str, dict[str, float]] = {}
    took = {"float32": float_s}
    for name in ways.names:
        if name == "float32" or (name in FILES and one_s * request.rows < WORTH_FILE_S):
            continue
        try:
            way = ways.opened(name)
            way(few)
            if _seconds(way, few) > HOPELESS * max(_seconds(plain, few), one_s * FEWEST):
                continue
            outputs, first_s = _timed(way, many)
        except (RuntimeError, CompressError):  # an operator of this model does not know the format, or can't be exported
            continue
        noise[name], agreement[name] = _noise(reference, outputs), _agreement(reference, outputs)
        agrees = max(noise[name].values(), default=0.0) <= NOISE and min(agreement[name].values(), default=1.0) >= SAME
        if agrees or (request.trial and name not in INTEGERS):
            agreeing[name], took[name] = way, first_s
    near = [name for name, seconds in took.items() if seconds < NEAR * min(took.values())]
    took |= _fastest({name: (agreeing[name], many) for name in near})
    per_s = {name: round(len(many.index) / seconds, 1) for name, seconds in took.items()}
    best = min(near, key=lambda name: took[name])
    if took[best] > (1 - GAIN) * took["float32"]:
        return Choice("float32", request.largest, "no way that agrees is faster by a tenth", per_s)
    size = _batch(agreeing[best], many)
    reason = f"the fastest of those that agree within {NOISE:.0%} of the outputs' deviation and in {SAME:.0%} of decisions"
    return Choice(best, size, reason, per_s, noise[best], agreement[best])  # type: ignore[arg-type]


def _batch(way: Opened, many: Batch) -> int:
    """The largest batch that pays."""
    count = len(many.index)
    sizes = [size for size in SIZES if size <= count] or [SIZES[0]]
    took = _fastest({str(size): (in_batches(way, size), many) for size in sizes})
    best = sizes[0]
    for size in sizes[1:]:
        best = size if took[str(size)] < PAYS * took[str(best)] else best
    return best


def _fastest(ways: dict[str, tuple[Opened, Batch]]) -> dict[str, float]:
    """The least seconds of each, timed in turn."""
    took = dict.fromkeys(ways, np.inf)
    for _ in range(ROUNDS):
        took = {name: min(took[name], _seconds(*way)) for name, way in ways.items()}
    return {name: float(seconds) for name, seconds in took.items()}


def _timed(teacher: Opened, batch: Batch) -> tuple[Outputs, float]:
    """Its outputs, and the seconds they took."""
    begun = time.perf_counter()
    outputs = teacher(batch)
    for values in outputs.heads.values():
        values.cpu()  # which waits for a GPU
    return outputs, time.perf_counter() - begun


def _seconds(teacher: Opened, batch: Batch) -> float:
    return _timed(teacher, batch)[1]


def _noise(reference: Outputs, outputs: Outputs) -> dict[str, float]:
    """rms difference over the deviation over samples: a share of what tells one sample from another."""
    pairs = [
        (name, expected.double(), getattr(outputs, kind)[name].double())
        for kind in ("heads", "features")
        for name, expected in getattr(reference, kind).items()
        if expected.is_floating_point()
    ]
    tiny = float(np.finfo(np.float32).tiny)
    found = {}
    for name, expected, actual in pairs:
        spread = (expected - expected.mean(0, keepdim=True)).square().mean().sqrt()
        share = float((actual - expected).square().mean().sqrt() / spread.clamp_min(tiny))
        found[name] = share if np.isfinite(share) else np.inf
    return found


def _agreement(reference: Outputs, outputs: Outputs) -> dict[str, float]:
    """Head -> share of decisions that are the same, of heads whose classes compete."""
    found = {}
    for name, expected in reference.heads.items():
        axis = reference.class_axes.get(name)
        if axis is not None and expected.ndim > axis and expected.shape[axis] > 1:
            found[name] = float((expected.argmax(axis) == outputs.heads[name].argmax(axis)).double().mean())
    return found


def _subject(request: Request) -> tuple[str, dict[str, Any]]:
    """The conditions of a choice, and their hash."""
    subject = {
        "machine": torch.cuda.get_device_name(request.device) if request.device != "cpu" else sessions.machine()["processor"],
        "device": request.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "teacher": request.source.digest,
        "layers": list(request.layers),
        "rows": request.rows,
        "ways": NAMES,
    }
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest(), subject


def _recall(memory: Path) -> dict[str, Choice]:
    """Earlier choices; a file that can't be read counts as missing."""
    path = memory / REMEMBERED
    known = {}
    try:
        entries = json.loads(path.read_text()) if path.is_file() else {}
        for key, entry in entries.items():
            choice = Choice(**entry["choice"])
            if choice.name in NAMES and isinstance(choice.batch, int) and 0 < choice.batch <= max(SIZES):
                known[key] = choice
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return known


def _remember(memory: Path, key: str, choice: Choice, subject: dict[str, Any]) -> None:
    memory.mkdir(parents=True, exist_ok=True)
    known = {other: {"choice": asdict(earlier)} for other, earlier in _recall(memory).items()}
    document = {**known, key: {"choice": asdict(choice), "subject": subject}}
    durable.write(memory / REMEMBERED, (json.dumps(document, indent=1) + "\n").encode())
