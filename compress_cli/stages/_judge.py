"""What a quantised file is worth beside the float one: noise, accuracy, bytes, time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compress_cli.context import Context
from compress_cli.data.datasets import Split
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.errors import StageError
from compress_cli.measurement import latency, measure, sessions
from compress_cli.measurement.latency import Speedup, TimingConditions
from compress_cli.onnx_graph import files, storage
from compress_cli.stages import _cards
from compress_cli.statistics.agreement import Agreement, compare
from compress_cli.store.scratch import scratch

BATCH = 64  # samples of val that run at once
Outputs = dict[str, np.ndarray]


class Judge:
    """Compares files with the float one on the same samples."""

    def __init__(self, float_session: sessions.Session, split: Split, timing: TimingConditions, context: Context):
        self.float_session, self.split, self.timing, self.context = float_session, split, timing, context
        self.expected = self._heads(float_session)
        task = context.task.within(self.expected)
        self.task = task if task is not None and split.targets else None
        self.before = measure.judge(self.expected, split, self.task) if self.task else None

    def noise(self, path: Path) -> float:
        """Squared error of the outputs as a share of the float ones' squares, of the worst head."""
        return max((agreement.noise for agreement in self._agreements(path).values()), default=0.0)

    def drop(self, path: Path) -> float:
        """Of the task's metric; without labels, how many decisions differ."""
        if self.task is None or self.before is None:
            shares = [agreement.argmax_agreement for agreement in self._agreements(path).values()]
            known = [share for share in shares if share is not None]
            if not known:
                raise StageError("budget.accuracy_drop: there are no labels on val, and no output has classes to agree on")
            return 1 - min(known)
        after = measure.judge(self._heads(sessions.open_session(path)), self.split, self.task)
        change = after.scores[after.primary].value - self.before.scores[after.primary].value
        return change if after.better[after.primary] == "lower" else -change

    def size(self, path: Path) -> int:
        """Bytes of the file as `export` writes it, with its card."""
        card = _cards.card(self.context, self.context.dataset.signature())
        model = files.load(path)
        files.strip(model)
        with scratch("size") as folder:
            Onnx().write(model, folder / "model.onnx", card.to_metadata())
            return storage.size_bytes(folder / "model.onnx")

    def float_size(self) -> int:
        """Likewise, of the float file."""
        return self.size(self.float_session.path)

    def speedup(self, path: Path) -> Speedup:
        """Over the float file, timed in turn."""
        how = self.timing
        pair = [sessions.open_session(file, how.threads, how.session) for file in (self.float_session.path, path)]
        feeds = [measure.sample(session, self.split, how.batch) for session in pair]
        return latency.compare(pair[0], pair[1], (feeds[0], feeds[1]), how.seconds, self.context.seed, how.caches)

    def _agreements(self, path: Path) -> dict[str, Agreement]:
        agreements: dict[str, Agreement] = {}
        heads = comparable(self.expected, self._heads(sessions.open_session(path)))
        compare(agreements, *heads, self.context.dataset.signature().class_axes, self.split.truth())
        return agreements

    def _heads(self, session: sessions.Session) -> Outputs:
        return measure.predict(session, self.split, BATCH, lambda progress: None)


def comparable(first: Outputs, second: Outputs) -> tuple[Outputs, Outputs]:
    """The outputs that are numbers of the same shape in both: boxes that were suppressed are not."""
    names = [
        name
        for name, array in first.items()
        if array.ndim and array.size and array.dtype.kind in "fiu" and second[name].shape == array.shape
    ]
    return {name: first[name] for name in names}, {name: second[name] for name in names}
