import copy

import numpy as np
import pytest
import torch

from compress_cli.losses import Pair
from compress_cli.losses.crd import Crd

ONE = (Pair(student="a", teacher="b"),)


def begin(make, loss, s, t, samples):
    torch.manual_seed(0)
    teachers = (make(b=t),)
    return teachers, loss.adapter(make(a=s), teachers, samples).double()


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def mapped(layer, x):
    return unit(x.reshape(len(x), -1) @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())


@pytest.mark.parametrize("other", ["class", "sample"])
def test_equals_the_formula_and_moves_the_memory(make, make_batch, random, other):
    s, t, samples, k = random.randn(3, 2, 2, 2), random.randn(3, 5), 8, 20
    loss = Crd(layers=ONE, size=4, temperature=0.5, momentum=0.3, negatives=k, other=other)
    teachers, adapter = begin(make, loss, s, t, samples)
    contrast = adapter[0]
    memory_s, memory_t = contrast.student.numpy().copy(), contrast.teacher.numpy().copy()
    f, g = mapped(contrast.map_student, s), mapped(contrast.map_teacher, t)
    labels = np.array([1, 0, 1])
    torch.manual_seed(3)
    drawn = torch.randint(samples, (3, k)).numpy()
    torch.manual_seed(3)
    value = loss(make(a=s), teachers, make_batch(3, labels, index=[700, 5, 90]), adapter).item()

    expected = 0.0
    for embedding, memory in ((f, memory_t), (g, memory_s)):
        raw = [
            np.exp(np.array([embedding[i] @ memory[i], *(embedding[i] @ memory[j] for j in drawn[i])]) / 0.5) for i in range(3)
        ]
        z = np.mean(raw) * samples
        for i in range(3):  # on first sight sample i takes row i; no label is known yet, so every other row is a negative
            u, noise = raw[i] / z, k / samples
            h = u / (u + noise)
            negative = drawn[i] != i
            expected -= (np.log(h[0]) + np.log(1 - h[1:])[negative].sum() * k / negative.sum()) / 3
    assert value == pytest.approx(expected)
    np.testing.assert_allclose(contrast.student.numpy()[:3], unit(0.3 * memory_s[:3] + 0.7 * f))
    np.testing.assert_allclose(contrast.teacher.numpy()[:3], unit(0.3 * memory_t[:3] + 0.7 * g))
    np.testing.assert_array_equal(contrast.student.numpy()[3:], memory_s[3:])


def test_negatives_are_of_another_class(make, make_batch, random):
    s, t = random.randn(4, 3), random.randn(4, 3)
    loss = Crd(layers=ONE, size=4, negatives=50)
    teachers, adapter = begin(make, loss, s, t, 4)
    batch = make_batch(4, [0, 0, 1, 1])
    student = make(a=s)
    loss(student, teachers, batch, adapter)  # after this all labels are known
    contrast, seen = adapter[0], []

    def spy(embedding, memory, z, rows, drawn, negative):
        seen.append((rows, drawn, negative))
        return embedding.sum()

    object.__setattr__(loss, "_discriminate", spy)
    loss(student, teachers, batch, adapter)
    rows, drawn, negative = seen[0]
    labels = np.array([0, 0, 1, 1])
    assert (contrast.labels.numpy() == labels).all()
    np.testing.assert_array_equal(negative.numpy(), labels[drawn.numpy()] != labels[rows.numpy()][:, None])
    assert negative.any()


def test_a_sample_keeps_its_row_whatever_the_order(make, random):
    _, adapter = begin(make, Crd(layers=ONE, size=4), random.randn(2, 3), random.randn(2, 3), 50)
    ids, rows = random.permutation(10_000)[:50], {}
    for epoch in range(3):
        order = random.permutation(ids)
        for start in range(0, 50, 7):
            part = order[start : start + 7]
            for sample, row in zip(part, adapter[0].rows_of(torch.as_tensor(part)).tolist(), strict=True):
                assert rows.setdefault(sample, row) == row, epoch
    assert sorted(rows.values()) == list(range(50))


def test_a_sample_twice_in_a_batch_has_one_row(make, random):
    _, adapter = begin(make, Crd(layers=ONE, size=4), random.randn(2, 3), random.randn(2, 3), 5)
    assert adapter[0].rows_of(torch.tensor([9, 3, 9, 4, 3])).tolist() == [0, 1, 0, 2, 1]
    assert adapter[0].rows_of(torch.tensor([1, 9])).tolist() == [3, 0]


def test_training_tells_samples_from_each_other(make, make_batch, random):
    """Student and teacher features that are unlike but say the same: the loss falls well below that of chance."""
    teacher = np.repeat(random.randn(8, 6), 2, axis=0)  # 8 classes of 2
    student = teacher @ random.randn(6, 6)
    loss = Crd(layers=ONE, size=16, negatives=32, temperature=0.2)
    teachers, adapter = begin(make, loss, student, teacher, 16)
    optimizer, values = torch.optim.SGD(adapter.parameters(), 0.1, momentum=0.9), []
    for _ in range(60):
        value = loss(make(a=student), teachers, make_batch(16, np.arange(16) // 2), adapter)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert np.mean(values[-5:]) < 0.5 * values[0]


def test_the_same_draws_give_the_same_value(make, make_batch, random):
    s, t = random.randn(4, 3), random.randn(4, 3)
    loss, values = Crd(layers=ONE, size=4, negatives=16), []
    for _ in range(2):
        teachers, adapter = begin(make, loss, s, t, 10)
        values.append(loss(make(a=s), teachers, make_batch(4, [0, 1, 2, 3]), adapter).item())
    assert values[0] == values[1]


def test_a_low_temperature_stays_finite(make, make_batch, random):
    """exp(1 / 0.005) is past float32."""
    s, t = (features.astype(np.float32) for features in (random.randn(3, 4), random.randn(3, 5)))
    loss = Crd(layers=ONE, size=4, temperature=0.005, negatives=8, other="sample")
    torch.manual_seed(0)
    adapter = loss.adapter(make(a=s), (make(b=t),), 10)
    for _ in range(2):
        assert torch.isfinite(loss(make(a=s), (make(b=t),), make_batch(3), adapter))


def test_the_constant_is_that_of_the_first_batch(make, make_batch, random):
    s, t = random.randn(3, 4), random.randn(3, 5)
    loss = Crd(layers=ONE, size=4, negatives=8, other="sample")
    teachers, adapter = begin(make, loss, s, t, 10)
    constants = []
    for _ in range(3):
        loss(make(a=s), teachers, make_batch(3), adapter)
        constants.append(adapter[0].log_z.clone())
    assert constants[0].equal(constants[1])
    assert constants[0].equal(constants[2])
    assert constants[0][0] != constants[0][1]


def test_teachers_are_averaged_each_with_a_memory_and_draws_of_its_own(make, make_batch, random):
    student, teachers = make(a=random.randn(3, 4)), tuple(make(b=random.randn(3, 5)) for _ in range(2))
    loss, batch = Crd(layers=ONE, size=4, negatives=8, other="sample"), make_batch(3)
    torch.manual_seed(0)
    both = loss.adapter(student, teachers, 10).double()
    state = copy.deepcopy(both.state_dict())
    torch.manual_seed(1)
    value = loss(student, teachers, batch, both)
    both.load_state_dict(state)
    torch.manual_seed(1)
    alone = [
        loss(student, (teacher,), batch, torch.nn.ModuleList([part])) for teacher, part in zip(teachers, both, strict=True)
    ]
    torch.testing.assert_close(value, (alone[0] + alone[1]) / 2)
