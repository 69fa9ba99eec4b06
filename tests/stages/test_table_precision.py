"""How a table is computed: whatever way is taken, its outputs are those of plain float32 within the bound."""

import json
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch import nn

from compress_cli.distillation import table
from compress_cli.distillation.teachers import teacher_for
from compress_cli.errors import RecipeError
from compress_cli.networks import folding
from compress_cli.stages import Stage, _table_precision
from compress_cli.stages._table_ways import FILES, NAMES, Request, Ways
from compress_cli.store.artifact import Table
from compress_cli.store.saves import Saves, Saving
from compress_cli.training.loader import Augmenter, Loader
from compress_cli.training.pool import SamplePool

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def teacher(lively_teacher):
    return lively_teacher((4, 6))


@pytest.fixture
def request_of(teacher, tmp_path):
    def _request(**changes):
        return Request(**{"source": teacher, "layers": (), "rows": 10**9, "device": "cpu", "largest": 64,
                          "memory": tmp_path / "memory", **changes})  # fmt: skip

    return _request


@pytest.fixture
def clock(monkeypatch):
    """Every way that agrees is timed, and takes what is given here; the others 1 s."""
    times = {}
    monkeypatch.setattr(_table_precision, "_fastest", lambda ways: {name: times.get(name, 1.0) for name in ways})
    for limit in ("HOPELESS", "NEAR"):
        monkeypatch.setattr(_table_precision, limit, np.inf)
    return times


@pytest.fixture
def ways_of(toy):
    """A teacher's ways, on 64 samples."""
    pool = SamplePool(toy(train=64).split("train"), "cpu")
    with ExitStack() as stack:

        def _ways(request):
            plain = teacher_for(request.source).open(request.source, request.layers, "cpu")
            return Ways(request, plain, lambda count: pool.batch(np.linspace(0, 63, count, dtype=np.int64)), stack)

        yield _ways


@pytest.fixture
def choose(ways_of):
    return lambda request: _table_precision.choose(ways_of(request), "auto")


@pytest.fixture
def outputs(ways_of):
    def _outputs(request, name):
        ways = ways_of(request)
        return ways.opened(name)(ways.sample(64))

    return _outputs


ROUNDING = {"bfloat16": 2**-7, "bfloat16_channels_last": 2**-7, "onnx_runtime_int8": 2**-7}  # eight bits; others: float32's


@pytest.mark.parametrize(
    ("name", "layers"), [*((name, ()) for name in NAMES), *((name, ("layer2",)) for name in NAMES if name not in FILES)]
)
def test_every_way_gives_what_float32_gives_within_its_rounding(request_of, outputs, name, layers):
    request = request_of(layers=layers)
    plain, found = outputs(request, "float32"), outputs(request, name)
    for kind in ("heads", "features"):
        for key, expected in getattr(plain, kind).items():
            actual = getattr(found, kind)[key]
            assert actual.dtype == torch.float32
            rounding = ROUNDING.get(name, 1e-5)
            torch.testing.assert_close(actual, expected, rtol=0, atol=4 * rounding * float(expected.abs().max()))


