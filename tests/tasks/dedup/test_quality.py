"""Signals of quality: each is what its name says."""

from __future__ import annotations

import pytest

from tasks.dedup.quality import measure


def test_english() -> None:
    """Would catch a share of the wrong whole: of all characters, of words, of lines with blanks."""
    text = "# Ab\n\nthe cat the 12\n- a dog\n  1. the end!"
    quality = measure(text, language="en", num_links=3, num_refs=2, flags=["featured", "math"])
    visible = len("".join(text.split()))
    assert quality.alpha_ratio == pytest.approx(sum(map(str.isalpha, text)) / visible)
    assert quality.digit_ratio == pytest.approx(3 / visible)
    assert quality.link_density == pytest.approx(3 / len(text) * 1000)
    assert quality.list_line_ratio == 0.5
    assert quality.mean_line_length == pytest.approx((4 + 14 + 7 + 13) / 4)
    assert quality.unique_word_ratio == pytest.approx(8 / 10)
    assert quality.refs_per_kb == pytest.approx(2 / len(text) * 1000)
    assert quality.is_featured and not quality.is_maintenance


def test_chinese_is_not_poor() -> None:
    """Would catch filters of English: no spaces, so one word, few words, hardly a letter."""
    text = "数学是研究数量、结构以及空间等概念的学科。" * 3
    quality = measure(text, language="zh", num_links=0)
    assert quality.alpha_ratio > 0.9 and 0.2 < quality.unique_word_ratio < 0.5
    assert quality.refs_per_kb is None


@pytest.mark.parametrize("text", ["", " \n ", "\U000e0001\U0001f600", "١٢ क्षत्रिय"])
def test_any_text(text: str) -> None:
    """Would catch a division by nothing, and characters past the table of classes."""
    quality = measure(text, language="en", num_links=0)
    assert 0 <= quality.alpha_ratio <= 1 and 0 <= quality.digit_ratio <= 1
