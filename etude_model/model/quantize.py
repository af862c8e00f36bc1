"""A LoRA model on a GPU -> the same with the weights beside its updates in 4 bits.

QLoRA (Dettmers et al. 2023, arXiv 2305.14314): sixteen levels that suit normal weights (nf4), one
scale per 64 numbers, and the scales themselves in 8 bits: about 4.13 bits per number. Gradients
flow through to the updates; the base stays as it is. Embeddings, norms, routers and routed experts
keep their numbers. An adapter that was trained so goes with the full weights too.

    pip install 'etude[qlora]'
    etude stage lora RECIPE lora.quantization=nf4
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etude_model.model.lora import LoraLinear
from storage.errors import BadInput


class NF4Weight:
    """The matrix [out, in] of a linear in 4 bits."""

    def __init__(self, weight: Tensor) -> None:
        """Quantise a weight; products come out in its dtype."""
        self._library = _bitsandbytes()
        self.packed, self._state = self._library.functional.quantize_4bit(
            weight, quant_type="nf4", compress_statistics=True
        )

    def multiply(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out], in the dtype of x or of the autocast around."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        product: Tensor = self._library.matmul_4bit(x, self.packed.t(), quant_state=self._state)
        return product

    def dequantized(self) -> Tensor:
        """Return the matrix [out, in] that the 4 bits stand for."""
        weight: Tensor = self._library.functional.dequantize_4bit(self.packed, self._state)
        return weight


def quantize_base(model: nn.Module, dtype: torch.dtype) -> None:
    """Put the frozen weights beside fresh updates into 4 bits; `dtype` is that of the products."""
    linears = [module for module in model.modules() if isinstance(module, LoraLinear)]
    device = linears[0].weight.device
    if device.type != "cuda":
        raise BadInput(
            f"quantization=nf4 needs a GPU and this run is on {device}; set quantization=none, the "
            "model is small enough for that"
        )
    for linear in linears:
        linear.freeze(NF4Weight(linear.weight.detach().to(dtype)))


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise BadInput(
            "quantization=nf4 needs bitsandbytes; pip install 'etude[qlora]', or set "
            "quantization=none"
        ) from error
    return bitsandbytes
