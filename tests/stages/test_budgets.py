"""Bits of each layer under a budget: of accuracy, mean bits, bytes, time."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from compress_cli.data.datasets import Split
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.errors import RecipeError, StageError
from compress_cli.networks import restore
from compress_cli.networks.models.mlp import Mlp
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.stages import _mixed_precision
from compress_cli.stages._assignment import Option, assign
from compress_cli.stages._budget import Budget
from compress_cli.stages._mixed_precision import Search
from compress_cli.stages.export import Export
from compress_cli.store.artifact import Checkpoint
from tests.stages.test_quantize import SIGNATURE, Bench, Brightness
from tests.stages.test_quantize_formats import export, quantize


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Onnx, "export", export)
        yield Bench(tmp_path_factory.mktemp("budgets"))


def searching(quantize, **known):
    """A search of which only what a test says can be asked."""
    asked = dict.fromkeys(("noise", "drop", "size", "float_size", "speedup")) | known
    return Search(quantize, log=lambda progress: None, **asked)


def test_without_labels_a_promise_is_about_agreement_with_the_float_model(bench, monkeypatch):
    true_split = Brightness.split

    def unlabelled(self, name):
        split = true_split(self, name)
        return Split(split.inputs, {}, split.index)

    monkeypatch.setattr(Brightness, "split", unlabelled)
    chosen = {"type": "linear", "bits": 2, "per_channel": False}
    plain = bench.run(quantize(quantizer=chosen), bench.file).manifest.facts
    lost = 1 - plain["argmax_agreement"]["logits"]
    assert lost > 0.05
    facts = bench.run(quantize(quantizer=chosen, budget={"accuracy_drop": lost / 2}), bench.file).manifest.facts
    assert 1 - facts["argmax_agreement"]["logits"] <= lost / 2
    assert facts["budget"]["accuracy_drop"] <= lost / 2
    assert len(facts["budget"]["returned_to_float"]) == 1


def test_a_mean_of_bits_is_kept(bench):
    facts = bench.run(quantize(quantizer="linear", budget={"bits": 4.2}), bench.file).manifest.facts
    widths = [(entry["weight_bits"], entry["weights"]) for entry in facts["layers"]]
    mean = sum(bits * count for bits, count in widths) / sum(count for _, count in widths)
    assert mean == pytest.approx(facts["budget"]["bits"])
    assert mean <= 4.2
    assert [bits for bits, _ in widths] == [8, 4] or [bits for bits, _ in widths] == [4, 4]
    assert all(noise["2"] > noise["4"] > noise["8"] for noise in facts["sensitivity"].values())


def test_layers_return_to_float_worst_first_until_the_promise_holds():
    hurt = {"a": 0.01, "b": 0.2, "c": 0.05, "d": 0.0}
    state, tries = {}, []

    def quantise(quantizer, path):
        floating = {override.layers for override in quantizer.overrides if override.weights == "float"}
        state["integers"] = [name for name in hurt if name not in floating]
        tries.append(state["integers"])
        return {"layers": [{"layer": name, "weight_bits": 8, "weights": 9} for name in state["integers"]]}

    def total(path):
        return sum(hurt[name] for name in state["integers"])

    search = searching(quantise, noise=total, drop=total)
    facts = _mixed_precision.keep(Budget(accuracy_drop=0.02), Quantizer.model_validate("static_int8"), search, None)
    assert facts["budget"] == {"accuracy_drop": 0.01, "returned_to_float": ["b", "c"]}
    assert tries[-1] == ["a", "d"]
    assert facts["sensitivity"] == hurt


def test_a_promise_that_nothing_keeps_is_a_failure():
    search = searching(
        lambda quantizer, path: {"layers": [{"layer": name, "weight_bits": 8, "weights": 9} for name in "ab"]},
        noise=lambda path: 1.0, drop=lambda path: 0.25,
    )  # fmt: skip
    with pytest.raises(StageError, match=r"0.1 is not kept by any assignment: .* the loss on val is 0.25"):
        _mixed_precision.keep(Budget(accuracy_drop=0.1), Quantizer.model_validate("static_int8"), search, None)


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_best_there_is(seed):
    """Against all assignments, on noises of which some fall with the bits and some do not."""
    generator = np.random.default_rng(seed)
    options = {
        layer: [
            Option(width, float(width * generator.integers(50, 150)), float(generator.exponential())) for width in (8, 4, 2)
        ]
        for layer in "abcdef"
    }
    limit = 0.6 * sum(choices[0].cost for choices in options.values())
    chosen = assign(options, limit)
    allowed = [every for every in itertools.product(*options.values()) if sum(option.cost for option in every) <= limit]
    least = min(sum(option.noise for option in every) for every in allowed)
    assert sum(option.cost for option in chosen.values()) <= limit
    assert sum(option.noise for option in chosen.values()) == pytest.approx(least)


def test_a_budget_that_just_fits_is_kept_and_one_below_is_not():
    options = {f"layer{number}": [Option(8, 0.8, 0.1), Option(4, 0.1 * 4, 0.3)] for number in range(30)}
    assert {option.bits for option in assign(options, 0.4 * 30).values()} == {4}
    assert assign(options, 0.4 * 30 - 0.01) is None


def test_many_layers_take_a_moment_and_come_near_the_best():
    """Of 200 layers; the bound is that of the linear relaxation, which no whole assignment beats."""
    generator = np.random.default_rng(0)
    sizes, heights = generator.integers(100, 100_000, 200), generator.exponential(size=200)
    options = {
        str(number): [Option(width, float(width * size), float(height * 4.0**-width)) for width in (8, 4, 2)]
        for number, (size, height) in enumerate(zip(sizes, heights, strict=True))
    }
    limit = 4.5 * float(sizes.sum())
    chosen = assign(options, limit)
    assert sum(option.cost for option in chosen.values()) <= limit
    price = np.geomspace(1e-14, 1e-6, 400)[:, None]  # Lagrange multipliers: each gives a lower bound
    least = (
        sum(np.min([option.noise + price * option.cost for option in choices], 0) for choices in options.values())
        - price * limit
    )
    assert sum(option.noise for option in chosen.values()) <= 1.02 * least.max()


@pytest.fixture(scope="module")
def wide(bench):
    """A file whose weights count for more than its graph."""
    restored, output = restore.build(Mlp(hidden=(128, 64)), SIGNATURE, 0), bench.folder()
    restore.save(restored, output)
    return bench.run(Export(), bench.artifact(output, Checkpoint, {}))


def shipped_bytes(bench, result):
    return bench.run(Export(), result).file("model.onnx").stat().st_size


def test_a_size_is_kept_by_the_file_that_ships_and_used_up(bench, wide):
    """The bytes are those of the exported file, card included; a budget that is a little larger gives a better file."""
    whole, sizes, ratios = shipped_bytes(bench, wide), [], []
    for limit in (9_000, 12_000, 17_000):
        result = bench.run(quantize(quantizer="linear", budget={"bytes": limit}), wide)
        facts = result.manifest.facts
        shipped = shipped_bytes(bench, result)
        assert facts["budget"]["bytes"] == shipped <= limit
        assert facts["budget"]["compression_ratio"] == pytest.approx(whole / shipped)
        sizes.append(shipped)
        ratios.append(facts["sqnr_db"]["logits"])
    assert sizes == sorted(set(sizes))
    assert ratios == sorted(set(ratios))


def test_a_size_below_the_smallest_file_is_refused_with_the_nearest(bench, wide):
    narrow = bench.run(quantize(quantizer={"type": "linear", "bits": 2}), wide)
    smallest = shipped_bytes(bench, narrow)
    with pytest.raises(
        RecipeError, match=r"1000 bytes is out of reach: the smallest file .* 'linear' has (\d+) bytes"
    ) as error:
        bench.run(quantize(quantizer="linear", budget={"bytes": "1 kB"}), wide)
    named = int(re.search(r"has (\d+) bytes", str(error.value))[1])
    assert named <= smallest
    assert bench.run(quantize(quantizer="linear", budget={"bytes": named}), wide).manifest.facts["budget"]["bytes"] == named
    with pytest.raises(RecipeError, match=r"compression_ratio: 50x is out of reach"):
        bench.run(quantize(quantizer="linear", budget={"compression_ratio": 50}), wide)


def test_a_format_without_a_choice_of_bits_leaves_float_what_the_size_allows(bench, wide):
    whole = bench.run(quantize(quantizer="binary"), wide).manifest.facts
    facts = bench.run(quantize(quantizer="binary", budget={"compression_ratio": 1.6}), wide).manifest.facts
    assert facts["budget"]["compression_ratio"] >= 1.6
    assert 1 <= len(facts["layers"]) < len(whole["layers"])
    assert facts["sqnr_db"]["logits"] > whole["sqnr_db"]["logits"] + 0.5


def timed(ratio, error=0.02):
    """A speed-up with its interval."""
    around = SimpleNamespace(value=ratio, low=ratio * (1 - error), high=ratio * (1 + error))
    p50 = SimpleNamespace(value=1 / ratio, low=(1 - error) / ratio, high=(1 + error) / ratio)
    return SimpleNamespace(speedup=around, model=SimpleNamespace(p50_ms=p50))


TIMES = {"a": (0.4, 0.1, 0.3), "b": (0.3, 0.1, 0.01), "c": (0.1, 0.05, 0.2), "d": (0.05, 0.08, 0.05)}  # float, int8, noise


def fast(asked, lucky=()):
    """The budget's choice for layers of known times and noises; `d` is faster in float. The first timing of so many layers in
    float as `lucky` holds finds them a third faster than they are."""
    state, lucky = {}, set(lucky)

    def quantise(quantizer, path):
        state["float"] = {override.layers for override in quantizer.overrides if override.weights == "float"}
        return {"layers": [{"layer": name, "weight_bits": 8, "weights": 9} for name in TIMES if name not in state["float"]]}

    def speedup(path):
        whole = sum(before for before, _, _ in TIMES.values())
        luck = 1.5 if len(state["float"]) in lucky else 1
        lucky.discard(len(state["float"]))
        return timed(luck * whole / sum(times[name not in state["float"]] for name, times in TIMES.items()))

    search = searching(
        quantise, speedup=speedup, noise=lambda path: sum(TIMES[name][2] for name in TIMES if name not in state["float"])
    )
    return _mixed_precision.keep(Budget(**asked), Quantizer.model_validate("static_int8"), search, None)


def test_a_speed_is_kept_with_the_layers_in_float_that_are_worth_their_time():
    """All in integers 0.33 of 0.85; `d` in float costs nothing, `c` 0.05 for a noise of 0.2, `a` 0.3 for 0.3."""
    facts = fast({"speedup": 2.3})
    assert facts["budget"]["returned_to_float"] == ["d", "c"]
    assert facts["budget"]["speedup"][1] == pytest.approx(0.85 / 0.35)
    assert facts["sensitivity"]["c"] == {"noise": pytest.approx(0.2), "time": pytest.approx(0.05 / 0.85)}
    assert fast({"speedup": 1.2})["budget"]["returned_to_float"] == ["d", "c", "a"]
    assert fast({"latency_ms": 0.355 / 0.85})["budget"]["returned_to_float"] == ["d"]  # 0.35 + 2% is more, 0.30 + 2% is not


def test_a_lucky_timing_is_not_taken_for_a_promise_kept():
    """Three layers in float are 1.55 times as fast; what is promised is measured once more on the file that is kept."""
    facts = fast({"speedup": 2.2}, lucky=[3])
    assert facts["budget"]["returned_to_float"] == ["d", "c"]
    assert facts["budget"]["speedup"][0] >= 2.2


def test_a_speed_that_is_out_of_reach_is_refused_with_the_fastest_there_is():
    with pytest.raises(RecipeError, match=r"budget.speedup: 4x is out of reach: .* is 2.83x \[2.78, 2.89\] as fast"):
        fast({"speedup": 4})
    with pytest.raises(RecipeError, match=r"budget.latency_ms: 0.1 ms is out of reach: .* is 0.353 ms \[0.346, 0.36\]"):
        fast({"latency_ms": 0.1})


def test_a_speed_is_measured_on_the_files(bench):
    """Of two layers one stays in integers where hardly any speed is asked for, and none is a thousand times as fast."""
    short = {"seconds": 0.02, "threads": 1}
    facts = bench.run(quantize(budget={"speedup": 1e-6}, timing=short), bench.file).manifest.facts
    low, value, high = facts["budget"]["speedup"]
    assert 0 < low <= value <= high
    assert [entry["weight_bits"] for entry in facts["layers"]].count(8) == 1
    with pytest.raises(RecipeError, match=r"budget.speedup: 1000x is out of reach"):
        bench.run(quantize(budget={"speedup": 1000}, timing=short), bench.file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": {}}, "set one of accuracy_drop, bits, bytes"),
        ({"budget": {"bits": 5, "accuracy_drop": 0.1}}, "set one of accuracy_drop, bits"),
        ({"budget": {"bits": 5}, "quantizer": "ternary"}, "'ternary' has no choice of bits"),
        ({"budget": {"bits": 20}}, "less than or equal to 8"),
        ({"budget": {"bits": 3}, "quantizer": {"type": "linear"}}, None),
        ({"budget": {"bytes": "40 kg"}}, "must be a number of bytes, such as"),
        ({"budget": {"bytes": 0}}, "greater than 0"),
        ({"budget": {"compression_ratio": 1}}, "greater than 1"),
        ({"budget": {"speedup": 2}, "quantizer": "linear"}, "'linear' makes files smaller, not faster"),
        ({"budget": {"latency_ms": -1}}, "greater than 0"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(settings, message):
    if message is None:
        assert quantize(**settings).budget.promise == ("bits", 3)
        return
    with pytest.raises(ValidationError, match=message):
        quantize(**settings)


def test_bytes_are_read_with_their_unit():
    assert Budget(bytes="40 kB").bytes == Budget(bytes=40000).bytes == 40000
    assert Budget(bytes="1.5MiB").bytes == 3 * 2**19
