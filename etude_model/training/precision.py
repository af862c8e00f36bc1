"""config -> the number format of the forward pass, and whether its layers are compiled.

Weights, gradients and optimiser moments are float32; bfloat16 means autocast around the forward
pass only. pure_bfloat16 turns weights and gradients into bfloat16 as well and leaves the float32
weights to the optimiser (training/muon.py), which saves the casts; gradients of several
micro-batches are then added up in 8 bits of precision. The choice asks the hardware and times
nothing, because two runs on one machine must be bit for bit the same. Where a CPU has bfloat16
products it pays: docs/LOG.md has the figures, benchmarks/model_speed.py measures them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from etude_model.config import TrainConfig
from etude_model.model.transformer import Etude
from storage.errors import BadInput


def prepare(model: Etude, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Give the weights the config's number format, and compile the layers if it says so."""
    if config.precision == "pure_bfloat16":
        for parameter in model.parameters():  # buffers, such as the experts' bias, stay as they are
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    if config.compile == "on" or (config.compile == "auto" and device.type == "cuda"):
        compile_blocks(model, config, dtype)


def compile_blocks(model: Etude, config: TrainConfig, dtype: torch.dtype) -> None:
    """Compile each layer by itself, in place; parameter names stay, the loss stays outside.

    All layers have one graph, so it is made once. torch's grouped product for experts can only be
    compiled in half precision: under auto such a model runs as it is, else it is BadInput.
    """
    if model.config.num_experts and dtype == torch.float32:
        if config.compile == "on":
            raise BadInput(
                f"compile=on with num_experts={model.config.num_experts} in float32 is more than "
                "torch can compile; set precision to bfloat16 or compile to off"
            )
        return
    for layer in model.model.layers:
        layer.compile()


def uncompiled(model: Etude) -> AbstractContextManager:
    """Return a context in which compiled layers run as they are: for shapes that come only once."""
    if not is_compiled(model):
        return nullcontext()
    stance: AbstractContextManager = torch.compiler.set_stance("force_eager")
    return stance


def forget_compiled(model: Etude) -> None:
    """Let compiled layers be compiled anew for the shape that comes next.

    Otherwise a second shape makes torch compile for shapes of any size, which is slower code and,
    after a lack of memory, perhaps no smaller one.
    """
    if is_compiled(model):
        torch.compiler.reset()


def is_compiled(model: Etude) -> bool:
    """Return whether the layers run through torch.compile."""
    return any(layer._compiled_call_impl is not None for layer in model.model.layers)
