"""The order of rows: a pure function of (seed, position)."""

import numpy as np

from etude_model.data.order import RowOrder


def test_every_epoch_reads_every_row_once():
    """Catches an order that loses the rows at an epoch's end (litgpt#1712 reads them for ever)."""
    order = RowOrder(7, seed=3)
    read = order.take(0, 21).reshape(3, 7)
    assert [sorted(epoch) for epoch in read] == [list(range(7))] * 3
    assert len({tuple(epoch) for epoch in read}) == 3


def test_batch_does_not_depend_on_what_was_read_before():
    """Catches hidden state: batch n from a fresh order equals batch n after all those before."""
    straight = RowOrder(5, seed=1)
    batches = [straight.take(start, 4) for start in range(0, 40, 4)]
    for number in (9, 3, 0, 7):
        assert np.array_equal(RowOrder(5, seed=1).take(number * 4, 4), batches[number])
        assert np.array_equal(straight.take(number * 4, 4), batches[number])


def test_seed_changes_the_order_and_large_counts_span_epochs():
    """Catches a seed that is not used, and a batch larger than the data."""
    assert not np.array_equal(RowOrder(50, seed=1).take(0, 50), RowOrder(50, seed=2).take(0, 50))
    assert np.array_equal(np.bincount(RowOrder(3, seed=0).take(0, 9)), [3, 3, 3])
