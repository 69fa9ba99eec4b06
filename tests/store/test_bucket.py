"""A store in a bucket: whole or not there, made once, taken over from the dead. Against a bucket in memory, and a server."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("obstore")
from obstore.store import MemoryStore

from compress_cli.errors import ArtifactError, RecipeError, StageError
from compress_cli.store import bucket as buckets
from compress_cli.store.artifact import Draft, Table
from compress_cli.store.bucket import Bucket, BucketStore, Lease, opened
from compress_cli.store.saves import Save, Saves, Saving

KEY = "ab" * 32
RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: train, model: {type: mlp, hidden: [8]}, training: {epochs: 1, precision: float32}}
"""


@pytest.fixture
def bucket():
    return Bucket(MemoryStore(), "memory://")


def machine(folder, bucket):
    """A store on a machine of its own."""
    return BucketStore(folder, bucket)


def objects(bucket):
    """The names of all objects."""
    return sorted(entry["path"] for batch in bucket.objects.list() for entry in batch)


def make(store, content=b"weights", key=KEY):
    with store.working(key) as output:
        (output / "deep").mkdir()
        (output / "deep" / "file").write_bytes(content)
        Draft(Table, key, {"type": "x"}).commit(output)
        return store.commit(key)


def test_what_one_machine_made_another_one_has(tmp_path, bucket):
    made = make(machine(tmp_path / "a", bucket))
    there = machine(tmp_path / "b", bucket)
    fetched = there.get(KEY)
    fetched.verify()
    assert fetched.directory == tmp_path / "b" / KEY
    assert (fetched.directory / "deep" / "file").read_bytes() == b"weights"
    assert fetched.digest == made.digest
    assert there.get("cd" * 32) is None


def test_an_artifact_without_its_manifest_is_not_there(tmp_path, bucket):
    make(machine(tmp_path / "a", bucket))
    bucket.remove(f"{KEY}/manifest.json")
    assert machine(tmp_path / "b", bucket).get(KEY) is None


def test_a_damaged_copy_is_refused_and_leaves_nothing(tmp_path, bucket):
    made = make(machine(tmp_path / "a", bucket))
    (recorded,) = made.manifest.files.values()
    bucket.objects.put(f"{KEY}/{recorded.sha256}", b"weighty")
    there = machine(tmp_path / "b", bucket)
    with pytest.raises(ArtifactError, match="copy in the bucket is damaged"):
        there.get(KEY)
    assert not (tmp_path / "b" / KEY).exists()
    bucket.remove(f"{KEY}/{recorded.sha256}")
    with pytest.raises(StageError, match=recorded.sha256):
        there.get(KEY)
    assert not (tmp_path / "b" / KEY).exists()


def test_what_is_made_anew_replaces_the_artifact_in_the_bucket(tmp_path, bucket):
    make(machine(tmp_path / "a", bucket))
    again = machine(tmp_path / "c", bucket)
    with again.working(KEY) as output:  # as --force does: it was fetched, and is made although it is there
        (output / "file").write_bytes(b"other")
        Draft(Table, KEY, {"type": "x"}).commit(output)
        again.commit(KEY)
    assert (machine(tmp_path / "b", bucket).get(KEY).directory / "file").read_bytes() == b"other"


def test_a_second_machine_waits_and_takes_what_the_first_made(tmp_path, bucket, monkeypatch):
    monkeypatch.setattr(buckets, "POLL_S", 0.01)
    first, second = machine(tmp_path / "a", bucket), machine(tmp_path / "b", bucket)
    waited, found = [], []

    def follow():
        with second.working(KEY, waited.append):
            found.append(second.get(KEY))
            second.leave(KEY)

    with first.working(KEY) as output:
        other = threading.Thread(target=follow)
        other.start()
        while not waited:
            time.sleep(0.01)
        assert not found
        (output / "file").write_bytes(b"1")
        Draft(Table, KEY, {"type": "x"}).commit(output)
        first.commit(KEY)
    other.join(10)
    assert waited == [f"process {os.getpid()} on {socket.gethostname()}"]
    assert (found[0].directory / "file").read_bytes() == b"1"
    assert bucket.read(f"{KEY}.lease") is None


