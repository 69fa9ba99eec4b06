"""The stopwatch, on a pretended clock: equal treatment of both models, and what interruptions and caches do."""

import numpy as np
import pytest

from compress_cli.measurement import timing
from compress_cli.measurement.latency import compare, latency


class Machine:
    """A clock that stands still while nothing runs, and counts interruptions."""

    def __init__(self, monkeypatch):
        self.now, self.interruptions, self.calls = 0.0, 0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing, "interruptions", lambda: self.interruptions)

    def session(self, name, takes, opened_in_s=0.0, opening=lambda: 1.0):
        """A session whose runs take `takes()` seconds, times what its opening drew."""
        return Pretended(self, name, takes, opened_in_s, opening)


class Pretended:
    threads, readable = 1, None

    def __init__(self, machine, name, takes, opened_in_s, opening):
        self.machine, self.name, self.takes, self.opened_in_s, self.opening = machine, name, takes, opened_in_s, opening
        self.raw, self.factor = self, opening()
        self.number = 0

    def run(self, *arguments):
        self.machine.calls.append(self.name)
        self.machine.now += self.factor * self.takes()

    def reopened(self):
        self.machine.calls.append(f"open {self.name}")
        return Pretended(self.machine, self.name, self.takes, self.opened_in_s, self.opening)

    def samples(self, feeds):
        return 1


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


@pytest.fixture
def noise():
    """noise(seconds, spread): times that scatter around it."""
    random = np.random.default_rng(0)
    return lambda seconds, spread=0.01: lambda: seconds * (1 + spread * random.random())


def test_both_models_get_the_same_runs_in_balanced_order(machine, noise):
    slow, fast = machine.session("slow", noise(1e-3)), machine.session("fast", noise(1e-4))
    result = compare(slow, fast, ({}, {}), 0.3)
    assert result.baseline.runs == result.model.runs
    assert machine.calls.count("slow") == machine.calls.count("fast")  # untimed runs too
    blocks = "".join(name[0] for name in machine.calls if not name.startswith("open"))
    firsts = [blocks[start] for start in range(0, len(blocks), 5)]  # blocks of two untimed runs and three timed ones
    assert 0.4 < firsts.count("s") / len(firsts) < 0.6
    assert result.verdict == "faster"
    assert result.speedup.value == pytest.approx(10, rel=0.02)


def test_the_ratio_is_that_of_the_latencies(machine, noise):
    for seconds in (2e-5, 1e-3, 0.08):
        result = compare(machine.session("a", noise(2 * seconds, 0.5)), machine.session("b", noise(seconds, 1)), ({}, {}), 0.3)
        assert result.speedup.value == pytest.approx(result.baseline.p50_ms.value / result.model.p50_ms.value)
        assert result.speedup.low <= result.speedup.value <= result.speedup.high


def test_interrupted_runs_are_left_out_of_the_median_and_not_of_the_throughput(machine):
    random = np.random.default_rng(0)

    def takes():
        if random.random() < 0.6:
            machine.interruptions += 1
            return 5e-3
        return 1e-3

    result = latency(machine.session("a", takes), {}, 3.0)
    assert result.p50_ms.value == pytest.approx(1)
    assert result.p90_ms == pytest.approx(5)
    assert result.interrupted == pytest.approx(0.6, abs=0.03)
    assert result.throughput_per_s == pytest.approx(1 / 3.4e-3, rel=0.05)


def test_throughput_is_runs_by_their_time(machine):
    """One run in 49 takes 49 times as long: the median does not show it, and half of the throughput is lost."""
    turns = iter(range(10**9))
    result = latency(machine.session("a", lambda: 1e-3 if next(turns) % 49 else 49e-3), {}, 10.0)
    assert result.p50_ms.value == pytest.approx(1)
    assert result.throughput_per_s == pytest.approx(1e3 * 49 / 97, rel=0.03)


def test_sessions_that_differ_by_their_place_in_memory_are_not_taken_for_models(machine, noise):
    """Each opening draws a factor of up to 5%: the level holds. More than 4 of 100 would be so by chance once in 290 times."""
    random, wrong = np.random.default_rng(1), 0
    for seed in range(100):
        pair = [machine.session(name, noise(1e-3), opening=lambda: 1 + 0.05 * random.random()) for name in "ab"]
        wrong += compare(*pair, ({}, {}), 0.1, seed).verdict in ("faster", "slower")
    assert wrong <= 4


def test_the_level_holds_where_a_load_comes_and_goes(machine, noise):
    """The machine is up to three times slower for a while: both suffer, and neither is called faster."""
    random, wrong, undecided = np.random.default_rng(2), 0, 0
    for seed in range(100):
        phase = 6.28 * random.random()

        def takes(phase=phase):
            return 1e-3 * (2 + np.sin(machine.now * 20 + phase)) * (1 + 0.1 * random.random())

        verdict = compare(machine.session("a", takes), machine.session("b", takes), ({}, {}), 0.3, seed).verdict
        wrong += verdict in ("faster", "slower")
        undecided += verdict == "too noisy to say"
    assert wrong <= 4
    assert undecided <= 10


def test_a_tenth_slower_is_found(machine, noise):
    random = np.random.default_rng(3)

    def opening():
        return 1 + 0.03 * random.random()

    verdicts = [
        compare(machine.session("a", noise(1e-3, 0.2), 0, opening), machine.session("b", noise(1.1e-3, 0.2), 0, opening),
                ({}, {}), 0.3, seed).verdict
        for seed in range(50)
    ]  # fmt: skip
    assert verdicts.count("slower") >= 48


def test_cold_caches(machine, monkeypatch):
    """A run is fast only right after one of the same model; between cold runs other data passes through the caches."""

    def takes(name):
        return lambda: 1e-3 if machine.calls[-2:] == [name, name] else 3e-3

    warm = compare(machine.session("a", takes("a")), machine.session("b", takes("b")), ({}, {}), 0.2)
    assert (warm.model.p50_ms.value, warm.model.caches) == (pytest.approx(1), "warm")
    monkeypatch.setattr(timing, "_evicted_bytes", lambda: 1)
    cold = compare(machine.session("a", takes("a")), machine.session("b", takes("b")), ({}, {}), 0.2, caches="cold")
    assert cold.model.p50_ms.value == pytest.approx(3, rel=0.5)
    assert cold.model.caches == "cold"


def test_files_that_take_long_to_open_keep_their_session(machine, noise):
    compare(machine.session("a", noise(1e-3), 1.0), machine.session("b", noise(1e-3), 1.0), ({}, {}), 0.3)
    assert not any(name.startswith("open") for name in machine.calls)


def test_a_long_run_is_timed_alone(machine, noise):
    result = latency(machine.session("a", noise(0.5)), {}, 0.3)
    assert result.runs == 12  # two in each trial
    assert machine.calls.count("a") == 12 + 6 + 1


def test_the_caches_are_overwritten():
    assert timing._evicted_bytes() >= 64 << 20
