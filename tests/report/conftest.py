"""A run's folder as a report finds it, built row by row."""

import numpy as np
import pytest
from rich.console import Console

from compress_cli.measurement.latency import Latency, Speedup, verdict
from compress_cli.measurement.measure import COMPARISON, MEASUREMENT, PREDICTIONS, RESAMPLED, Figures, Result, Timing
from compress_cli.measurement.sessions import Options
from compress_cli.onnx_graph.contents import Contents
from compress_cli.report import terminal
from compress_cli.statistics.intervals import Estimate
from compress_cli.store.artifact import Comparison, Draft, Measurement, OnnxModel
from compress_cli.store.record import ModelRecord, Record

MACHINE = {"processor": "Test CPU", "cores": 2, "onnxruntime": "1"}
SAMPLES = 1000
BETTER = {"accuracy": "higher", "cross_entropy": "lower"}


def write(store, key, kind, files, facts=None):
    folder = store / key
    folder.mkdir(parents=True)
    for name, content in files.items():
        if isinstance(content, dict):
            np.savez(folder / name, **content)
        else:
            (folder / name).write_text(content)
    Draft(kind, key, {"type": "x"}, facts=facts or {}, wall_time_s=1.5).commit(folder)


def latency(milliseconds):
    middle = Estimate(value=milliseconds, low=milliseconds, high=milliseconds, samples=9)
    return Latency(
        batch=1, threads=2, runs=9, p50_ms=middle, p90_ms=milliseconds, p99_ms=milliseconds, throughput_per_s=1e3 / milliseconds
    )


class Made:
    """A run's folder and its store, row by row."""

    def __init__(self, folder, score_of):
        self.score_of = score_of
        self.folder, self.store, self.rows, self.variants = folder / "runs" / "r", folder / "runs" / ".store", [], []
        self.folder.mkdir(parents=True)

    def add(
        self,
        name,
        right=None,
        size=1000,
        speedup=None,
        parameters=100,
        reason="",
        lacking="",
        content="",
        base=1.0,
        files=None,
        floating=None,
        facts=None,
        **record,
    ):
        """A model and what was measured of it.

        right: (N,) right-or-wrong; speedup: (low, value, high) against a baseline of `base` ms; lacking: what the model has no
        head for, where `right` is empty; floating: parts that compute in float beside integers; content: of the file, by
        default unlike any other's; files: others beside it; facts: what its stage noted.
        """
        key = f"{len(self.rows) + len(self.variants):064d}"
        write(self.store, key, OnnxModel, {"model.onnx": content or key, **(files or {})}, facts)
        measurement = comparison = None
        if right is not None:
            measurement = f"m{key}"
            contents = Contents(
                parameters=parameters, kinds={"int8": parameters}, nonzero=parameters, macs=12_345_678, size_bytes=size,
                gzip_bytes=size // 2, zstd_bytes=None, compressed_unknown="not installed", peak_activation_bytes=4000,
                bytes_by_kind={"int8": parameters}, largest=[],
            )  # fmt: skip
            scores = {} if lacking else {"accuracy": self.score_of(right), "cross_entropy": self.score_of(1.0 - right)}
            result = Result("accuracy", scores, BETTER if scores else {}, {}, np.arange(len(right)))
            written = Figures(
                split="test", samples=SAMPLES, primary="accuracy", metrics=result.metrics, better=result.better,
                shares=result.shares, contents=contents, reason=lacking,
            )  # fmt: skip
            arrays = {"index": result.index, **({} if lacking else {"right.accuracy": right})}
            resampled = {f"metric.{name}": score.resampled for name, score in scores.items()}
            files = {MEASUREMENT: written.model_dump_json(), PREDICTIONS: arrays, **({RESAMPLED: resampled} if scores else {})}
            write(self.store, measurement, Measurement, files)
        if speedup:
            comparison = f"c{key}"
            estimate = Estimate(low=speedup[0], value=speedup[1], high=speedup[2], samples=9)
            pair = Speedup(
                baseline=latency(base), model=latency(base / speedup[1]), speedup=estimate, verdict=verdict(estimate)
            )
            write(
                self.store,
                comparison,
                Comparison,
                {
                    COMPARISON: Timing(
                        machine=MACHINE, session=Options(), latency=pair.model, load=None, speedup=pair, floating=floating
                    ).model_dump_json()
                },
            )
        row = ModelRecord(
            name=name,
            stage="x",
            key=key,
            cached=False,
            onnx=key,
            measurement=measurement,
            comparison=comparison,
            reason=reason,
            seed=7,
            **record,
        )
        (self.variants if row.variant else self.rows).append(row)
        return self

    def record(self, name="digits"):
        Record(
            recipe=name,
            store="../.store",
            seed=7,
            baseline=self.rows[0].name,
            better="higher",
            rows=self.rows,
            variants=self.variants,
            wall_time_s=12.3,
        ).write(self.folder)
        return self.folder


@pytest.fixture
def right():
    """`right(20)`: a model that errs on the first 20 samples."""
    return lambda wrong, samples=SAMPLES: np.arange(samples) >= wrong


@pytest.fixture
def empty_run(tmp_path, score_of):
    return Made(tmp_path, score_of)


@pytest.fixture
def made(empty_run, right):
    """A run whose baseline errs on 20 samples of 1,000."""
    return empty_run.add("teacher", right(20), size=10_000)


@pytest.fixture
def shown():
    """`shown(report)`: what the terminal shows."""

    def _shown(report, width=100):
        console = Console(width=width, record=True, highlight=False, markup=False, file=open("/dev/null", "w"))  # noqa: SIM115
        terminal.show(report, console)
        return console.export_text()

    return _shown