class Branches(nn.Module):
    """A convolution before its batch norm, one that is used twice, one whose output goes elsewhere too, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.one, self.shared, self.both = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norm, self.first, self.second, self.after = (nn.BatchNorm2d(3) for _ in range(4))
        self.line, self.row = nn.Linear(3, 5), nn.BatchNorm1d(5)
        self.fold = torch.relu

    def forward(self, x):
        x = self.fold(self.norm(self.one(x)))
        x = self.second(self.shared(self.first(self.shared(x))))
        y = self.both(x)
        return self.row(self.line((y + self.after(y)).mean((2, 3))))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(("module", "norms"), [(Branches, 3), (Untraceable, 1)])
def test_batch_norms_are_folded_where_that_changes_nothing(module, norms):
    torch.manual_seed(0)
    network = module().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.normal_()
            layer.bias.data.normal_()
    x, folded = torch.rand(4, 3, 6, 6), folding.folded(network)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-5, atol=1e-5)
    calls = {node.target for node in folded.graph.nodes} if hasattr(folded, "graph") else {"norm"}
    assert len(calls & {"norm", "first", "second", "after", "row"}) == norms


def test_a_choice_is_recorded_and_remembered(request_of, choose, outputs, clock, monkeypatch):
    clock["bfloat16"] = 0.1
    monkeypatch.setattr(_table_precision, "NOISE", 0.2)
    monkeypatch.setattr(_table_precision, "SAME", 0.5)
    request = request_of(rows=10**12)
    choice = choose(request)
    assert choice.name == "bfloat16"
    assert set(choice.samples_per_s) >= {"float32", "bfloat16"}
    expected, rounded = (outputs(request, name).heads["logits"].numpy() for name in ("float32", "bfloat16"))
    assert choice.noise["logits"] == pytest.approx(
        np.sqrt(((rounded - expected) ** 2).mean() / expected.var(0).mean()), rel=1e-3
    )
    assert choice.agreement["logits"] == (rounded.argmax(1) == expected.argmax(1)).mean()
    monkeypatch.setattr(_table_precision, "_choose", lambda *given: pytest.fail("timed again"))
    again = choose(request)
    assert (again.name, again.batch, again.noise) == (choice.name, choice.batch, choice.noise)
    (request.memory / _table_precision.REMEMBERED).write_text(json.dumps({"k": {"choice": {"name": "float3"}}}))
    with pytest.raises(pytest.fail.Exception):
        choose(request)


def test_a_way_that_does_not_agree_is_not_taken_however_fast(request_of, choose, clock, monkeypatch):
    clock["bfloat16"] = clock["bfloat16_channels_last"] = 0.8
    monkeypatch.setattr(_table_precision, "NOISE", 1e-9)
    assert choose(request_of(layers=("layer2",))).name == "float32"


@pytest.mark.parametrize(("rows", "largest_mb"), [(1000, 512), (10**9, 0)])
def test_integers_are_not_tried_where_making_them_does_not_pay(request_of, ways_of, monkeypatch, rows, largest_mb):
    monkeypatch.setattr("compress_cli.stages._table_ways.LARGEST_MB", largest_mb)
    assert set(NAMES) - set(ways_of(request_of(rows=rows)).names) == {"onnx_runtime_int8"}


def test_a_file_shows_no_layers(request_of, ways_of):
    assert ways_of(request_of(layers=("layer2",))).names == [name for name in NAMES if name not in FILES]


def test_integers_must_agree_in_a_smoke_run_too(request_of, choose, clock, monkeypatch):
    """Else a time is planned with a way that the run itself will not take."""
    clock |= {"onnx_runtime_int8": 0.1, "bfloat16": 0.5}
    monkeypatch.setattr(_table_precision, "NOISE", 1e-9)
    assert choose(request_of(rows=10**12, trial=True)).name == "bfloat16"
    monkeypatch.setattr(_table_precision, "NOISE", 0.2)
    monkeypatch.setattr(_table_precision, "SAME", 0.5)
    assert choose(request_of(rows=10**12, trial=True)).name == "onnx_runtime_int8"


def test_a_short_table_is_computed_as_ever(request_of, choose):
    choice = choose(request_of(rows=64))
    assert (choice.name, choice.reason) == ("float32", "the table takes under 20 s in float32")


def test_noise_is_a_share_of_what_tells_samples_apart():
    """Outputs of a large mean and a deviation of 1, wrong by 0.1 each: a tenth, whatever the mean."""
    from compress_cli.data.batch import Outputs

    expected = 1000 + torch.tensor([[-1.0], [1.0]]).repeat(50, 1)
    wrong = expected + torch.tensor([[0.1], [-0.1]]).repeat(50, 1)
    noise = _table_precision._noise(Outputs({"x": expected}), Outputs({"x": wrong}))
    assert noise["x"] == pytest.approx(0.1, rel=1e-3)
    assert _table_precision._noise(Outputs({"x": expected}), Outputs({"x": wrong * torch.nan}))["x"] == np.inf


@pytest.mark.parametrize("name", ["bfloat16", "onnx_runtime_int8"])
def test_an_interrupted_table_goes_on_in_the_way_it_began(toy, context_for, teacher, tmp_path, monkeypatch, perform, name):
    """Whatever the clock says the second time."""
    taken = _table_precision.Choice(name, 64, "the fastest")
    stage = Stage.model_validate({"type": "teacher_table", "views": 3, "augment": ["flip"]})
    monkeypatch.setattr(_table_precision, "choose", lambda *given: taken)
    whole = perform(stage, context_for(toy(train=300), inputs={"teacher": (teacher,)}), Table)
    assert whole.manifest.facts["precision"]["name"] == name

    class Stopped(Saves):
        def step(self, state, epoch_ended=False):
            super().step(state, epoch_ended)
            raise KeyboardInterrupt

    folder = tmp_path / "saves"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        stage.run(context_for(toy(train=300), inputs={"teacher": (teacher,)}, saves=Stopped(folder, Saving(steps=1))))
    monkeypatch.setattr(_table_precision, "choose", lambda *given: pytest.fail("chosen again"))
    resumed = perform(stage, context_for(toy(train=300), inputs={"teacher": (teacher,)}, saves=Saves(folder)), Table)
    assert resumed.digest == whole.digest


def test_ways_are_judged_by_samples_as_the_table_has_them(toy, context_for, teacher, monkeypatch):
    """Where augmentation widens the values, integers that fit the pictures as they are would cut them off."""
    seen = {}

    def choose(ways, asked):
        seen.update(ways.sample(12).inputs)
        return _table_precision.Choice("float32", 64, "first")

    monkeypatch.setattr(_table_precision, "choose", choose)
    stage = Stage.model_validate({"type": "teacher_table", "views": 2, "augment": [{"type": "crop", "padding": 2}]})
    context = context_for(toy(train=300), inputs={"teacher": (teacher,)})
    stage.run(context)
    pool = SamplePool(context.dataset.split("train"), "cpu")
    view = torch.cat([batch.inputs["image"] for batch in Loader(pool, 300, Augmenter(stage.augment)).fixed(0, 300)])
    rows = np.linspace(0, 299, 12, dtype=np.int64)
    torch.testing.assert_close(seen["image"], view[rows], rtol=0, atol=0)
    assert not torch.equal(seen["image"], pool.batch(rows).inputs["image"])


def test_a_way_that_was_asked_for_is_taken_or_refused(toy, context_for, teacher, perform):
    context = context_for(toy(train=64), inputs={"teacher": (teacher,)})
    artifact = perform(Stage.model_validate({"type": "teacher_table", "precision": "onnx_runtime"}), context, Table)
    plain = perform(Stage.model_validate("teacher_table"), context_for(toy(train=64), inputs={"teacher": (teacher,)}), Table)
    np.testing.assert_allclose(*(table.StoredOutputs(each).arrays["heads", "logits"] for each in (artifact, plain)), atol=1e-4)
    again = Stage.model_validate({"type": "teacher_table", "precision": "onnx_runtime", "layers": ["layer2"]})
    with pytest.raises(RecipeError, match="onnx_runtime shows no layers"):
        again.run(context_for(toy(train=64), inputs={"teacher": (teacher,)}))
    stored = Stage.model_validate({"type": "teacher_table", "precision": "bfloat16"})
    with pytest.raises(RecipeError, match="the teacher is a Table and runs as it is"):
        stored.run(context_for(toy(train=64), inputs={"teacher": (plain,)}))
