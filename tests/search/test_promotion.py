"""Which trials go on from a rung: checked on cases worked out by hand."""

import itertools

import pytest

from compress_cli.search.promotion import Standing, promoted, ranked, rung_epochs


def test_rungs_are_epochs_before_the_last():
    assert rung_epochs((0.25, 0.5), 20) == (5, 10)
    assert rung_epochs((0.25, 0.5), 3) == (1, 2)
    assert rung_epochs((0.25, 0.5), 2) == (1,)
    assert rung_epochs((0.25, 0.5), 1) == ()


def test_the_better_half_goes_on_as_others_come():
    losses = [0.5, 0.4, 0.3, 0.6]
    after = [promoted({number: Standing(loss) for number, loss in enumerate(losses[:count])}, 0.5) for count in range(1, 5)]
    assert after == [set(), {1}, {2}, {1, 2}]
    assert promoted({0: Standing(0.5)}, 0.5, at_least=1) == {0}


def test_a_smaller_file_with_a_worse_metric_is_as_good_as_a_larger_one_with_a_better():
    standings = {
        0: Standing(0.1, 100),
        1: Standing(0.2, 50),
        2: Standing(0.2, 100),
        3: Standing(0.3, 60),
        4: Standing(0.3, 200),
    }
    # dominated by: 0 none, 1 none, 2 by 0 and 1, 3 by 1, 4 by all others
    assert ranked(standings) == [0, 1, 3, 2, 4]


def test_what_breaks_its_promise_about_size_comes_after_what_keeps_it():
    standings = {0: Standing(0.1, 100, excess=0.5), 1: Standing(0.4, 60), 2: Standing(0.0, 300, excess=2.0)}
    assert ranked(standings) == [1, 0, 2]


@pytest.mark.parametrize("size", [None, 1.0])
def test_no_two_trials_dominate_each_other_and_none_itself(size):
    standings = [
        Standing(loss / 2, size and size * width, excess)
        for loss, width, excess in itertools.product(range(3), range(3), (0, 1))
    ]
    for one, other in itertools.product(standings, standings):
        assert not (one.dominates(other) and other.dominates(one))
