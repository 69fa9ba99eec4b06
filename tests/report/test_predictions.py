"""What changed in the answers, in every form of the report, and in a browser."""

import base64
import io
import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from compress_cli.data import pictures
from compress_cli.report import FindingsTable, Report, Row, gates, markdown, page, terminal
from compress_cli.report.document import chain
from compress_cli.report.page import Background
from compress_cli.statistics import gate
from compress_cli.statistics.findings import Findings, Line
from compress_cli.statistics.intervals import Estimate, paired_difference, wilson
from compress_cli.statistics.predictions import ScoredSamples, compare_predictions

NASTY = "a|b</svg><script>alert(1)</script>&\"'\x1b=1+1"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LABELS = np.arange(400) % 4
INDEX = 5000 + np.arange(400)


def answers(wrong):
    """A model that errs on these positions."""
    classes = np.where(np.isin(np.arange(400), wrong), (LABELS + 1) % 4, LABELS)
    return ScoredSamples(4.0 * np.eye(4)[classes], LABELS)


MODELS = {"teacher": range(8), "student": range(4, 16), "int8": range(4, 36, 2)}


def made(name="int8", before="teacher"):
    """teacher -> student -> `name`; the class names are hard to write down, too."""
    rows, names = [], {"teacher": before, "student": "student", "int8": name}
    teacher = answers(MODELS["teacher"])
    for model, origin in (("teacher", ""), ("student", "teacher"), ("int8", "student")):
        answered = answers(MODELS[model])
        of = answers(MODELS[origin]) if origin else None
        rows.append(
            Row(
                name=names[model],
                stage="train",
                key=model,
                cached=False,
                wall_time_s=1.0,
                size_bytes=1000,
                metrics={"accuracy": wilson(int(answered.right.sum()), 400)},
                made_from=names[origin] if origin else "",
                gained=paired_difference(of.right, answered.right) if of else None,
                change=paired_difference(teacher.right, answered.right) if of else None,
                change_p=0.03 if of else None,
                change_verdict="worse" if of else None,
                predictions=compare_predictions(teacher, answered, INDEX, (name, "b", "c", "d")) if of else None,
            )
        )
    lines = [
        Line(name=name, cells=[Estimate(value=-0.1, low=-0.2, high=0.05, samples=9), 31.5]),
        Line(name="fc", cells=[0.0, None]),
    ]
    findings = Findings(
        title="Costs", about=f"What {name} means.", side="PyTorch", what="layer", columns=["accuracy_change", "sqnr_db"],
        lines=lines,
    )  # fmt: skip
    report = Report(
        recipe=name, seed=0, baseline=before, primary="accuracy", split="test", samples=400, rows=rows, machine={},
        wall_time_s=1.0, findings=[FindingsTable(name="costs", stage="sensitivity", model=name, findings=findings)],
    )  # fmt: skip
    promises = ("agreement>=99%", "costs.fc_accuracy_change>=-1%", "worst_class_drop<=50%", "student.churn<=10%", "kl<=1")
    return report.model_copy(update={"gates": gates.judge(report, tuple(map(gate.parse, promises)))})


def behind(report):
    epochs = {"epochs": [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, 4)]}
    shown = {
        sample.index: pictures.png(np.full((3, 8, 8), sample.index % 256, np.uint8), 96)
        for sample in report.rows[-1].predictions.changed
    }
    return Background({report.rows[0].name: epochs}, {"device": "cpu"}, "name: x\n", shown)


def shown(report):
    console = Console(width=100, record=True, highlight=False, markup=False, file=io.StringIO())
    terminal.show(report, console)
    return console.export_text()


def test_every_form_tells_the_damage():
    report = made()
    agreement = report.rows[-1].predictions.agreement
    lost, gained = 14, 6  # of 16 wrong ones, 2 of which the teacher has wrong too: 4, 6
    for text in (shown(report), markdown.render(report), page.render(report, behind(report))):
        words = re.sub(r"<[^>]*>", " ", text)
        for figure in (
            f"{100 * agreement.value:.1f}",
            f"{lost}",
            f"{gained}",
            "worse",
            "SQNR, dB",
            "31.5",
            "-10.0",
            "Run by PyTorch",
        ):
            assert figure in words, figure
    assert max(map(len, shown(report).splitlines())) <= 100
    damaged = report.rows[-1].predictions
    assert round(400 * damaged.right_to_wrong.value) == lost
    assert round(400 * damaged.wrong_to_right.value) == gained


