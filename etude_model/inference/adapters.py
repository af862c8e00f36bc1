"""Several adapters on one model, by name: each row of a batch uses its own.

    adapters = Adapters(model)                  # a plain model; its weights stay as they are
    adapters.load("polite", folder)             # ours or PEFT's; again to replace it
    rows = adapters.rows(["polite", None, "rude"])
    with rows.applied():
        hidden_BTD = model(tokens_BT)           # 3 rows; None is the model without adapter

The updates of a linear are stacked, number 0 being no update at all. A batch takes its rows out of
the stack, and two small products serve them all, as in S-LoRA (Sheng et al. 2023, arXiv
2311.03285). A narrower update is padded with zeros, which adds nothing:

    stack     none  polite(2)  rude(3)          rows polite, none, rude -> numbers 1, 0, 2
    A [N,R,in]  0     a a 0      b b b

`rows` hold on to the stacks that they were made from. So adapters can come and go while others
write: a text that has begun ends with the adapter it began with.

B rows · T tokens of a row · N adapters, none included · R widest rank · I in · O out features
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude_model.config import LoraConfig
from etude_model.model.adapter import Adapter, weights_digest
from etude_model.model.adapter_files import read_adapter
from etude_model.model.lora import SMALLEST, LoraLinear, check_fits, target_linears
from storage.errors import BadInput


@dataclass(frozen=True, slots=True)
class Update:
    """What one adapter does to one linear: y = gain * (x W^T + x A B)."""

    a_IR: Tensor
    b_RO: Tensor
    gain_O: Tensor | None


@dataclass(frozen=True, slots=True)
class Stack:
    """What all adapters do to one linear."""

    a_NIR: Tensor
    b_NRO: Tensor
    gain_NO: Tensor | None

    def apply(self, x_BTI: Tensor, y_BTO: Tensor, rows: AdapterRows) -> Tensor:
        """Return y = x W^T, changed for each row by its adapter."""
        if len(x_BTI) != len(rows):
            raise ValueError(f"{len(x_BTI)} rows, but adapters were chosen for {len(rows)}")
        a_BIR, b_BRO = self.a_NIR[rows.numbers].to(x_BTI), self.b_NRO[rows.numbers].to(x_BTI)
        y_BTO = y_BTO + x_BTI @ a_BIR @ b_BRO
        if self.gain_NO is not None:
            y_BTO = y_BTO * self.gain_NO[rows.numbers].unsqueeze(-2).to(y_BTO)
        return y_BTO


class _Current(threading.local):
    """The rows of the forward pass that runs in this thread."""

    rows: AdapterRows | None = None


class AdaptedLinear(nn.Linear):
    """A linear that asks which adapters its rows use; the weight is that of the plain linear."""

    def __init__(self, base: nn.Linear, name: str, current: _Current) -> None:
        """Take the place of `base`, the linear called `name`."""
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight, self.name, self.current = base.weight, name, current

    def forward(self, x_BTI: Tensor) -> Tensor:
        """Map [B, T, in] to [B, T, out]."""
        y_BTO = F.linear(x_BTI, self.weight)
        rows = self.current.rows
        stack = rows.stacks.get(self.name) if rows is not None and rows.has_any else None
        return y_BTO if rows is None or stack is None else stack.apply(x_BTI, y_BTO, rows)


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """The adapters of a batch's rows, as they were when `Adapters.rows` was called.

    `numbers` are those of the stacks, int64 [B], or one for all rows, which needs no copies.
    """

    stacks: Mapping[str, Stack]
    numbers: Tensor | int
    num_rows: int
    current: _Current

    def __len__(self) -> int:
        return self.num_rows

    @property
    def has_any(self) -> bool:
        """Say whether some row uses an adapter."""
        return isinstance(self.numbers, Tensor) or self.numbers > 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this block the model's forward passes, in this thread, use these adapters."""
        before, self.current.rows = self.current.rows, self
        try:
            yield
        finally:
            self.current.rows = before

    def keep(self, rows: Tensor) -> AdapterRows:
        """Return those rows (int64) alone, in that order."""
        numbers = self.numbers if isinstance(self.numbers, int) else self.numbers[rows]
        return replace(self, numbers=numbers, num_rows=len(rows))


