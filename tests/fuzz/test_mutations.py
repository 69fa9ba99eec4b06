"""Right files, broken in every way that chance finds: never a traceback, never a hang, never exit 0 on damage."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("fuzz_targets", HERE / "targets.py")
targets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(targets)

SEEDS = targets.seeds()
TELLING = (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff", b"-1", b"1e999", b"null", b"[", b"{", b'"',
           b"\\ud800", b"9" * 400, b"../", b"&a", b"*a", b": ", b"\n", b"!!", b"<<: ")  # fmt: skip


def mutated(content, random):
    """A few bytes changed, taken out, doubled or put in; now and then the end is gone."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        position = random.randrange(len(data) + 1)
        size = random.choice((1, 1, 2, 4, 8, 40))
        match random.randrange(6):
            case 0:
                data[position : position + 1] = bytes([random.randrange(256)])
            case 1:
                del data[position : position + size]
            case 2:
                data[position:position] = data[position : position + size]
            case 3:
                data[position:position] = random.choice(TELLING)
            case 4:
                token = random.choice(TELLING)
                data[position : position + len(token)] = token
            case 5:
                other = random.randrange(len(data) + 1)
                data[position : position + size] = data[other : other + size]
    return bytes(data[: random.randrange(len(data) + 1)] if random.random() < 0.1 else data)


@contextmanager
def in_time(seconds=10):
    """A hang is a failure."""

    def late(number, frame):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attack(name, count, seed):
    source = random.Random(seed)
    for number in range(count):
        content = mutated(source.choice(SEEDS[name]), source)
        with in_time():
            try:
                targets.TARGETS[name](content)
            except Exception as error:
                kept = Path(os.environ.get("FUZZ_FINDINGS", "/tmp"), f"{name}-{seed}-{number}")
                kept.write_bytes(content)
                raise AssertionError(f"{kept}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("name", SEEDS)
def test_a_few_mutations(name):
    attack(name, 60, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SEEDS)
def test_thousands_of_mutations(name, seed):
    attack(name, 1500, 100 + seed)


@pytest.mark.parametrize("name", SEEDS)
def test_every_seed_is_right_and_what_is_not_is_refused(name, monkeypatch):
    """The targets look at what they are given: a seed passes without a complaint, and an empty file does not."""
    complaints = []
    from compress_cli.errors import CompressError

    whole = CompressError.__init__

    def counted(self, *given):
        complaints.append(given)
        whole(self, *given)

    monkeypatch.setattr(CompressError, "__init__", counted)
    for content in SEEDS[name]:
        targets.TARGETS[name](content)
    assert complaints == []
    targets.TARGETS[name](b"")
    assert complaints


words = st.text(st.characters(codec=None), max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    *("type", "name", "model", "training", "loss", "losses", "teacher", "start", "keep", "ratio", "epochs", "seed", "dataset"),
    *("stages", "gates", "task", "baseline", "device", "threads"),
)
NAMES = ("train", "distill", "prune", "quantize", "export", "load", "digits", "npz", "mlp", "convnet", "soft_targets")
shaped = st.recursive(
    plain | st.sampled_from(NAMES) | st.sampled_from((0, -1, 1.5, 2**63, 10**400, float("inf"), float("nan"), "", "../x")),
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5) | st.lists(inner, max_size=4),
    max_leaves=16,
)
recipes = st.fixed_dictionaries(
    {"dataset": st.just("digits") | shaped, "stages": st.lists(shaped, max_size=4) | shaped},
    optional=dict.fromkeys(("seed", "gates", "task", "name", "device", "baseline"), shaped),
)


def calm(examples):
    """The same examples every time, however long one takes."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
    )


def as_yaml(value):
    """JSON is YAML, with surrogates escaped as an attacker would."""
    import json

    return json.dumps(value).encode()


@calm(60)
@given(recipes)
def test_recipes_of_any_shape(value):
    with in_time():
        targets.a_recipe(as_yaml(value))


@calm(60)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda text: text.decode("latin-1")))
def test_text_that_is_no_recipe(text):
    with in_time():
        targets.a_recipe(text.encode("utf-8", "surrogatepass"))


@calm(80)
@given(
    st.lists(st.sampled_from((*FIELDS, *NAMES, "0", "-1", "9999999999", "", "\x00", "é")), max_size=4).map(".".join),
    plain | st.sampled_from(("[", "{a", "&a *a", "1e999", "\ud800", "!!python/name:os.system")),
)
def test_overrides_of_any_shape(path, value):
    text = value if isinstance(value, str) else as_yaml(value).decode()
    with in_time():
        targets.an_override(f"{path}={text}".encode("utf-8", "surrogatepass"))
        targets.an_override(path.encode("utf-8", "surrogatepass"))


@calm(100)
@given(st.from_regex(r"\A([a-z_]{0,9}\.)?[a-z_]{0,12} ?(<=|>=|<|=)? ?[-+.eE0-9]{0,9}[kMG%a-zA-Z]{0,3}\Z") | words)
def test_gates_of_any_shape(text):
    with in_time():
        targets.a_gate(text.encode("utf-8", "surrogatepass"))


MANIFEST = (
    "format",
    "kind",
    "key",
    "stage",
    "facts",
    "inputs",
    "environment",
    "wall_time_s",
    "files",
    "seal",
    "sha256",
    "bytes",
)


@calm(80)
@given(st.dictionaries(st.sampled_from(MANIFEST), plain, max_size=11), st.dictionaries(words, plain, max_size=3))
def test_manifests_of_any_shape(document, files):
    import json

    whole = json.loads(SEEDS["a_manifest"][0])
    with in_time():
        targets.a_manifest(as_yaml({**whole, **document}))
        targets.a_manifest(as_yaml({**whole, "files": {name: {"sha256": "0", "bytes": 1} for name in files}}))


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize("name", SEEDS)
def test_coverage_guided(name, tmp_path):
    pytest.importorskip("atheris", reason="pip install atheris (Linux, CPython)")
    seconds = os.environ.get("FUZZ_SECONDS", "60")
    command = [sys.executable, HERE / "coverage_guided.py", name, tmp_path / "corpus", f"-max_total_time={seconds}"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=float(seconds) + 120)
    assert done.returncode == 0, done.stderr[-5000:] + done.stdout[-1000:]
