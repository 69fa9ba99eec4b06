"""The HTML page: whole, offline, without scripts, every name escaped, every figure in it."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from compress_cli.measurement.latency import Latency
from compress_cli.report import Report, Row, gates, html, page, plots
from compress_cli.report.page import Background
from compress_cli.statistics import gate
from compress_cli.statistics.intervals import Estimate

NASTY = "</svg><script>alert(1)</script>&\"'\x1b"
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Tags with attributes and text, and whether each tag that opens also closes, in order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def estimate(low, value, high):
    return Estimate(value=value, low=low, high=high, samples=400)


def row(name, accuracy, size, milliseconds, **more):
    latency = Latency(
        batch=1, threads=1, runs=9, p50_ms=estimate(0.9 * milliseconds, milliseconds, 1.1 * milliseconds),
        p90_ms=1.0, p99_ms=1.0, throughput_per_s=1.0,
    )  # fmt: skip
    metrics = {"accuracy": estimate(accuracy - 0.02, accuracy, accuracy + 0.01)}
    figures = {"parameters": size // 4, "kinds": {"float32": size // 4}, "macs": 10 * size, "size_bytes": size}
    return Row(
        name=name, stage="train", key="k", cached=False, wall_time_s=1.5, metrics=metrics, latency=latency, **figures, **more
    )


def made(name="small"):
    small = row(
        name, 0.96, 10_000, 0.5, change=estimate(-0.03, -0.01, 0.01), speedup=estimate(1.5, 2.0, 2.5), verdict="faster",
        compression_ratio=10.0, note="a remark",
    )  # fmt: skip
    report = Report(
        recipe=name, seed=3, baseline="teacher", primary="accuracy", split="test", samples=400,
        rows=[row("teacher", 0.97, 100_000, 1.0), small], machine={"processor": name}, wall_time_s=9.0,
    )  # fmt: skip
    return report.model_copy(update={"gates": gates.judge(report, (gate.parse("size_bytes<=1kB"),))})


def behind(name="small"):
    epochs = [
        {"epoch": epoch, "loss": 4.0 / epoch, "accuracy": 0.5 + 0.04 * epoch, "learning_rate": 0.1} for epoch in range(1, 9)
    ]
    facts = {"teacher": {"epochs": epochs}, name: {"epochs": epochs[:4]}, "none": {}}
    return Background(facts, {"device": name}, f"name: {name}\nseed: 3\n")


def test_the_page_holds_plots_tables_and_figures():
    reader = read(page.render(made(), behind()))
    assert reader.tags.count("svg") == 4  # two planes, two curves
    assert reader.tags.count("table") == 3
    assert reader.tags.count("polyline") == 4
    text = " ".join(reader.words)
    figures = ("96.0", "[94.0, 97.0]", "-1.0", "10.0x", "2.00x", "0.500 ms", "1.5 s")
    for words in (*figures, "a remark", "not met: 10,000 bytes", "seed: 3"):
        assert words in text, words


def test_names_mean_themselves():
    text = page.render(made(NASTY), behind(NASTY))
    reader = read(text)
    assert "script" not in reader.tags
    assert "\x1b" not in text
    assert sum("<script>alert(1)</script>" in word for word in reader.words) > 5
    assert reader.tags.count("svg") == 4


def test_it_opens_offline():
    reader = read(page.render(made(), behind()))
    assert not {name for name, _ in reader.attributes} & {"src", "href", "onclick", "onload"}
    assert ("content", html.HARMLESS) in reader.attributes
    assert "url(" not in html.STYLE
    assert "@import" not in html.STYLE


def test_a_run_of_which_nothing_was_measured():
    bare = Row(name="only", stage="train", key="k", cached=True, wall_time_s=0.0, reason="no exporter")
    report = Report(
        recipe="r", seed=0, baseline="only", primary="", split="test", samples=0, rows=[bare], machine={}, wall_time_s=0.0
    )
    reader = read(page.render(report, Background({}, {}, "")))
    assert "svg" not in reader.tags
    assert "not measured: no exporter" in " ".join(reader.words)


def test_other_notes_of_a_stage_are_no_curves():
    for epochs in (7, ["x"], [{"loss": 1.0}], [{"epoch": 1, "loss": float("nan")}], [{"epoch": 1, "loss": float("inf")}]):
        reader = read(page.render(made(), Background({"teacher": {"epochs": epochs}}, {}, "")))
        assert reader.tags.count("svg") == 2


def places(svg, mark):
    return [tuple(map(float, centre)) for centre in re.findall(rf'<{mark} class="dot[^"]*" cx="([-\d.]+)" cy="([-\d.]+)"', svg)]


def test_points_lie_where_their_figures_say():
    points = [plots.Point(str(x), (x, x, x), (y, y, y)) for x, y in ((10, 0.1), (20, 0.2), (30, 0.4))]
    (ax, ay), (bx, by), (cx, cy) = places(plots.scatter(points, "x", "y", str, str), "circle")
    assert bx - ax == pytest.approx(cx - bx, abs=0.2)
    assert (by - ay) * 2 == pytest.approx(cy - by, abs=0.3)
    assert ay > by > cy  # up is more
    wide = [plots.Point(str(x), (x, x, x), (0.5, 0.5, 0.5)) for x in (1, 10, 100)]
    (ax, _), (bx, _), (cx, _) = places(plots.scatter(wide, "x", "y", str, str), "circle")
    assert bx - ax == pytest.approx(cx - bx, abs=0.2)  # logarithmic


@pytest.mark.parametrize("values", [(0.0, 0.0), (5.0, 5.0), (-3.0, 4.0), (1e-9, 2e-9), (1.0, 1e12), (0.97, 0.9700001)])
def test_any_range_has_a_few_ticks_within_the_plot(values):
    points = [plots.Point("a", (value, value, value), (value, value, value)) for value in values]
    svg = plots.scatter(points, "x", "y", str, str)
    read(svg)
    ticks = [float(pixel) for pixel in re.findall(r'class="tick" x="([-\d.]+)"', svg)]
    assert 2 <= len(ticks) <= 40
    assert all(0 <= pixel <= plots.WIDTH for pixel in ticks)


def test_labels_do_not_cover_each_other():
    points = [plots.Point(f"model {number}", (1.0, 1.0, 1.0), (0.5 + number / 1e4,) * 3) for number in range(5)]
    svg = plots.scatter(points, "x", "y", str, str)
    heights = sorted(float(height) for height in re.findall(r'class="label[^"]*" x="[-\d.]+" y="([-\d.]+)"', svg))
    assert all(later - earlier >= 12.9 for earlier, later in pairwise(heights))


def test_latencies_of_different_moments_are_not_drawn_side_by_side():
    report = made()
    teacher, small = report.rows
    disturbed = report.model_copy(
        update={"rows": [teacher, small.model_copy(update={"latency": row("x", 0.9, 1, 7.0).latency})]}
    )
    latencies = re.findall(r"<title>small: ([\d.]+ ms)", page.render(disturbed, behind()))
    assert latencies == ["0.500 ms"]  # the baseline's 1 ms, divided by the speed-up of 2