def test_a_lease_is_taken_over_only_from_the_dead(bucket, monkeypatch):
    monkeypatch.setattr(buckets, "POLL_S", 0.01)
    monkeypatch.setattr(buckets, "DEAD_S", 0.3)
    monkeypatch.setattr(buckets, "RENEW_S", 0.05)
    with Lease(bucket, KEY).held(None):
        heir = Lease(bucket, KEY)
        taking = threading.Thread(target=heir._take, args=(None,), daemon=True)
        taking.start()
        time.sleep(0.9)  # three times as long as a dead holder keeps it
        assert not heir.tag
    taking.join(10)
    assert heir.tag  # it was given back
    begun = time.monotonic()
    with Lease(bucket, KEY).held(None):  # `heir` never renews: it is dead
        assert time.monotonic() - begun >= 0.3
        assert heir.bucket.replace(heir.name, b"{}", heir.tag) is None  # should it wake up, it is too late


def save(store, count, warn=None):
    """Work on the key, in steps that add one, up to `count`; the last sum that was saved before."""
    saves = Saves(store.saves(KEY), Saving(steps=1), warn, share=partial(store.share, KEY))
    earlier = saves.load()
    begun = earlier.document["sum"] if earlier else 0
    (store.saves(KEY) / "attempt.json").write_text("{}")
    for number in range(begun + 1, count + 1):
        saves.step(partial(Save, {"sum": np.full(3, number)}, {"sum": number}, f"step {number}"))
    return begun


def test_another_machine_goes_on_from_the_last_save_and_nothing_is_left_of_it(tmp_path, bucket):
    first, second = machine(tmp_path / "a", bucket), machine(tmp_path / "b", bucket)
    with first.working(KEY):
        assert save(first, 3) == 0
    assert len(objects(bucket)) == 2  # of three saves the last, and its description
    with second.working(KEY) as output:
        assert (second.saves(KEY) / "attempt.json").read_text() == "{}"
        assert save(second, 7) == 3
    with first.working(KEY):  # whose own save is an older one
        assert save(first, 7) == 7
    with second.working(KEY) as output:
        Draft(Table, KEY, {"type": "x"}).commit(output)
        second.commit(KEY)
    assert [name for name in objects(bucket) if ".save/" in name] == []
    with machine(tmp_path / "c", bucket).working(KEY):
        assert save(machine(tmp_path / "c", bucket), 0) == 0


def test_a_save_that_is_gone_or_torn_is_not_gone_on_from(tmp_path, bucket):
    first = machine(tmp_path / "a", bucket)
    with first.working(KEY):
        save(first, 2)
    (name,) = [name for name in objects(bucket) if name.endswith(".safetensors")]
    bucket.write(name, b"torn")
    for folder in "bc":
        with machine(tmp_path / folder, bucket).working(KEY):
            assert list((tmp_path / folder / f"{KEY}.saves").iterdir()) == []
        bucket.remove(name)


@pytest.mark.parametrize("text", ["{", "{}", '{"save": "../x", "beside": {}}', '{"save": "NAME", "beside": {"../x.json": ""}}'])
def test_a_description_that_nobody_here_wrote_is_none(tmp_path, bucket, text):
    bucket.write(f"{KEY}.save/last.json", text.replace("NAME", f"00000001-{'ab' * 32}.safetensors").encode())
    store = machine(tmp_path / "a", bucket)
    with store.working(KEY):
        assert list(store.saves(KEY).iterdir()) == []
        assert save(store, 2) == 0
    with machine(tmp_path / "b", bucket).working(KEY):
        assert save(machine(tmp_path / "b", bucket), 0) == 2


def test_a_machine_whose_lease_was_taken_over_shares_no_save(tmp_path, bucket, monkeypatch):
    monkeypatch.setattr(buckets, "RENEW_S", 0.02)
    first = machine(tmp_path / "a", bucket)
    with first.working(KEY):
        _, lease = first.at_work[KEY]
        bucket.write(lease.name, b"{}")  # by another machine
        while lease.tag:
            time.sleep(0.01)
        save(first, 1)
    assert [name for name in objects(bucket) if ".save/" in name] == []


