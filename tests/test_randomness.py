"""Order and draws are whole-number arithmetic, the same on every machine: a change of them is a new VERSION of training."""

import numpy as np

from compress_cli import randomness
from compress_cli.training import loop

ORDERS = {1: {(0, 1): [3, 8, 7, 9, 6, 5, 2, 1, 0, 4], (7, 3): [3, 7, 8, 5, 2, 6, 1, 4, 9, 0]}}  # by training.VERSION
DRAWS = {1: [[97968, 44752, 812041], [704231, 985684, 281612]]}  # millionths, of samples 5 and 1000 in epoch 3 of seed 7


def test_orders_and_draws_change_only_with_the_version():
    for (seed, epoch), expected in ORDERS[loop.VERSION].items():
        assert randomness.order(seed, epoch, np.arange(10)).tolist() == expected
    drawn = randomness.draws(7, 3, np.array([5, 1000]), 3)
    assert np.floor(drawn * 1e6).astype(int).tolist() == DRAWS[loop.VERSION]
