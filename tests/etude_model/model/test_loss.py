"""The chunked loss against torch's own on all logits at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from etude_model.model.loss import chunked_cross_entropy


@pytest.mark.parametrize("num_ignored", [0, 9, 30])
@pytest.mark.parametrize("chunk_logits", [1, 7 * 53, 1 << 20])
def test_equals_full_cross_entropy(num_ignored: int, chunk_logits: int) -> None:
    """Catches a lost last chunk, a wrong gradient, and ignored targets that still count."""
    torch.manual_seed(0)
    hidden = torch.randn(30, 16, requires_grad=True)
    weight = torch.randn(53, 16, requires_grad=True)
    targets = torch.randint(53, (30,))
    targets[torch.randperm(30)[:num_ignored]] = -100
    nats, count = chunked_cross_entropy(hidden, weight, targets, chunk_logits)
    found = torch.autograd.grad(nats * 0.25, (hidden, weight))
    full = F.cross_entropy(hidden @ weight.T, targets, reduction="sum", ignore_index=-100)
    expected = torch.autograd.grad(full * 0.25, (hidden, weight))
    assert int(count) == 30 - num_ignored
    torch.testing.assert_close(nats, full, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_batch_without_targets_is_zero_not_nan() -> None:
    """Catches a division or a missing graph where a micro-batch is all padding."""
    hidden = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(11, 8, requires_grad=True)
    nats, count = chunked_cross_entropy(hidden, weight, torch.full((4,), -100))
    nats.backward()
    assert nats.item() == 0 and count.item() == 0
    for gradient in (hidden.grad, weight.grad):
        assert gradient is not None and not gradient.any()


def test_only_wanted_gradients_are_made() -> None:
    """Catches work for a frozen output matrix, and any gradient work in evaluation."""
    hidden = torch.randn(4, 8, requires_grad=True)
    weight, targets = torch.randn(11, 8), torch.arange(4)
    nats, _ = chunked_cross_entropy(hidden, weight, targets)
    nats.backward()
    assert weight.grad is None and hidden.grad is not None
    with torch.no_grad():
        quiet, _ = chunked_cross_entropy(hidden, weight.requires_grad_(), targets)
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, nats.detach())


def test_token_weighted_micro_batches_give_the_whole_gradient() -> None:
    """Catches a mean where a sum is promised: ragged micro-batches must add up."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 8), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(11, (20,))
    targets[3:9] = -100
    whole = torch.autograd.grad(chunked_cross_entropy(hidden, weight, targets)[0], weight)[0]
    parts = [
        torch.autograd.grad(chunked_cross_entropy(hidden[s], weight, targets[s])[0], weight)[0]
        for s in (slice(0, 10), slice(10, 20))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_half_precision_is_near_the_truth(scale: float) -> None:
    """Catches likely targets whose loss and gradient vanish: bfloat16 has 1.0 after 0.996."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(64, 16) * scale / 4, torch.randn(53, 16)
    hidden, weight = (x.bfloat16().requires_grad_() for x in (hidden, weight))
    targets = torch.randint(53, (64,))
    targets[:32] = (hidden @ weight.T).argmax(-1)[:32]  # half of them are sure
    nats, _ = chunked_cross_entropy(hidden, weight, targets, 7 * 53)
    found = torch.autograd.grad(nats, (hidden, weight))
    logits = (hidden @ weight.T).float()  # rounded as ours are, then exact
    full = F.cross_entropy(logits, targets, reduction="sum")
    expected = torch.autograd.grad(full, (hidden, weight))
    torch.testing.assert_close(nats, full, rtol=2e-3, atol=0)
    for ours, theirs in zip(found, expected, strict=True):
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert error < 0.01
    sure = F.cross_entropy(logits[:32], targets[:32], reduction="sum")
    likely, _ = chunked_cross_entropy(hidden[:32], weight, targets[:32])
    torch.testing.assert_close(likely, sure, rtol=0.02, atol=1e-3)


def test_evaluation_counts_hopeless_targets_in_full() -> None:
    """Catches the bound of training (87 nats a target) in a figure that is reported."""
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [200.0]])
    with torch.no_grad():
        nats, _ = chunked_cross_entropy(hidden, weight, torch.tensor([0]))
    assert nats.item() == 200
    nats, _ = chunked_cross_entropy(hidden, weight.requires_grad_(), torch.tensor([0]))
    nats.backward()
    assert 87 < nats.item() < 88 and weight.grad is not None
    assert weight.grad.flatten().tolist() == [-1.0, 1.0]


def test_all_logits_never_live_at_once() -> None:
    """Catches a chunk that is kept: 64 chunks may not hold more than a few at a time."""
    num_rows, num_ids = 64 * 16, 2048
    hidden = torch.randn(num_rows, 8, requires_grad=True)
    weight = torch.randn(num_ids, 8, requires_grad=True)
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            for one in found if isinstance(found, tuple | list) else (found,):
                if isinstance(one, torch.Tensor):
                    largest = max(largest, one.untyped_storage().nbytes())
            return found

    with Sizes():
        nats, _ = chunked_cross_entropy(hidden, weight, torch.arange(num_rows), 16 * num_ids)
        nats.backward()
    assert largest == 16 * num_ids * 4