def test_a_save_that_can_not_be_shared_is_reported_once_and_stays_here(tmp_path, bucket, monkeypatch):
    store, notes = machine(tmp_path / "a", bucket), []

    def refuse(name, path):
        raise StageError("the network is away")

    with store.working(KEY):
        monkeypatch.setattr(bucket, "upload", refuse)
        save(store, 3, notes.append)
        assert notes == ["no other machine can go on from this save: the network is away"]
        monkeypatch.undo()
        assert save(store, 4) == 3
    with machine(tmp_path / "b", bucket).working(KEY):
        assert save(machine(tmp_path / "b", bucket), 0) == 4


def test_names_of_buckets_are_checked(tmp_path):
    assert opened(None, tmp_path).root == tmp_path / ".store"
    assert opened("elsewhere", tmp_path).root == Path("elsewhere")
    with pytest.raises(RecipeError, match="names no bucket"):
        opened("s4://bucket/x", tmp_path)


def test_a_bucket_is_not_cleaned(compress):
    outcome = compress("clean", "--store", "s3://bucket/x")
    assert outcome.code == 2
    assert "a bucket keeps what its own rules say" in outcome.err


@pytest.fixture
def server(monkeypatch):
    """An S3 server of this machine with the bucket `shop`."""
    pytest.importorskip("moto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(urllib.request.Request(f"{address}/shop", method="PUT"), timeout=5)
            break
        except OSError:
            time.sleep(0.2)
    settings = {
        "ENDPOINT_URL": address,
        "ALLOW_HTTP": "true",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "REGION": "us-east-1",
    }
    settings["REGION"] = "us-east-1"
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_two_machines_share_a_bucket_of_a_server(compress, tmp_path, server):
    (tmp_path / "r.yaml").write_text(RECIPE)
    first = compress("run", "r.yaml", "-o", "a", "--store", "s3://shop/models")
    assert first.code == 0, first
    second = compress("run", "r.yaml", "-o", "b", "--store", "s3://shop/models")
    assert second.code == 0, second
    assert "train: up to date" in second.err
    one, two = (json.loads((tmp_path / folder / "r/train/manifest.json").read_text()) for folder in "ab")
    assert one == two
    assert os.readlink(tmp_path / "b/r/train").startswith("../.store/")
    make(opened("s3://shop/other", tmp_path / "c"))
    assert opened("s3://shop/other", tmp_path / "d").get(KEY).manifest.key == KEY
    server.kill()
    gone = compress("run", "r.yaml", "-o", "e", "--store", "s3://shop/models")
    assert gone.code == 4
    assert "s3://shop/models/" in gone.err


@pytest.mark.slow
def test_a_training_that_was_killed_on_one_machine_goes_on_to_the_same_bytes_on_another(
    compress, tmp_path, server, monkeypatch
):
    (tmp_path / "r.yaml").write_text(RECIPE.replace("epochs: 1,", "epochs: 150,") + "save: {epochs: 5}\n")
    assert compress("run", "r.yaml", "-o", "alone").code == 0
    command = [sys.executable, "-m", "compress_cli", "run", "r.yaml", "-o", "a", "--store", "s3://shop/models"]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    shop = Bucket.at("s3://shop/models")
    while not any(name.endswith("last.json") for name in objects(shop)):
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    monkeypatch.setattr(buckets, "DEAD_S", 1.0)
    monkeypatch.setattr(buckets, "POLL_S", 0.1)
    second = compress("run", "r.yaml", "-o", "b", "--store", "s3://shop/models")
    assert second.code == 0, second
    assert "train: resumed at epoch" in second.err
    alone, other = (json.loads((tmp_path / folder / "r/train/manifest.json").read_text()) for folder in ("alone", "b"))
    assert alone["files"] == other["files"]
    assert [name for name in objects(shop) if ".save" in name or ".lease" in name] == []
