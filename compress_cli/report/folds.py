"""A cross-validated run: every model in each fold, and the means over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compress_cli.report.document import FindingsTable, Row
from compress_cli.report.stored import Stored
from compress_cli.statistics.findings import Findings, Line
from compress_cli.statistics.folds import ANY, Range, over_folds, predictions_over_folds, range_of
from compress_cli.statistics.intervals import Estimate, judge_change
from compress_cli.statistics.repeats import Spread, spread
from compress_cli.statistics.scores import Better

COUNTS = (
    "parameters", "nonzero", "gzip_bytes", "zstd_bytes", "peak_activation_bytes", "macs", "size_bytes",
)  # fmt: skip


def divided(measured: list[Stored], others: list[Stored], folds: int) -> list[tuple[list[Stored], list[Stored]]]:
    """The models of each fold, called as the recipe calls them, and their controls."""
    everything = [*measured, *others]
    fold_of = {row.record.name: max(1, row.record.fold) for row in everything}
    return [
        (
            [_plain(row) for row in everything if fold_of[row.record.name] == fold and not row.record.variant],
            [_plain(row) for row in everything if fold_of[row.record.name] == fold and row.record.variant],
        )
        for fold in range(1, folds + 1)
    ]


def means(folds: Sequence[Sequence[Row]], better: Better, metrics: Sequence[str]) -> list[Row]:
    """One row for each model: means over the folds, and of the first what is no figure of the data, such as latency.

    metrics: the primary one of each model.
    """
    return [
        _mean([next(row for row in rows if row.name == first.name) for rows in folds], better, metric)
        for first, metric in zip(folds[0], metrics, strict=True)
    ]


def by_fold(folds: Sequence[Sequence[Row]], primary: str) -> FindingsTable:
    """The figures of each model in each fold, of whose means the report's other tables are."""
    rows = [row for rows in folds for row in rows]
    others = [name for name in dict.fromkeys(name for row in rows for name in row.metrics) if name != primary]
    changed = any(row.change for row in rows)
    columns = [primary, *([f"{primary}_change"] if changed else []), *others]
    lines = [
        Line(
            name=f"{row.name}, fold {number}",
            cells=[
                row.metrics.get(primary),
                *([row.change] if changed else []),
                *(row.metrics.get(name) for name in others),
            ],
        )
        for position in range(len(folds[0]))
        for number, row in enumerate((rows[position] for rows in folds), 1)
    ]
    about = (
        "Each fold is tested on its own part of the samples and trained on the others; the tables above show means over the "
        f"{len(folds)} folds. Intervals of means take into account that training samples are shared (Nadeau and Bengio 2003). "
        "The files in the run's folder are those of the first fold; to ship one, run the recipe without folds."
    )
    document = Findings(title="Each fold", about=about, side="ONNX Runtime", what="model", columns=columns, lines=lines)
    return FindingsTable(name="", stage="measure", model="", findings=document)


def spreads(folds: Sequence[Sequence[Row]], metrics: Sequence[str]) -> list[Spread]:
    """Of the primary metric of every model that was measured in all folds; `metrics` are those of the models."""
    found = []
    for position, metric in enumerate(metrics):
        rows = [rows[position] for rows in folds]
        if all(metric in row.metrics for row in rows):
            values = {number: row.metrics[metric].value for number, row in enumerate(rows, 1)}
            found.append(spread(rows[0].name, values).model_copy(update={"metric": metric, "over": "folds"}))
    return found


def _plain(row: Stored) -> Stored:
    """With the names of the first fold."""
    record = row.record
    name = record.name if record.variant else record.variant_of or record.name
    teachers = tuple(teacher.partition(".")[0] for teacher in record.teachers)
    plain = {"name": name, "variant_of": record.variant_of if record.variant else "", "teachers": teachers}
    return replace(row, record=record.model_copy(update=plain))


def _mean(rows: Sequence[Row], better: Better, primary: str) -> Row:
    first = rows[0]
    lacking = [f"in fold {number}: {row.reason}" for number, row in enumerate(rows, 1) if row.reason]
    names = [name for name in first.metrics if all(name in row.metrics for row in rows)]
    secondary = [name for name in first.secondary_changes if all(name in row.secondary_changes for row in rows)]
    change, compared = (
        _over([row.change for row in rows], range_of(primary, changed=True)),
        [row.predictions for row in rows if row.predictions],
    )
    counts = {name: _count([getattr(row, name) for row in rows]) for name in COUNTS}
    ratios = [row.compression_ratio for row in rows if row.compression_ratio is not None]
    notes = dict.fromkeys(note for row in rows for note in row.note.split("; ") if note)
    sizes = [row.size_bytes for row in rows if row.size_bytes is not None]
    if len(set(sizes)) > 1:
        notes[f"its file differs between folds: {min(sizes)} to {max(sizes)} bytes; counts are means"] = None
    return first.model_copy(
        update={
            **counts,
            "cached": all(row.cached for row in rows),
            "wall_time_s": sum(row.wall_time_s for row in rows),
            "compression_ratio": sum(ratios) / len(ratios) if len(ratios) == len(rows) else None,
            "metrics": {name: over_folds([row.metrics[name] for row in rows], range_of(name)) for name in names},
            "change": change,
            "change_p": None,
            "change_verdict": judge_change(change, None, better) if change else None,
            "secondary_changes": {
                name: over_folds([row.secondary_changes[name] for row in rows], range_of(name, changed=True))
                for name in secondary
            },
            "gained": _over([row.gained for row in rows], range_of(primary, changed=True)),
            "predictions": predictions_over_folds(compared) if len(compared) == len(rows) else None,
            "reason": "; ".join(lacking),
            "note": "; ".join(notes),
        }
    )


def _over(figures: Sequence[Estimate | None], within: Range = ANY) -> Estimate | None:
    known = [figure for figure in figures if figure]
    return over_folds(known, within) if len(known) == len(figures) else None


def _count(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return round(sum(known) / len(known)) if len(known) == len(counts) else None
