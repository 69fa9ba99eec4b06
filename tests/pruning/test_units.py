"""Units of channels under grouped layers and shuffles, reckoned by hand."""

from compress_cli.pruning.units import Grouped, Shuffled, units


def grouped(count, groups):
    return Grouped(tuple((channel, channel) for channel in range(count)), groups)


def shuffle(count, groups):
    """As the layer behind it sees the channels: position -> channel."""
    return tuple((position, position % groups * (count // groups) + position // groups) for position in range(count))


def members(result):
    return [[channel for channel, unit in enumerate(result.owner) if unit == number] for number in range(result.count)]


def test_every_channel_alone_where_nothing_is_grouped():
    assert members(units(3, [])) == [[0], [1], [2]]


def test_the_same_place_in_every_group():
    assert members(units(6, [grouped(6, 2)])) == [[0, 3], [1, 4], [2, 5]]
    assert members(units(12, [grouped(12, 2), grouped(12, 3)])) == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]


def test_places_that_line_up_behind_a_shuffle():
    """Nine channels a group: the shuffle deals 0 9 18 | 1 10 19 | ..., and the next groups begin at 0, 3 and 6."""
    order = shuffle(27, 3)
    result = units(27, [Shuffled(order, 3), Grouped(order, 3)])
    assert members(result) == [list(range(first, 27, 3)) for first in range(3)]
    assert (result.size, result.fixed) == (9, 0)


def test_places_that_do_not_line_up_are_balanced_and_the_rest_remains():
    """Twenty channels a group: rows 0 to 5 of three go to the first group behind it, row 6 lies across two."""
    order = shuffle(60, 3)
    result = units(60, [Shuffled(order, 3), Grouped(order, 3)])
    assert (result.count, result.size, result.fixed) == (6, 9, 6)
    assert members(result)[0] == [0, 7, 14, 20, 27, 34, 40, 47, 54]
    assert [channel % 20 for channel, unit in enumerate(result.owner) if unit is None] == [6, 13] * 3


def test_no_unit_where_a_group_has_no_row_of_its_own():
    order = shuffle(12, 3)  # four rows of three, for groups of four
    assert units(12, [Shuffled(order, 3), Grouped(order, 3)]) == (
        "layers in different numbers of groups read it, behind a channel shuffle"
    )
