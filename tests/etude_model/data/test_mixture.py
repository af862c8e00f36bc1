"""Language mixture: shares by size to a power, a pure function of the position, no repeats."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude_model.data.mixture import ROUND, MixtureOrder


def mixture(alpha: float, seed: int = 3) -> MixtureOrder:
    """Return a mix of 900 English rows and 100 Chinese ones that are half empty."""
    languages = np.array(["en"] * 900 + ["zh"] * 100, dtype=object)
    tokens = np.where(languages == "en", 64, 32)
    return MixtureOrder(languages, tokens, alpha=alpha, seed=seed)


@pytest.mark.parametrize(
    ("alpha", "share"), [(1.0, 3200 / 60800), (0.5, 1 / (1 + 18**0.5)), (0.0, 0.5)]
)
def test_languages_share_the_tokens(alpha, share):
    """Catches rows counted for tokens, and a power taken of the wrong thing."""
    rows = mixture(alpha).take(0, 5 * ROUND)
    zh = 32 * (rows >= 900).sum()
    assert zh / (zh + 64 * (rows < 900).sum()) == pytest.approx(share, abs=0.003)


def test_no_row_comes_twice_in_a_language_epoch():
    """Catches epochs that begin anew with every round or batch."""
    rows = mixture(0.5).take(0, 6 * ROUND)
    for first, number in ((0, 900), (900, 100)):
        own = rows[(rows >= first) & (rows < first + number)]
        for start in range(0, len(own) - number, number):
            assert len(set(own[start : start + number])) == number
    zh = rows[rows >= 900]
    assert not np.array_equal(zh[:100], zh[100:200])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10 * ROUND), st.integers(1, 3 * ROUND), st.sampled_from([0.0, 0.3, 0.5]))
def test_rows_are_a_pure_function_of_their_place(start, count, alpha):
    """Catches state that a resume, or another batch size, would not have."""
    straight = mixture(alpha)
    line = straight.take(0, start + count)[start:]
    assert np.array_equal(mixture(alpha).take(start, count), line)


def test_many_small_languages_are_all_there():
    """Catches a language rounded away."""
    languages = np.repeat([f"l{number}" for number in range(30)], [10_000] + [1] * 29)
    order = MixtureOrder(languages, np.full(len(languages), 9), alpha=1.0, seed=0)
    assert order.places.min() >= 1 and order.places.sum() == ROUND
    assert len(set(languages[order.take(0, ROUND)])) == 30
