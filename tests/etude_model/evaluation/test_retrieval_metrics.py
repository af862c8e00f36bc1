"""Recall and mean reciprocal rank, by hand and against a plain sort."""

import pytest
import torch
import torch.nn.functional as F

from etude_model.evaluation.retrieval import positive_ranks, retrieval_metrics


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
    assert figures == {"recall@1": 0.0, "recall@10": 0.0, "mrr@10": 0.0}