class Adapters:
    """The adapters that are loaded on a model, by name."""

    def __init__(self, model: nn.Module) -> None:
        """Prepare a plain model on its device; without adapters it computes what it did before."""
        if any(isinstance(module, LoraLinear | AdaptedLinear) for module in model.modules()):
            raise BadInput("the model has an adapter already; load its base with merge=False")
        self.model, self._current = model, _Current()
        self._updates: dict[str, dict[str, Update]] = {}
        self._stacks: dict[str, Stack] = {}
        self._numbers: dict[str | None, int] = {None: 0}
        self._base = weights_digest(model.state_dict())
        self._lock = threading.Lock()
        for name, linear in target_linears(model, LoraConfig()).items():
            parent, _, child = name.rpartition(".")
            adapted = AdaptedLinear(linear, name, self._current)
            setattr(model.get_submodule(parent), child, adapted)

    @property
    def names(self) -> list[str]:
        """Return the names of the loaded adapters, in the order they came."""
        return [name for name in self._numbers if name is not None]

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter folder, ours or PEFT's, as `name`; one of that name is replaced."""
        self.add(name, read_adapter(folder))

    def add(self, name: str, adapter: Adapter) -> None:
        """Take up an adapter as `name`; one that was trained on another base is BadInput."""
        check_fits(adapter, self.model, base=self._base)
        linears = target_linears(self.model, adapter.config)
        updates = {module: _update(adapter, module, linears[module]) for module in linears}
        with self._lock:
            self._restack(self._updates | {name: updates})

    def remove(self, name: str) -> None:
        """Forget an adapter; rows that use it already go on with it."""
        with self._lock:
            if name not in self._updates:
                raise BadInput(self._unknown(name))
            self._restack({one: it for one, it in self._updates.items() if one != name})

    def rows(self, names: Sequence[str | None]) -> AdapterRows:
        """Return what `generate` and forward passes need to use these adapters, row by row."""
        with self._lock:
            unknown = [name for name in names if name not in self._numbers]
            if unknown:
                raise BadInput(self._unknown(str(unknown[0])))
            device = next(self.model.parameters()).device
            numbers: Tensor | int = self._numbers[names[0]] if len(set(names)) == 1 else 0
            if len(set(names)) > 1:
                numbers = torch.tensor([self._numbers[name] for name in names], device=device)
            return AdapterRows(self._stacks, numbers, len(names), self._current)

    def _unknown(self, name: str) -> str:
        loaded = ", ".join(self.names) or "none"
        return f"no adapter is called {name!r}; loaded are: {loaded}"

    def _restack(self, updates: dict[str, dict[str, Update]]) -> None:
        modules = dict.fromkeys(module for one in updates.values() for module in one)
        stacks = {
            module: _stack([one.get(module) for one in updates.values()]) for module in modules
        }
        numbers: dict[str | None, int] = {None: 0}
        numbers |= {name: number for number, name in enumerate(updates, start=1)}
        self._updates, self._stacks, self._numbers = updates, stacks, numbers


@torch.no_grad()
def _update(adapter: Adapter, module: str, linear: nn.Linear) -> Update:
    """Return an adapter's update of a linear, with its scale in B, on the linear's device."""
    weight_OI = linear.weight.float()
    a_RI = adapter.tensors[f"{module}.lora_A.weight"].to(weight_OI)
    b_OR = adapter.tensors[f"{module}.lora_B.weight"].to(weight_OI)
    b_OR = b_OR * adapter.config.scale_of(module)
    gain_O = None
    if adapter.config.use_dora:
        lengths_O = (weight_OI + b_OR @ a_RI).norm(dim=1).clamp_min(SMALLEST)
        gain_O = adapter.tensors[f"{module}.lora_magnitude_vector"].to(lengths_O) / lengths_O
    return Update(a_RI.T, b_OR.T, gain_O)


def _stack(updates: Sequence[Update | None]) -> Stack:
    """Stack the updates of one linear behind the one that does nothing."""
    some = next(one for one in updates if one is not None)
    width = max(one.a_IR.shape[1] for one in updates if one is not None)
    num, (num_in, _), num_out = len(updates) + 1, some.a_IR.shape, some.b_RO.shape[1]
    a_NIR = some.a_IR.new_zeros(num, num_in, width)
    b_NRO = some.b_RO.new_zeros(num, width, num_out)
    gain_NO = some.a_IR.new_ones(num, num_out)
    for number, one in enumerate(updates, start=1):
        if one is not None:
            rank = one.a_IR.shape[1]
            a_NIR[number, :, :rank], b_NRO[number, :rank] = one.a_IR, one.b_RO
            if one.gain_O is not None:
                gain_NO[number] = one.gain_O
    has_gain = any(one is not None and one.gain_O is not None for one in updates)
    return Stack(a_NIR, b_NRO, gain_NO if has_gain else None)
