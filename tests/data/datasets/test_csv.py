"""CSV tables: rows as they stand, and each mistake with its line."""

import numpy as np
import pytest

from compress_cli.data.datasets.csv import Csv
from compress_cli.errors import DataError


def table(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_rows_and_labels(tmp_path):
    path = table(tmp_path, 'a,kind,b\n1,cat,2.5\n-3,"dog",4e1\n\n0,cat,1\n')
    dataset = Csv(train=path, test=path, label="kind", val_share=0.0)
    test = dataset.split("test")
    np.testing.assert_array_equal(test.inputs["features"], np.float32([[1, 2.5], [-3, 40], [0, 1]]))
    np.testing.assert_array_equal(test.targets["label"], [0, 1, 0])
    signature = dataset.signature()
    assert signature.heads["logits"].classes == ("cat", "dog")
    assert signature.inputs["features"].mean == pytest.approx((-2 / 3, 14.5))
    assert not {*test.index} & {*dataset.split("train").index}


def labelled(tmp_path, labels):
    return table(tmp_path, "x,label\n" + "".join(f"{row},{label}\n" for row, label in enumerate(labels)))


def test_whole_numbers_are_class_numbers(tmp_path):
    path = labelled(tmp_path, ["10", "2.0", "0"] * 10)
    dataset = Csv(train=path, classes=11)
    assert dataset.signature().heads["logits"].size == 11
    assert {*dataset.split("train").targets["label"]} == {0, 2, 10}
    sizes = {name: len(dataset.split(name)) for name in ("train", "val", "test")}
    assert sizes == {"train": 21, "val": 3, "test": 6}


@pytest.mark.parametrize(
    ("labels", "classes", "names", "numbers"),
    [
        (["0", "1", "02", "1.0"], (), ("0", "1", "2"), [0, 1, 2, 1]),
        (["0", "2", "0", "2"], 4, ("0", "1", "2", "3"), [0, 2, 0, 2]),
        (["0", "2", "0", "2"], ("a", "b", "c"), ("a", "b", "c"), [0, 2, 0, 2]),
        (["c", "a", "c", "a"], ("a", "b", "c"), ("a", "b", "c"), [2, 0, 2, 0]),
        (["c", "a", "c", "a"], 2, ("a", "c"), [1, 0, 1, 0]),
        (["20", "10", "20", "10"], ("20", "10"), ("20", "10"), [0, 1, 0, 1]),
    ],
)
def test_classes_that_are_set(tmp_path, labels, classes, names, numbers):
    path = labelled(tmp_path, labels)
    data = Csv(train=path, test=path, classes=classes)
    assert data.signature().heads["logits"].classes == names
    np.testing.assert_array_equal(data.split("test").targets["label"], numbers)


@pytest.mark.parametrize(
    ("labels", "classes", "reason"),
    [
        (["0", "1", "1000000000"], (), "t.csv: column of labels: label 1000000000 in row 2 would make 1000000001 classes, but"),
        (["0", "1", "12"], 3, "label 12 in row 2 is out of range for 3 classes"),
        (["0", "0"], (), "all labels are 0, one class"),
        (["cat", "cat"], (), "names one class, 'cat'; a classifier needs at least two"),
        (["cat", "dog"], 3, "names 2 classes, not 3; list their names in 'classes'"),
        (["cat", "dgo"], ("cat", "dog"), "t.csv:3: 'dgo' is none of the classes; did you mean 'dog'?"),
    ],
)
def test_labels_that_are_no_classes(tmp_path, labels, classes, reason):
    with pytest.raises(DataError) as error:
        Csv(train=labelled(tmp_path, labels), classes=classes).signature()
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "t.csv:1: should name each column once"),
        ("a,a,label\n1,2,0\n", "t.csv:1: should name each column once"),
        ("a,lable\n1,0\n", "t.csv:1: has no column 'label' with the class; did you mean 'lable'?"),
        ("a,label\n", "holds no rows"),
        ("label\n1\n", "holds no columns of numbers"),
        ("a,label\n1,0\n1,2,0\n", "t.csv:3: has 3 values for 2 columns"),
        ("a,label\n1,0\nred,0\n", "t.csv:3: column 'a': 'red' is no finite number"),
        ("a,label\n1,0\nnan,0\n", "t.csv:3: column 'a': 'nan' is no finite number"),
        ("a,label\n1_000,0\n", "t.csv:2: column 'a': '1_000' is no finite number"),
        ("a,label\n1e99,0\n", "t.csv:2: column 'a': '1e99' is no finite number"),
        ("a,label\n,0\n", "t.csv:2: column 'a': '' is no finite number"),
        ("a,label\n1,\n", "t.csv:2: names no class"),
        ('a,label\n"1,0\n', "is no CSV file"),
    ],
)
def test_mistakes_have_their_line(tmp_path, text, reason):
    with pytest.raises(DataError) as error:
        Csv(train=table(tmp_path, text)).split("train")
    assert reason in str(error.value)


def test_files_of_other_columns_are_refused(tmp_path):
    first, second = table(tmp_path, "a,label\n1,0\n"), table(tmp_path, "b,label\n1,0\n", "u.csv")
    with pytest.raises(DataError, match=r"u.csv:1: has other columns"):
        Csv(train=first, test=second).split("test")
    with pytest.raises(DataError, match="there is no file"):
        Csv(train=tmp_path / "none.csv").split("train")


def test_a_changed_file_is_read_again(tmp_path):
    path = table(tmp_path, "a,label\n1,0\n2,1\n")
    dataset = Csv(train=path, test=path)
    before = dataset.fingerprint()
    table(tmp_path, "a,label\n1,0\n2,1\n3,1\n")
    assert len(dataset.split("test")) == 3
    assert dataset.fingerprint() != before
