"""Pair batches: one source and language, no article twice where that can be had."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude_model.data.pairs import PairOrder, PairRows, spread_over_groups
from storage.formats.shards import write_shard


def epoch(order: PairOrder, number: int) -> np.ndarray:
    """Return all batches of an epoch, [batches, batch_size]."""
    size = order.batches_per_epoch
    return np.stack([order.batch(n) for n in range(number * size, (number + 1) * size)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(2, 7),
    st.integers(0, 3),
)
def test_every_pair_is_read_in_every_epoch(pairs, batch_size, seed):
    """Catches pairs dropped at group ends, for any sizes of groups and articles."""
    articles, groups = (
        np.unique(column, return_inverse=True)[1] for column in zip(*pairs, strict=True)
    )
    order = PairOrder(articles, groups, batch_size=batch_size, seed=seed)
    for number in range(2):
        batches = epoch(order, number)
        assert batches.shape[1] == batch_size
        assert set(batches.ravel()) == set(range(len(pairs)))
        assert batches.size < len(pairs) + batch_size  # only the last batch is filled up


def test_batches_keep_to_one_group_and_one_pair_per_article():
    """Catches sections of one article as each other's negatives, and mixed sources."""
    generator = np.random.default_rng(0)
    articles = np.sort(generator.integers(0, 200, size=1000))
    groups = generator.integers(0, 2, size=1000)
    order = PairOrder(articles, groups, batch_size=32, seed=5)
    batches = epoch(order, 1)
    assert max(np.bincount(articles[rows]).max() for rows in batches) == 1
    mixed = sum(len(set(groups[rows])) > 1 for rows in batches)
    assert mixed <= 2  # what is left over of the groups


def test_batch_is_a_pure_function_of_its_number():
    """Catches hidden state: a resumed run must see the batches of the uninterrupted one."""
    articles, groups = np.arange(40) // 3, np.arange(40) % 2
    straight = PairOrder(articles, groups, batch_size=8, seed=2)
    batches = [straight.batch(number) for number in range(12)]
    for number in (11, 2, 7):
        fresh = PairOrder(articles, groups, batch_size=8, seed=2)
        assert np.array_equal(fresh.batch(number), batches[number])
    assert not np.array_equal(batches[0], batches[straight.batches_per_epoch])


def test_pairs_come_with_lengths_and_article_numbers(tmp_path):
    """Catches padding counted as text, and articles of two shards mixed up."""
    paths = []
    for number in range(2):
        extra = pa.table(
            {
                "article": ["enwiki:7", f"enwiki:{number}"],
                "source": ["title-lead", "heading-section"],
                "language": ["en", "en"],
            }
        )
        columns = {
            "query": np.array([[9, 3, 3], [9, 9, 3]], dtype=np.uint16),
            "positive": np.array([[8, 8, 8, 3], [8, 3, 3, 3]], dtype=np.uint16),
        }
        paths.append(tmp_path / f"{number}.parquet")
        write_shard(paths[-1], columns, extra, {"format": "pairs", "tokenizer": "t"})
    rows = PairRows(paths)
    assert rows.articles.tolist() == [0, 1, 0, 2]
    assert rows.groups.tolist() == [0, 1, 0, 1]
    batch = rows.batch(np.array([2, 3]))
    assert batch.query_BT.tolist() == [[9, 3], [9, 9]]
    assert batch.positive_lengths_B.tolist() == [3, 1]
    assert batch.articles_B.tolist() == [0, 2]
    assert batch.num_tokens == 7


def test_fewer_pairs_than_a_batch_are_repeated():
    """Catches an endless or empty epoch where the data is tiny."""
    order = PairOrder(np.arange(3), np.zeros(3, dtype=np.int64), batch_size=8, seed=0)
    assert order.batches_per_epoch == 1
    assert sorted(set(order.batch(4))) == [0, 1, 2]
    with pytest.raises(AssertionError):
        PairOrder(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), batch_size=8, seed=0)


def test_an_evaluation_reads_as_much_of_each_group():
    """Catches a small source drowned by a large one, and room that is left unused."""
    groups = np.repeat([0, 1, 2], [100, 3, 50])
    chosen = spread_over_groups(groups, 43)
    assert np.bincount(groups[chosen]).tolist() == [20, 3, 20]
    assert chosen[0] == 0 and 99 in chosen and len(set(chosen)) == 43
    assert np.array_equal(spread_over_groups(groups, 999), np.arange(153))
    assert not len(spread_over_groups(np.zeros(0, dtype=np.int64), 5))
