"""Number formats and compiled layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from etude_model.config import EtudeConfig, TrainConfig
from etude_model.device import autocast, pick_dtype
from etude_model.model.transformer import Etude
from etude_model.training.precision import compile_blocks, forget_compiled, prepare, uncompiled
from etude_model.training.run import build_trainer, read_run
from storage.errors import BadInput

CPU = torch.device("cpu")


def test_dtype_of_a_precision() -> None:
    """Catches a name that gives another format, and auto that depends on more than hardware."""
    assert pick_dtype("float32", CPU) == torch.float32
    assert pick_dtype("bfloat16", CPU) == pick_dtype("pure_bfloat16", CPU) == torch.bfloat16
    assert pick_dtype("auto", CPU) == pick_dtype("auto", CPU)


def test_pure_bfloat16_learns_nearly_as_float32(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    """Catches weights that stay float32, and steps that half precision swallows."""
    losses = {}
    for precision in ("float32", "pure_bfloat16"):
        folder = write_run(tmp_path / precision, "pretrain", num_steps=40, precision=precision)
        trainer = build_trainer(read_run(folder), folder)
        dtypes = {weight.dtype for weight in trainer.model.parameters()}
        assert dtypes == {torch.float32 if precision == "float32" else torch.bfloat16}
        steps = [event["loss"] for event in trainer.events() if event["kind"] == "step"]
        losses[precision] = sum(steps[-5:]) / 5
        assert losses[precision] < 0.7 * steps[0]
    assert losses["pure_bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_experts_in_float32_are_not_compiled(tiny_model_config: EtudeConfig) -> None:
    """Catches a run that dies in torch's compiler a minute after its start."""
    config = EtudeConfig(**tiny_model_config.model_dump() | {"num_experts": 4})
    model = Etude(config)
    with pytest.raises(BadInput, match="num_experts=4"):
        compile_blocks(model, TrainConfig(compile="on"), torch.float32)
    compile_blocks(model, TrainConfig(), torch.float32)
    assert all(layer._compiled_call_impl is None for layer in model.model.layers)


def test_a_cpu_compiles_only_on_request(tiny_model_config: EtudeConfig) -> None:
    """Catches a minute of compiling in every short run, and parameters with other names."""
    model = Etude(tiny_model_config)
    names = [name for name, _ in model.named_parameters()]
    prepare(model, TrainConfig(), CPU, torch.float32)
    assert model.model.layers[0]._compiled_call_impl is None
    prepare(model, TrainConfig(compile="on"), CPU, torch.float32)
    assert model.model.layers[0]._compiled_call_impl is not None
    assert [name for name, _ in model.named_parameters()] == names
    with uncompiled(model):  # no compiler runs here, whatever the shape
        model(torch.zeros(1, 3, dtype=torch.int64))


def test_halved_rows_are_compiled_for_their_own_shape(tiny_model_config: EtudeConfig) -> None:
    """Catches layers that run on, after a lack of memory, as code for rows of any number."""
    torch._dynamo.reset()
    shapes: list[tuple[int | torch.SymInt, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        shapes.extend(one.shape for one in inputs if one.ndim == 3 and one.shape[-1] == 32)
        return graph

    model = Etude(tiny_model_config)
    forget_compiled(model)  # nothing to forget, and no compiler imported for it
    for layer in model.model.layers:
        layer.compile(backend=backend)
    for num_rows in (4, 2):
        model(torch.zeros(num_rows, 8, dtype=torch.int64))
        forget_compiled(model)
    assert [tuple(shape) for shape in shapes] == [(4, 8, 32), (2, 8, 32)]
    assert all(isinstance(number, int) for shape in shapes for number in shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "num_experts"), [(torch.float32, 0), (torch.bfloat16, 0), (torch.bfloat16, 4)]
)
def test_compiled_equals_eager(
    tiny_model_config: EtudeConfig, dtype: torch.dtype, num_experts: int
) -> None:
    """Catches a block whose compiled form computes something else, and graph breaks."""
    torch.manual_seed(0)
    config = EtudeConfig(**tiny_model_config.model_dump() | {"num_experts": num_experts})
    models = [Etude(config) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_blocks(models[1], TrainConfig(compile="on"), dtype)
    tokens, targets = torch.randint(300, (2, 4, 32))
    results = []
    for model in models:
        with autocast(CPU, dtype), torch._dynamo.config.patch(error_on_recompile=True):
            nats, count = model.loss(model(tokens), targets)
        (nats / count).backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        results.append({"nats": nats.detach(), **gradients})
    for name, one in results[0].items():
        tolerance = 1e-4 if dtype == torch.float32 else 0.03
        if "mlp.gate.weight" in name or "mlp.experts" in name:
            tolerance = 0.3  # by rounding, a token between two experts goes to the other one
        assert (one - results[1][name]).norm() <= tolerance * one.norm(), name
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
