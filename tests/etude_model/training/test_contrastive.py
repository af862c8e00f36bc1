"""InfoNCE: symmetric, blind to pairs of the same article, and exact in micro-batches."""

from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from etude_model.config import SemanticConfig
from etude_model.inference.embed import embed
from etude_model.model.transformer import Etude
from etude_model.training.contrastive import cached_losses, info_nce, matryoshka_info_nce
from etude_model.training.pair_objective import check_bidirectional


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


def test_the_page_of_a_link_is_no_negative_either():
    """Catches a sentence pushed away from the lead of the page that it stands on."""
    articles, found_on = torch.tensor([1, 2, 3]), torch.tensor([2, 2, 3])
    scores = (vectors(3, 5, 2) @ vectors(3, 5, 3).T).detach().requires_grad_()
    loss = info_nce(scores, torch.eye(3), articles, temperature=0.1, query_articles_B=found_on)
    loss.backward()
    assert scores.grad[0, 1] == 0  # the query of pair 0 stands on article 2
    assert scores.grad[1, 0] != 0 and scores.grad[0, 2] != 0


def test_micro_batches_add_up_to_the_whole_batch(tiny_model_config):
    """Catches a cached gradient applied to the wrong rows, and a loss counted twice."""
    torch.manual_seed(0)
    model = Etude(tiny_model_config).train()
    generator = torch.Generator().manual_seed(1)
    tokens_2BT = torch.randint(16, 300, (2, 12, 7), generator=generator)
    lengths_2B = torch.randint(2, 8, (2, 12), generator=generator)
    articles_B = torch.arange(12) // 2

    def encode(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = zip(tokens_2BT, lengths_2B, strict=True)
        query, positive = (embed(model, tokens[rows], lengths[rows]) for tokens, lengths in pairs)
        return query, positive

    def loss_of(query: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        return matryoshka_info_nce(query, positive, articles_B, temperature=0.05, dims=(8,))

    results = []
    for borders in ((0, 12), (0, 5, 10, 12), tuple(range(13))):
        model.zero_grad()
        encoders = [partial(encode, slice(a, b)) for a, b in pairwise(borders)]
        total = 0.0
        for value in cached_losses(encoders, loss_of, num_rows=12):
            value.backward()
            total += value.item()
        results.append((total, [weight.grad.clone() for weight in model.parameters()]))
    for total, gradients in results[1:]:
        assert abs(total - results[0][0]) < 1e-5
        for gradient, expected in zip(gradients, results[0][1], strict=True):
            assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    assert max(gradient.abs().max() for gradient in results[0][1]) > 0.01


def test_a_causal_embedding_is_noticed(tiny_model_config):
    """Catches what gritlm issues 41 and 74 tell of: bidirectional attention quietly lost."""

    class Causal(Etude):
        def forward(self, tokens_BT, *, is_causal=True, **more):
            return super().forward(tokens_BT, is_causal=True, **more)

    check_bidirectional(Etude(tiny_model_config))
    with pytest.raises(AssertionError, match="causal"):
        check_bidirectional(Causal(tiny_model_config))


def test_pairs_of_other_sources_are_no_negatives():
    """Catches a mixed batch in which a Chinese text is told from an English one by its script."""
    scores = (vectors(4, 5, 2) @ vectors(4, 5, 3).T).detach().requires_grad_()
    groups = torch.tensor([0, 1, 0, 1])
    info_nce(scores, torch.eye(4), torch.arange(4), temperature=0.1, groups_B=groups).backward()
    is_other = groups[:, None] != groups[None, :]
    assert (scores.grad[is_other] == 0).all() and (scores.grad[~is_other] != 0).all()


def test_the_temperature_follows_the_batch():
    """Catches a rule that overrules what the config says."""
    assert SemanticConfig(pair_batch_size=512).pair_temperature == 0.05
    assert SemanticConfig(pair_batch_size=2048).pair_temperature == 0.02
    assert SemanticConfig(pair_batch_size=2048, temperature=0.07).pair_temperature == 0.07