def test_gates_on_damage_and_on_findings():
    outcomes = {result.promise: (result.row, result.outcome) for result in made().gates}
    assert outcomes == {
        "agreement>=99%": ("int8", "not met"),
        "costs.fc_accuracy_change>=-1%": ("costs", "met"),
        "worst_class_drop<=50%": ("int8", "met"),
        "student.churn<=10%": ("student", "met"),
        "kl<=1": ("int8", "met"),
    }
    (result,) = gates.judge(made(), (gate.parse("costs.conv_accuracy_change>=0"),))
    assert (result.outcome, result.passes) == ("not measured", False)
    assert "did you mean" in result.reason or "has no such figure" in result.reason


class Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.words = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.words += f" {data}"


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def test_the_page_shows_the_inputs_that_changed_sides():
    report = made()
    reader = read(page.render(report, behind(report)))
    sources = [value for name, value in reader.attributes if name == "src"]
    changed = report.rows[-1].predictions.changed
    assert len(sources) == len(changed) == 20
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for source, sample in zip(sources, changed, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        assert (pixels == sample.index % 256).all()
    assert not {name for name, _ in reader.attributes} & {"href", "onclick", "onload", "srcset"}
    assert "14 lost and 6 gained of 400 samples" in reader.words


def test_pictures_are_bounded():
    large = Image.open(io.BytesIO(pictures.png(np.zeros((1, 400, 200), np.uint8), 96)))
    assert large.size == (48, 96)
    assert large.mode == "L"


def bars(svg):
    return [tuple(map(float, numbers)) for numbers in re.findall(r'class="step" x="([-\d.]+)"[^>]* width="([\d.]+)"', svg)]


def test_the_waterfall_goes_from_the_baseline_to_the_last_model():
    report = made()
    assert [row.name for row in chain(report)] == ["teacher", "student", "int8"]
    text = page.render(report, behind(report))
    plot = text[text.index("accuracy %, stage by stage") :].partition("</svg>")[0]
    _, (first, wide), (second, wider) = bars(plot)  # the first is where it begins
    assert second + wider == pytest.approx(first, abs=2.5)  # to the left, from where the one above ends
    assert (wider - 2) / (wide - 2) == pytest.approx(1.0, abs=0.05)  # 12 - 8 and 16 - 12 samples more are wrong
    total = sum(row.gained.value for row in report.rows[1:])
    assert total == pytest.approx(report.rows[-1].change.value)


def test_the_way_is_told_in_words_too():
    sentence = "accuracy %, stage by stage: teacher 98.0, student -1.0 [-2.9, +0.8], int8 -1.0 [-2.9, +0.8]"
    figures = re.sub(r"\[[^]]*\]", "", sentence)
    for text in (shown(made()), markdown.render(made())):
        assert figures in re.sub(r"\[[^]]*\]", "", " ".join(text.replace("\\", "").split()))


def test_a_chain_that_does_not_come_from_the_baseline_begins_beside_it():
    report = made()
    rows = [report.rows[0], report.rows[1].model_copy(update={"made_from": ""}), report.rows[2]]
    assert [row.name for row in chain(report.model_copy(update={"rows": rows}))] == ["teacher", "student", "int8"]
    assert chain(report.model_copy(update={"baseline": "gone"})) == []
    late = report.model_copy(update={"baseline": "student"})
    assert [row.name for row in chain(late)] == ["student", "int8"]


def test_names_mean_themselves_everywhere():
    report = made(NASTY, "x`*[y](z)")
    text = page.render(report, behind(report))
    reader = read(text)
    assert "script" not in reader.tags
    assert reader.words.count("<script>alert(1)</script>") > 8
    lines = [line for line in markdown.render(report).splitlines() if line.startswith("|")]
    tables = [
        list(group)
        for filled, group in itertools.groupby(markdown.render(report).splitlines(), lambda line: line[:1] == "|")
        if filled
    ]
    assert len(lines) > 10
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    for form in (text, markdown.render(report), shown(report)):
        assert "\x1b" not in form
    assert "<script>" not in markdown.render(report)


@pytest.mark.skipif(BROWSER is None, reason="needs a browser")
@pytest.mark.parametrize("name", ["int8", NASTY])
def test_a_browser_finds_plots_tables_pictures_and_nothing_wrong(tmp_path, name):
    report = made(name)
    (tmp_path / "r.html").write_text(page.render(report, behind(report)), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    more = "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
    command = [BROWSER, *flags.split(), *more.split(), f"--user-data-dir={tmp_path / 'user'}", f"file://{tmp_path}/r.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    dom = read(done.stdout)
    assert dom.tags.count("svg") == 5  # size, waterfall, classes, costs, loss
    assert dom.tags.count("table") == 6  # models, stages, answers, classes, costs, environment
    assert dom.tags.count("img") == 20
    assert "script" not in dom.tags
    assert "CONSOLE" not in done.stderr
