"""Widths that a budget chooses: the file that ships keeps it, and a wider one would not."""

import numpy as np
import pytest

from compress_cli.errors import RecipeError
from compress_cli.networks import restore
from compress_cli.networks.models import Model
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.networks.models.resnet import Resnet
from compress_cli.networks.models.torchvision import Torchvision
from compress_cli.networks.models.transformer_encoder import TransformerEncoder
from compress_cli.plugin import find, names
from compress_cli.stages import Stage, _width_budget
from compress_cli.stages._width_budget import WidthBudget, widest
from compress_cli.store.artifact import OnnxModel, Program

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = {"epochs": 1, "batch": 20, "precision": "float32"}


def test_the_widest_within_the_limit_is_found_from_anywhere():
    random = np.random.default_rng(0)
    for _ in range(300):
        costs = np.sort(random.lognormal(0, 2, random.integers(1, 40)))
        limit, first, asked = random.lognormal(0, 2), int(random.integers(len(costs))), []
        within = np.flatnonzero(costs <= limit)

        def cost(number, costs=costs, asked=asked):
            asked.append(number)
            return costs[number]

        found = widest(len(costs), first, cost, limit, lambda number, paid: paid / 2)
        assert found == (within[-1] if len(within) else None)
        assert len(set(asked)) == len(asked)  # no file is written twice
        assert found is not None or 0 in asked  # what is out of reach was measured


@pytest.mark.parametrize("file", [pytest.param(name, marks=pytest.mark.slow) for name in ("float32", "int8")])
def test_the_file_takes_the_bytes_that_were_foretold(toy, context_for, perform, file):
    """Of a trained model, through the stages of a recipe; one step wider is too large."""
    limit = {"float32": 13_500, "int8": 17_000}[file]
    settings = {"model": {"type": "convnet", "widths": [8, 16], "convs": 1}, "training": TRAINING}
    stage = Stage.model_validate({"type": "train", **settings, "budget": {"bytes": f"{limit / 1000} kB", "file": file}})
    made = perform(stage, context_for(toy()))
    facts = made.manifest.facts["budget"]
    path = [("quantize", Program), ("export", OnnxModel)] if file == "int8" else [("export", OnnxModel)]
    model = restore.checkpoint(made).model
    assert list(model.widths) == facts["widths"]["widths"]
    for name, kind in path:
        made = perform(Stage.model_validate({"type": name}), context_for(toy(), inputs={"start": (made,)}), kind)
    size = made.file("model.onnx").stat().st_size
    assert size == facts["got"] <= limit
    wider = [value for factor, value in facts["tried"].items() if float(factor) > facts["factor"]]
    assert min(wider) > limit


def test_a_latency_is_measured_once_on_a_machine(toy, context_for, monkeypatch):
    """Here a file takes as many milliseconds as its layers have filters; what is remembered is not measured again."""
    measured = []
    monkeypatch.setattr(
        _width_budget._Costs, "_file", lambda costs, model, how: measured.append(model) or float(sum(model.widths))
    )
    model, budget = Convnet(widths=(8, 16), convs=1), WidthBudget(latency="50 ms")
    context = context_for(toy())
    chosen, facts = _width_budget.fitted(model, budget, context, (), ())
    assert chosen.widths == (16, 32)  # 16 + 40 would be too many
    assert facts["budget"]["got"] == 48
    count = len(measured)
    again, same = _width_budget.fitted(model, budget, context, (), ())
    assert (again, same, len(measured)) == (chosen, facts, count)
    assert _width_budget.depends(budget).keys() > _width_budget.depends(WidthBudget(bytes=1)).keys()  # the machine


def test_a_budget_below_the_smallest_student_names_it(toy, context_for, monkeypatch):
    context = context_for(toy())
    monkeypatch.setattr(_width_budget._Costs, "_file", lambda costs, model, how: 5000.0 + sum(model.widths))
    reason = r"budget: 1000 bytes is out of reach: the narrowest 'convnet' .*\(widths \(1,\)\) takes 5001 bytes"
    with pytest.raises(RecipeError, match=reason):
        _width_budget.fitted(Convnet(widths=(8,), convs=1), WidthBudget(bytes="1 kB"), context, (), ())
    wide = Mlp(hidden=(640, 640))
    with pytest.raises(RecipeError, match=r"the narrowest 'mlp' .* takes more than \d+ bytes"):  # in a smoke run, unmeasured
        _width_budget.fitted(wide, WidthBudget(bytes="1 kB"), context_for(toy(), limit=2), (), ())
    for model in (Torchvision(name="resnet18"), find(Model, "timm").model_construct(name="resnet18")):
        with pytest.raises(RecipeError, match="has no widths that a budget could choose"):
            _width_budget.fitted(model, WidthBudget(bytes="1 kB"), context, (), ())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"budget": {}}, "one of 'bytes' and 'latency'"),
        ({"budget": {"bytes": 1e4, "latency": 1}}, "one of 'bytes' and 'latency'"),
        ({"budget": {"bytes": "40 parsecs"}}, "with one of the units B, kB"),
        ({"budget": {"bytes": 0}}, "greater than 0"),
        ({"budget": {"bytes": 1e4}, "model": None, "start": "teacher"}, "chooses the widths of a 'model'"),
    ],
)
def test_budgets_that_are_none(settings, word):
    with pytest.raises(ValueError, match=word):
        Stage.model_validate({"type": "train", "model": "convnet", "training": TRAINING, **settings})


def test_widths_that_suit_processors_and_the_model():
    assert Resnet(widths=(16, 32, 64)).scaled(0.7).widths == (12, 24, 48)
    assert Convnet(widths=(3, 6, 40)).scaled(1.5).widths == (4, 8, 64)
    assert Convnet(widths=(2,)).scaled(0.01).widths == (1,)
    encoder = TransformerEncoder(width=96, hidden=100, attention_heads=3).scaled(0.5)
    assert (encoder.width, encoder.width % 6, encoder.attention_heads) == (48, 0, 3)
    for name in names(Model):
        model = find(Model, name)
        required = [field for field in model.model_fields.values() if field.is_required()]
        if model.width_fields and not required:
            assert set(model.width_fields) <= model.model_fields.keys()
            half, default = model().scaled(0.5), model()
            assert all(_sum(getattr(half, field)) < _sum(getattr(default, field)) for field in model.width_fields
                       if getattr(default, field))  # fmt: skip


def _sum(widths):
    return sum(widths) if isinstance(widths, tuple) else widths
