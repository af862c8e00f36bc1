"""Recall and mean reciprocal rank, by hand and against a plain sort."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from etude_model.evaluation.retrieval import (
    alignment_and_uniformity,
    positive_ranks,
    rank_metrics,
    retrieval_metrics,
)


def test_figures_of_a_hand_made_ranking():
    """Catches off-by-one ranks: one query right, one with its positive in second place."""
    queries = torch.eye(3)[:, :3]
    positives = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0.8, 0.6]])
    assert positive_ranks(queries, positives, torch.arange(3)).tolist() == [1, 2, 1]
    figures = retrieval_metrics(queries, positives, torch.arange(3))
    assert figures["recall@1"] == pytest.approx(2 / 3)
    assert figures["recall@10"] == 1.0
    assert figures["mrr@10"] == pytest.approx((1 + 0.5 + 1) / 3)


def test_equals_a_plain_sort(monkeypatch):
    """Catches chunks that lose the place of a query's own positive."""
    monkeypatch.setattr("etude_model.evaluation.retrieval.CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    queries, positives = (F.normalize(torch.randn(30, 8, generator=generator)) for _ in range(2))
    expected = [
        (queries[i] @ positives.T).argsort(descending=True).tolist().index(i) + 1 for i in range(30)
    ]
    assert positive_ranks(queries, positives, torch.arange(30)).tolist() == expected


def test_same_article_is_no_rival():
    """Catches a query blamed for finding another section of its own article."""
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positives = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    assert positive_ranks(queries, positives, torch.tensor([4, 4])).tolist() == [1, 1]
    assert positive_ranks(queries, positives, torch.tensor([4, 5])).tolist() == [2, 2]


def test_collapsed_vectors_do_not_look_perfect():
    """Catches ties that count in favour: all vectors equal must give chance or less."""
    same = F.normalize(torch.ones(20, 4))
    figures = retrieval_metrics(same, same, torch.arange(20))
    assert figures == {"recall@1": 0.0, "recall@5": 0.0, "recall@10": 0.0, "mrr@10": 0.0}


def test_figures_of_groups_add_up():
    """Catches a group's figures taken of another's rows."""
    ranks = torch.tensor([1, 3, 7, 11])
    figures = rank_metrics(ranks, np.array([0, 1, 0, 1]), ["a/en", "b/zh", "none/en"])
    names = ("recall@1", "recall@5", "recall@10", "mrr@10")
    assert [figures[name] for name in names[:3]] == [0.25, 0.5, 0.75]
    assert [figures[f"{name}/a/en"] for name in names[:3]] == [0.5, 0.5, 1.0]
    assert figures["mrr@10/b/zh"] == pytest.approx(1 / 6)
    assert not any("none" in name for name in figures)
    for name in names:
        mean = (figures[f"{name}/a/en"] + figures[f"{name}/b/zh"]) / 2
        assert figures[name] == pytest.approx(mean)


def test_the_page_a_query_stands_on_is_no_rival():
    """Catches a link's sentence blamed for finding the page that it was taken from."""
    queries, positives = torch.eye(3), torch.eye(3)[[1, 0, 2]]
    articles = torch.tensor([5, 6, 7])
    assert positive_ranks(queries, positives, articles).tolist()[0] == 3
    found_on = torch.tensor([6, 6, 7])
    assert positive_ranks(queries, positives, articles, found_on).tolist()[0] == 2


def test_alignment_and_uniformity():
    """Catches distances not squared, and a collapse that looks even."""
    apart = alignment_and_uniformity(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]])
    assert apart["alignment"] == pytest.approx(1.0)  # two of four are sqrt(2) apart
    assert apart["uniformity"] == pytest.approx(-4.0)
    same = torch.ones(5, 1)
    assert alignment_and_uniformity(same, same) == {"alignment": 0.0, "uniformity": 0.0}
