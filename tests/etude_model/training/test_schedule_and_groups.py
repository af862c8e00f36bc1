"""The learning rate as a function of the step, and AdamW's parameter groups."""

import math

import pytest
import torch
from torch import nn

from etude_model.config import PretrainConfig, TrainConfig, preset, rule_learning_rate
from etude_model.training.optimizer import build_optimizer, learning_rate, parameter_groups
from etude_model.training.run import build_trainer, read_run


def config(**values) -> TrainConfig:
    """Return a config of ten steps, two of them warm-up, with a floor of a tenth."""
    fixed = {"num_steps": 10, "warmup_steps": 2, "learning_rate": 1.0}
    return TrainConfig(**fixed, min_learning_rate_ratio=0.1, **values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"schedule": "constant"}, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (
            {"schedule": "wsd", "decay_share": 0.3},
            [0.5, 1, 1, 1, 1, 1, 1, 0.7, 0.4, 0.1],
        ),
        ({"schedule": "linear"}, [0.5, 1, *(1 - 0.9 * k / 8 for k in range(1, 9))]),
        (
            {"schedule": "cosine"},
            [0.5, 1, *(0.1 + 0.45 * (1 + math.cos(math.pi * k / 8)) for k in range(1, 9))],
        ),
    ],
)
def test_schedule_table(values, expected):
    """Catches off-by-one steps: warm-up that starts at 0, a decay that never reaches its floor."""
    rates = [learning_rate(step, config(**values)) for step in range(10)]
    assert rates == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [  # the rule's own batch for each size, within the rounding of the batch to whole rows
        ("nano", 48, 0.008),  # the bound; the rule says 0.012
        ("micro", 96, 0.006),
        ("mini", 125, 0.0038),
        ("small", 128, 0.0026),
        ("medium", 320, 0.0017),
        ("large", 632, 0.0012),
        ("nano", 8, 0.0049),  # a sixth of the rows: about 0.4 of 0.012
    ],
)
def test_rule_for_the_learning_rate(name: str, rows: int, expected: float):
    """Catches a rule that counts embeddings or idle experts, or forgets the batch."""
    model = preset(name)
    rate = rule_learning_rate(model, rows * model.context_length)
    assert rate == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("given", (None, 0.5))
def test_a_run_takes_the_rule_unless_it_is_told(given, write_run, tiny_model_config, tmp_path):
    """Catches one fixed rate for all sizes, and the rule for a preset that is not trained."""
    assert PretrainConfig().learning_rate is None
    run_dir = write_run(tmp_path / "run", "pretrain", num_steps=4, learning_rate=given)
    start, *events = build_trainer(read_run(run_dir), run_dir).events()
    num_tokens = 8 * tiny_model_config.context_length
    expected = given or rule_learning_rate(tiny_model_config, num_tokens)
    rates = [event["learning_rate"] for event in events if event["kind"] == "step"]
    assert start["learning_rate"] == max(rates) == expected
    why = "as configured" if given else f"by the rule for this model and {num_tokens} tokens a step"
    assert start["description"].endswith(f"learning rate {expected:.3g} {why}")


def test_schedule_without_warmup_or_with_nothing_else():
    """Catches divisions by zero at the edges of the schedule."""
    assert learning_rate(0, TrainConfig(num_steps=1, warmup_steps=0, learning_rate=1.0)) <= 1.0
    all_warm = TrainConfig(num_steps=4, warmup_steps=4, learning_rate=1.0, decay_share=1.0)
    assert [learning_rate(s, all_warm) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]


class Tied(nn.Module):
    """A matrix, a norm, and an embedding that is also the output matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(5, 4)
        self.block = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4, bias=False)
        self.lm_head = nn.Linear(4, 5, bias=False)
        self.lm_head.weight = self.embed_tokens.weight


def test_groups_cover_every_trainable_parameter_once():
    """Catches a tied weight that gets two updates, and decay on embeddings or norms."""
    model = Tied()
    decayed, kept = parameter_groups(model, weight_decay=0.3)
    assert [p is model.block.weight for p in decayed["params"]] == [True]
    assert {id(p) for p in kept["params"]} == {id(model.embed_tokens.weight), id(model.norm.weight)}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    model.block.weight.requires_grad_(False)
    assert len(parameter_groups(model, weight_decay=0.3)) == 1


def test_groups_of_a_real_model(tiny_model_config):
    """Catches parameter names that the rule does not know."""
    from etude_model.model.transformer import Etude

    model = Etude(tiny_model_config)
    groups = parameter_groups(model, weight_decay=0.1)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert all(p.ndim == 2 for p in groups[0]["params"])
    assert id(model.model.embed_tokens.weight) not in {id(p) for p in groups[0]["params"]}


def test_fused_adamw_equals_the_plain_one():
    """Catches a fused kernel that computes something else on this machine."""
    models = [Tied(), Tied()]
    models[1].load_state_dict(models[0].state_dict())
    fused = build_optimizer(models[0], config())
    groups = parameter_groups(models[1], weight_decay=config().weight_decay)
    plain = torch.optim.AdamW(groups, lr=1.0, betas=config().betas, foreach=False)
    for step in range(3):
        for model, optimizer in zip(models, (fused, plain), strict=True):
            torch.manual_seed(step)
            hidden = model.norm(model.block(model.embed_tokens(torch.tensor([1, 2]))))
            model.lm_head(hidden).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
