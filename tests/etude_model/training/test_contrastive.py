"""InfoNCE: symmetric, and blind to pairs of the same article."""

import torch
import torch.nn.functional as F

from etude_model.training.contrastive import info_nce, matryoshka_info_nce


def vectors(rows: int, width: int, seed: int) -> torch.Tensor:
    """Return random unit vectors that take gradients."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator), dim=1).requires_grad_()


def test_equals_the_textbook_sum():
    """Catches a forgotten temperature, direction, or diagonal."""
    query, positive = vectors(4, 6, 0), vectors(4, 6, 1)
    loss = info_nce(query, positive, torch.arange(4), temperature=0.5)
    expected = 0.0
    for i in range(4):
        for own, others in ((query[i], positive), (positive[i], query)):
            scores = torch.stack([own @ other / 0.5 for other in others]).exp()
            expected = expected - (scores[i] / scores.sum()).log() / 8
    assert torch.allclose(loss, expected, atol=1e-6)


def test_same_article_negatives_get_no_gradient():
    """Catches sections of one article being pushed apart: row 1 must not see row 0's article."""
    articles = torch.tensor([7, 7, 8])
    query, positive = vectors(3, 5, 2), vectors(3, 5, 3)
    scores = (query @ positive.T).detach().requires_grad_()
    eye = torch.eye(3)
    # Scores enter through products with unit rows, so the loss is a function of scores alone.
    info_nce(scores, eye, articles, temperature=0.1).backward()
    assert scores.grad[0, 1] == scores.grad[1, 0] == 0
    assert (scores.grad[torch.tensor([0, 1, 2]), torch.tensor([2, 2, 0])] != 0).all()
    assert (scores.grad.diagonal() < 0).all()


def test_symmetric_in_queries_and_positives():
    """Catches a loss that only ranks in one direction."""
    query, positive, articles = vectors(5, 4, 4), vectors(5, 4, 5), torch.tensor([0, 1, 1, 2, 3])
    one = info_nce(query, positive, articles, temperature=0.05)
    other = info_nce(positive, query, articles, temperature=0.05)
    assert torch.allclose(one, other)


def test_matryoshka_is_the_mean_over_renormalised_prefixes():
    """Catches prefixes that are not brought back to unit length."""
    query, positive, articles = vectors(4, 6, 6), vectors(4, 6, 7), torch.arange(4)
    loss = matryoshka_info_nce(query, positive, articles, temperature=0.1, dims=(2, 99))
    short = [F.normalize(side[:, :2], dim=1) for side in (query, positive)]
    expected = (
        info_nce(query, positive, articles, temperature=0.1)
        + info_nce(*short, articles, temperature=0.1)
    ) / 2
    assert torch.allclose(loss, expected, atol=1e-6)
