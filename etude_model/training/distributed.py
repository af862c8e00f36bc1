"""torchrun's processes -> one training: who computes which rows, and what they add up.

Each rank takes its slice of every global batch, cut into as many micro-batches as the others cut
theirs. A loss is divided by the targets of the whole batch, and gradients are summed, not averaged:
so any number of ranks makes the same steps, up to the order of the additions.

    global batch of step n     0  1  2  3  4 | 5  6  7  8  9        2 ranks, 2 rows at once
    micro-batches              0 | 1  2 | 3 4   5 | 6  7 | 8 9
    gradient                   sum over micro-batches, then over ranks

    replicate   whole weights on each rank; gradients are summed once, at the end of a step
    shard       FSDP2: a rank keeps 1/N of weights, gradients and moments, and borrows the rest of
                a block while it computes it (Rajbhandari et al. 2020, arXiv 1910.02054)

What a rank yields is its share: loss, gradient and figures of a step are sums over the ranks. With
one process there is no group, and each method here gives back what it got.

Try, with run.json in RUN_DIR/logs:
    python -m torch.distributed.run --standalone --nproc-per-node 2 -m etude_model.training RUN_DIR
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude_model.device import pick_device
from etude_model.model.transformer import Etude
from storage.errors import BadInput

T = TypeVar("T")
Number = TypeVar("Number", int, float)
BUCKET_NUMBERS = 1 << 24  # of gradients that are summed in one call
BYTES_PER_PARAMETER = 16  # float32 weight, gradient and two moments


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that train the model; the default is one process alone."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Return whether this process is the one that writes files."""
        return self.rank == 0

    # Rows

    def share(self, num_rows: int) -> slice:
        """Return which of a global batch's rows are this rank's; shares differ by one at most."""
        return slice(num_rows * self.rank // self.size, num_rows * (self.rank + 1) // self.size)

    def micro_batches(self, num_rows: int, size: int | None) -> list[slice]:
        """Cut this rank's share of a global batch into parts of about `size` rows.

        Every rank gets the same number of parts, for sharded weights are borrowed from all at
        once, and none is empty; where shares are uneven a part may have a row more than `size`.
        """
        if num_rows < self.size:
            raise BadInput(
                f"a batch of {num_rows} rows cannot be shared out among {self.size} processes; "
                f"set batch_size and pair_batch_size to at least {self.size}"
            )
        own, largest = self.share(num_rows), -(-num_rows // self.size)
        parts = min(-(-largest // (size or largest)), num_rows // self.size)
        count = own.stop - own.start
        borders = [own.start + count * part // parts for part in range(parts + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(borders)]

    # Sums

    def total(self, number: Number) -> Number:
        """Return the sum of a number over the ranks, of the type it has."""
        if self.size == 1:
            return number
        return type(number)(self._sum(torch.tensor(number, dtype=torch.float64)).item())

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank: all of them do the same then."""
        return self.total(int(flag)) > 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over the ranks, not differentiable."""
        return tensor if self.size == 1 else self._sum(tensor.detach().clone())

    def add_up(self, figures: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Return the sums of named scalars over the ranks, in one exchange."""
        numbers = torch.stack(
            [torch.as_tensor(value, dtype=torch.float64).cpu() for value in figures.values()]
        )
        return dict(zip(figures, self.sum(numbers).tolist(), strict=True))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make every gradient the sum over the ranks; those of sharded weights are so already."""
        if self.size == 1:
            return
        gradients = [
            parameter.grad
            for parameter in parameters
            if parameter.grad is not None and not is_sharded(parameter)
        ]
        for bucket in _buckets(gradients):
            summed = self._sum(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, part in zip(
                bucket, summed.split([gradient.numel() for gradient in bucket]), strict=True
            ):
                gradient.copy_(part.view_as(gradient))

    def gather(self, own: Tensor, num_rows: int) -> Tensor:
        """Return all ranks' rows [num_rows, ...] of a global batch, given the own share of them.

        Differentiable in the sense of the module: a loss of which each rank yields its share.
        """
        return own if self.size == 1 else _Gather.apply(own, num_rows, self)

    def from_main(self, value: T) -> T:
        """Return rank 0's value of a small object."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def wait(self) -> None:
        """Return when every rank has come here."""
        self.total(0)

    def _sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor


class _Gather(torch.autograd.Function):
    """Own rows into a zero tensor of all rows, summed: an all-gather for uneven shares."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, num_rows: int, world: World) -> Tensor:
        ctx.own, ctx.world = world.share(num_rows), world
        everything = own.new_zeros(num_rows, *own.shape[1:])
        everything[ctx.own] = own
        return world.sum(everything)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.world.sum(grad.contiguous())[ctx.own], None, None


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield neighbours of one dtype, up to BUCKET_NUMBERS numbers together."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        num_numbers = sum(other.numel() for other in bucket) + tensor.numel()
        if bucket and (tensor.dtype != bucket[0].dtype or num_numbers > BUCKET_NUMBERS):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


# Coming and going


def is_rank() -> bool:
    """Return whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(device: str = "auto") -> World:
    """Meet the other processes that torchrun started; alone without it.

    Each process of a machine takes the GPU of its number. Raises BadInput where there are fewer
    GPUs than processes, or `device` names one GPU for all.
    """
    if not is_rank():
        return World(device=pick_device(device))
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = pick_device(device)
    if place.type == "cuda":
        local, there = int(os.environ.get("LOCAL_RANK", rank)), torch.cuda.device_count()
        if place.index is not None and size > 1:
            raise BadInput(f"device={device!r} is one GPU for {size} processes; set it to cuda")
        if local >= there:
            raise BadInput(f"process {local + 1} has no GPU, there are {there}; start {there}")
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if size > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
    return World(rank, size, place)


def leave() -> None:
    """Part from the other processes; harmless where there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()


# Sharded weights


def parallelise(model: Etude, world: World, parallel: str) -> None:
    """Shard the model over the ranks (FSDP2, a unit per block) where `parallel` wants it.

    "auto" shards on GPUs whose memory the weights, gradients and moments would half fill. Every
    rank must hold equal weights; make the optimiser afterwards, of the sharded parameters.
    """
    if world.size == 1 or not _is_to_shard(model, world, parallel):
        return
    # Imported here: it takes two seconds, which other runs need not pay.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    # The output matrix is used after the model's forward pass, so the outermost unit stays.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for unit in _units(model):
        unit.set_gradient_divide_factor(1.0)  # sums, not means
        unit.set_force_sum_reduction_for_comms(True)  # gloo knows no other operation


def _is_to_shard(model: nn.Module, world: World, parallel: str) -> bool:
    if parallel != "auto":
        return parallel == "shard"
    if world.device.type != "cuda":
        return False
    needed = BYTES_PER_PARAMETER * sum(p.numel() for p in model.parameters() if p.requires_grad)
    return needed > torch.cuda.get_device_properties(world.device).total_memory / 2


def _units(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "unshard")]


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Hold all weights on every rank: inside, the model computes and is read as if unsharded.

    Nothing is exchanged inside, so ranks may do different things; but none may train.
    """
    units = _units(model)
    hooks = {module: module._state_dict_pre_hooks for module in model.modules() if units}
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    for module in hooks:
        module._state_dict_pre_hooks = OrderedDict()  # FSDP's would shard the weights again
    try:
        yield
    finally:
        for module, former in hooks.items():
            module._state_dict_pre_hooks = former
        for unit in units:
            unit.set_reshard_after_forward(unit is not model, recurse=False)
            unit.reshard()


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this rank holds only a part of the tensor."""
    return hasattr(tensor, "full_tensor")  # DTensor, whose import would take a second


def full(tensor: Tensor) -> Tensor:
    """Return all of a tensor that may be sharded; every rank must ask."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def place(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor that all ranks have as `like` is: on its device, sharded as it is."""
    tensor = tensor.to(like.device)
    if not is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def copies(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Return copies of the whole tensors in rank 0's main memory; {} on the other ranks."""
    found = {}
    for name, tensor in tensors.items():
        everything = full(tensor.detach())
        if world.is_main:
            found[name] = everything.to("cpu", copy=True)
    return found
