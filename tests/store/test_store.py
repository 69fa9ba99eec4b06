"""Artifacts are whole or not there, and every change of theirs is found."""

import json
import multiprocessing

import pytest

from compress_cli.errors import ArtifactError
from compress_cli.store import artifact
from compress_cli.store.artifact import Checkpoint, Draft, Source, Table
from compress_cli.store.store import Store


def make(store, key, content=b"weights"):
    with store.working(key) as folder:
        (folder / "a.bin").write_bytes(content)
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "b.txt").write_text("b")
        Draft(Checkpoint, key, {"type": "train"}, {"loss": 0.5}, environment={"threads": 1}, wall_time_s=1.5).commit(folder)
        return store.commit(key)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_committed_artifact_reads_back(store):
    made = make(store, "k")
    found = store.get("k")
    assert type(found) is Checkpoint
    assert found.manifest == made.manifest
    assert found.file("sub/b.txt").read_text() == "b"
    assert sorted(each.name for each in store.root.iterdir()) == ["k"]
    found.verify()


def test_an_unfinished_one_is_not_there(store):
    with pytest.raises(KeyboardInterrupt), store.working("k") as folder:
        (folder / "a.bin").write_bytes(b"half")
        raise KeyboardInterrupt
    assert store.get("k") is None
    with store.working("k") as folder:
        assert (folder / "a.bin").read_bytes() == b"half"  # kept for resuming


def test_replacing_keeps_the_old_one_until_the_new_one_is_whole(store):
    make(store, "k", b"old")
    with pytest.raises(ValueError, match="x"), store.working("k") as folder:
        (folder / "a.bin").write_bytes(b"new")
        raise ValueError("x")
    assert store.get("k").file("a.bin").read_bytes() == b"old"
    make(store, "k", b"new")
    assert store.get("k").file("a.bin").read_bytes() == b"new"


def test_a_lock_whose_holder_is_gone_goes_at_the_next_look(store):
    make(store, "k")
    (store.root / "k.lock").write_text("process 1 on nowhere")
    assert store.get("k") is not None
    assert sorted(each.name for each in store.root.iterdir()) == ["k"]
    with store.working("k"):
        store.get("k")
        assert (store.root / "k.lock").exists()  # it is held: whoever looks leaves it alone


def test_a_crash_between_the_two_renames_is_mended(store):
    make(store, "k")
    (store.root / "k").rename(store.root / "k.old")
    store.get("k").verify()
    assert not (store.root / "k.old").exists()


@pytest.mark.parametrize("position", [0, 3, -1])
@pytest.mark.parametrize("name", ["a.bin", "sub/b.txt"])
def test_a_flipped_byte_is_named(store, name, position):
    path = make(store, "k").directory / name
    content = bytearray(path.read_bytes())
    content[min(position, len(content) - 1)] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        store.get("k").verify()


def test_truncation_and_loss_are_named(store):
    folder = make(store, "k").directory
    (folder / "a.bin").write_bytes(b"wei")
    with pytest.raises(ArtifactError, match="3 bytes instead of 7"):
        store.get("k").verify()
    (folder / "a.bin").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        store.get("k").verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["facts"].update(loss=0.1), "changed by hand"),
        (lambda m: m["files"]["a.bin"].update(bytes=3), "changed by hand"),
        (lambda m: m.update(format=99), "later version"),
        (lambda m: m.pop("seal"), "not a manifest"),
        (lambda m: m.pop("kind"), "not a manifest"),
        (lambda m: m.update(extra=1), "not a manifest"),
    ],
)
def test_a_manifest_edited_by_hand_is_refused(store, change, message):
    path = make(store, "k").directory / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=message):
        store.get("k")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100000, '{"seal": 1}'])
def test_a_manifest_that_is_none_is_refused(store, text):
    (make(store, "k").directory / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="not a manifest"):
        store.get("k")


def test_a_manifest_that_points_elsewhere_is_refused(store, tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    Draft(Table, "k", {}, inputs={"start": [Source(key="a", digest="b")]}).commit(folder)
    document = json.loads((folder / "manifest.json").read_text())
    del document["seal"]
    document["files"] = {"../../secret": {"sha256": "0", "bytes": 1}}
    document["seal"] = artifact._seal(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="secret"):
        artifact.read(folder)


def test_a_manifest_that_names_no_files_is_refused(store):
    """A recomputed seal is no proof: whoever can write the folder can write the seal."""
    path = make(store, "k").directory / "manifest.json"
    document = json.loads(path.read_text())
    del document["seal"]
    document["files"] = {}
    path.write_text(json.dumps({**document, "seal": artifact._seal(document)}))
    with pytest.raises(ArtifactError, match="names no files, and a Checkpoint has some"):
        store.get("k")


def test_a_file_that_does_not_belong_to_it_is_named(store):
    made = make(store, "k")
    (made.directory / "strange").write_text("x")
    with pytest.raises(ArtifactError, match="strange: is no file of this artifact"):
        made.verify()


def test_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="--store"), Store(tmp_path / "file" / "store").working("k"):
        pass


def test_the_digest_is_of_kind_and_content_alone(store):
    first, second = make(store, "k"), make(store, "other")
    assert first.digest == second.digest
    assert make(store, "k", b"else").digest != first.digest


def take_turns(store, counter, times):
    for _ in range(times):
        with store.working("k") as folder:
            if not counter.exists():
                counter.write_text("0")
            value = int(counter.read_text())
            (folder / "busy").touch(exist_ok=False)
            counter.write_text(str(value + 1))
            (folder / "busy").unlink()


def test_only_one_process_works_on_a_key(store, tmp_path):
    counter = tmp_path / "counter"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=take_turns, args=(store, counter, 100)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert counter.read_text() == "400"
