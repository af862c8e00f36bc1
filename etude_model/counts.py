"""A model's shape and a training -> its parameters, its arithmetic and its memory, before it runs.

FLOPs are counted as the field does, so that figures compare (Chowdhery et al. 2022, PaLM, arXiv
2204.02311; nanochat): six per weight that a token meets in a matrix product, two of them forward
and four backward, and 12 * H * K per layer for each token that attention looks back at, the upper
triangle included. Memory is what the eager program holds at its peak, at the end of a forward pass:

    weights      float32, and half-precision copies of the matrices where the products are in half,
                 or on a CPU of those that it multiplies as one
    gradients    float32, one set for each replica that computes beside others on a CPU
    moments      two per weight for AdamW, one per matrix for Muon
    activations  what the backward pass needs of one micro-batch, all layers
    logits       one chunk of them, and the gradients of the loss that come with it

Tests hold the activations to what autograd really keeps, within half a percent; a whole process on
a CPU took 3 to 16% more than the sum (nano and micro, dense). A compiled program keeps less.

    python -c "from etude_model.config import *; from etude_model.counts import *
    print(describe(preset('small'), PretrainConfig(batch_size=128, micro_batch_size=16)))"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from etude_model.config import PRESETS, EtudeConfig, LoraTrainConfig, TrainConfig, preset
from etude_model.model.fused import BLOCK, LONGEST_OWN
from etude_model.model.lora import add_lora
from etude_model.model.loss import CHUNK_LOGITS, CHUNK_LOGITS_ELSEWHERE
from etude_model.model.sight import has_varlen
from etude_model.model.transformer import Etude
from storage.errors import BadInput

FLOAT = 4  # bytes
MOST_REPLICAS = 4  # each has a thread, and all of them one Python interpreter
REPLICA_BYTES = 1 << 30  # that the gradients of all replicas may take
HEADROOM = 0.85  # share of the free memory that a prediction may fill
# Dense tensor-core rates in FLOP/s, from the vendors' data sheets: bfloat16, float32. The first
# name that is in the device's name counts.
PEAK_FLOPS = (
    ("B200", 2250e12, 75e12),
    ("H200", 989e12, 67e12),
    ("H100 NVL", 835e12, 60e12),
    ("H100 PCIe", 756e12, 51e12),
    ("H100", 989e12, 67e12),
    ("H800", 989e12, 67e12),
    ("A100", 312e12, 19.5e12),
    ("A800", 312e12, 19.5e12),
    ("L40S", 362e12, 91.6e12),
    ("L4", 121e12, 30.3e12),
    ("RTX 5090", 209.5e12, 104.8e12),
    ("RTX 4090", 165.2e12, 82.6e12),
    ("RTX 3090", 71e12, 35.6e12),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a model has and does; FLOPs are those of training, forward and backward."""

    total_parameters: int
    active_parameters: int
    embedding_parameters: int
    flops_per_token: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one training process at its peak."""

    weights: int
    gradients: int
    moments: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Return the sum."""
        return self.weights + self.gradients + self.moments + self.activations + self.logits


def count(config: EtudeConfig) -> Counts:
    """Return the counts of a model at its full context length."""
    table = config.vocab_size * config.hidden_size
    looked_up = 0 if config.tie_embeddings else table  # a tied table is also the output matrix
    seen = sum(_tokens_seen(config))
    flops = 6.0 * (config.num_active_parameters - looked_up)
    flops += 12.0 * config.num_heads * config.head_dim * seen
    embeddings = table if config.tie_embeddings else 2 * table
    return Counts(config.num_parameters, config.num_active_parameters, embeddings, flops)


def _tokens_seen(config: EtudeConfig) -> Iterator[int]:
    for kind in config.layer_types:
        window = config.sliding_window if kind == "sliding_attention" else None
        yield min(window or config.context_length, config.context_length)


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """Return what a device could do at best in FLOP/s; None if the table does not know it."""
    for name, half, single in PEAK_FLOPS:
        if name in device_name:
            return single if dtype == torch.float32 else half
    return None


def predict_memory(
    config: EtudeConfig,
    train: TrainConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    world_size: int = 1,
) -> Memory:
    """Return the bytes that one of `world_size` processes needs for next-token training.

    `dtype` is that of the matrix products. The pairs of the semantic stage come on top.
    """
    num_rows = -(-train.batch_size // world_size)
    num_tokens = min(train.micro_batch_size or num_rows, num_rows) * config.context_length
    shards = world_size if train.parallel == "shard" else 1
    num_all, num_trained, num_matrix = _parameters(config, train)
    copies = 0
    has_adapters = isinstance(train, LoraTrainConfig)
    if dtype != torch.float32:  # of all that is multiplied: not of a table that is only looked up
        looked_up = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
        copies = dtype.itemsize * (num_all - looked_up)
    elif torch.device(device).type == "cpu" and not has_adapters:  # what fused.py joins
        width = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        num_layers = 1 if train.activation_checkpointing else config.num_layers
        copies = FLOAT * num_layers * width * config.hidden_size
    num_side_by_side = num_replicas(config, train, device)
    moments = 2 * num_trained - (num_matrix if train.optimizer == "muon" else 0)
    return Memory(
        weights=(FLOAT * num_all + copies * num_side_by_side) // shards,
        gradients=FLOAT * num_trained * num_side_by_side // shards,
        moments=FLOAT * moments // shards,
        activations=_activation_bytes(config, train, num_tokens, torch.device(device), dtype),
        logits=_logit_bytes(config, num_tokens, torch.device(device), dtype, num_side_by_side),
    )


def num_replicas(config: EtudeConfig, train: TrainConfig, device: torch.device | str) -> int:
    """Return how many replicas of a model compute side by side in a process: on a CPU one a thread.

    One where they would meet: in the random numbers of dropout, in the compiler, in shards; and
    where their gradients would take more memory than they are worth.
    """
    drops = isinstance(train, LoraTrainConfig) and train.lora.dropout > 0
    shares = drops or train.compile == "on" or train.parallel == "shard"
    if torch.device(device).type != "cpu" or shares:
        return 1
    _, num_trained, _ = _parameters(config, train)
    most = 1 + REPLICA_BYTES // (FLOAT * num_trained)
    return min(torch.get_num_threads(), MOST_REPLICAS, most)


def _parameters(config: EtudeConfig, train: TrainConfig) -> tuple[int, int, int]:
    """Return how many weights there are, are trained, and are trained as matrices of a layer."""
    if isinstance(train, LoraTrainConfig):
        with torch.device("meta"):
            model = Etude(config)
            add_lora(model, train.lora)
        trained = [weight.numel() for weight in model.parameters() if weight.requires_grad]
        num_all = sum(weight.numel() for weight in model.parameters())
        return num_all, sum(trained), sum(trained)
    vectors = config.num_layers * 2 * (config.hidden_size + config.head_dim) + config.hidden_size
    counts = count(config)
    num_matrix = counts.total_parameters - counts.embedding_parameters - vectors
    return counts.total_parameters, counts.total_parameters, num_matrix


def _activation_bytes(
    config: EtudeConfig,
    train: TrainConfig,
    num_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
) -> int:
    """Return what autograd keeps of the layers for so many tokens; see the forward passes.

    Where activations are recomputed that is the input of each layer and the inside of one.
    """
    is_masked = train.document_mask and not has_varlen(device, dtype)
    layers = [_layer_bytes(config, layer, device, dtype) for layer in range(config.num_layers)]
    per_token = sum(layers)
    if train.activation_checkpointing:
        per_token = max(layers) + config.num_layers * FLOAT * config.hidden_size
    per_token += FLOAT * config.hidden_size * (1 if device.type == "cpu" else 2)  # the last norm
    is_own = _has_own_attention(config, device, dtype)
    if is_masked and not is_own:  # a number per pair of tokens, for full and for windowed layers
        num_masks = len(set(config.layer_types))
        per_token += num_masks * dtype.itemsize * config.context_length
    return num_tokens * per_token


def _has_own_attention(config: EtudeConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether attention in training is that of fused.py, which keeps its probabilities."""
    is_short = config.context_length <= LONGEST_OWN
    return device.type == "cpu" and is_short and dtype != torch.float32


def _layer_bytes(config: EtudeConfig, layer: int, device: torch.device, dtype: torch.dtype) -> int:
    """Return the bytes per token of one layer: float32 around norms, `dtype` in products.

    On a CPU the norms keep their input only, and short rows the probabilities of attention in half
    precision (fused.py).
    """
    width, size, is_cpu = config.hidden_size, dtype.itemsize, device.type == "cpu"
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    norms = FLOAT * width * (2 if is_cpu else 4) + (queries + keys) * (size if is_cpu else 8)
    norms += FLOAT * (2 + config.num_heads + config.num_kv_heads)  # a size of each vector
    attention = size * (width + 2 * (queries + keys))  # input, q, k, v and the answer
    if _has_own_attention(config, device, dtype):
        block = min(BLOCK, config.context_length)
        attention += size * config.num_heads * (config.context_length + block) // 2
        attention += size * keys  # the values also stay where they were made
    else:
        attention += FLOAT * config.num_heads  # the sum of each softmax
    if not config.is_sparse(layer):
        return norms + attention + size * (width + 4 * config.intermediate_size)
    chosen, shared = config.num_experts_per_token, config.num_shared_experts
    router = FLOAT * (width + config.num_experts + 2 * chosen + 1) + 24 * chosen
    experts = size * (chosen * (width + 5 * config.expert_size))
    experts += size * shared * 4 * config.expert_size
    experts += size * width if shared and dtype != torch.float32 else 0
    return norms + attention + router + experts


def _logit_bytes(
    config: EtudeConfig,
    num_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
    num_replicas: int,
) -> int:
    """Return a chunk's logits and probabilities, the targets' states, both gradients twice."""
    chunk = CHUNK_LOGITS.get(device.type, CHUNK_LOGITS_ELSEWHERE)
    chunks = min(num_replicas * max(chunk, config.vocab_size), num_tokens * config.vocab_size)
    states = FLOAT * config.hidden_size * (3 * num_tokens + 2 * num_replicas * config.vocab_size)
    return 2 * dtype.itemsize * chunks + states


def describe(
    config: EtudeConfig,
    train: TrainConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    world_size: int = 1,
) -> str:
    """Return one line for people: parameters, FLOPs per token and, of a training, its memory."""
    counts = count(config)
    active = ""
    if counts.active_parameters != counts.total_parameters:
        active = f" ({_short(counts.active_parameters)} active)"
    line = (
        f"{_short(counts.total_parameters)} parameters{active}, "
        f"{_short(counts.flops_per_token)}FLOP per token to train"
    )
    if train is None:
        return line
    memory = predict_memory(config, train, device=device, dtype=dtype, world_size=world_size)
    return f"{line}, {_in_words(memory)}"


def _short(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB"


def _in_words(memory: Memory) -> str:
    return (
        f"about {_gigabytes(memory.total)} of memory: weights {_gigabytes(memory.weights)}, "
        f"gradients {_gigabytes(memory.gradients)}, moments {_gigabytes(memory.moments)}, "
        f"activations {_gigabytes(memory.activations)}, logits {_gigabytes(memory.logits)}"
    )


def available_memory(device: torch.device | str) -> int | None:
    """Return the free bytes of a GPU, or of this machine within its limits; None if unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.exists() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        free.append(int(text))
    return min(free) if free else None


def check_memory(
    config: EtudeConfig,
    train: TrainConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    world_size: int = 1,
    available: int | None = None,
) -> Memory:
    """Return the prediction; where it does not fit, BadInput with it and a setting that does.

    `available` is in bytes and asked of the device if not given.
    """

    def predict(shape: EtudeConfig, changed: TrainConfig) -> Memory:
        return predict_memory(shape, changed, device=device, dtype=dtype, world_size=world_size)

    memory = predict(config, train)
    available = available_memory(device) if available is None else available
    if available is None or memory.total <= HEADROOM * available:
        return memory
    room = HEADROOM * available
    advice = _advice(config, train, lambda *setting: predict(*setting).total <= room)
    raise BadInput(
        f"the run needs {_in_words(memory)}; {device} has {_gigabytes(available)} free; {advice}"
    )


def _advice(
    config: EtudeConfig, train: TrainConfig, fits: Callable[[EtudeConfig, TrainConfig], bool]
) -> str:
    """Return the nearest setting that fits: fewer rows at once, recomputing, a smaller model."""
    rows = min(train.micro_batch_size or train.batch_size, train.batch_size)
    for recomputes in sorted({train.activation_checkpointing, True}):
        for size in range(rows, 0, -1):
            changes = {"micro_batch_size": size, "activation_checkpointing": recomputes}
            if train.batch_size % size == 0 and fits(config, train.model_copy(update=changes)):
                also = (
                    ""
                    if recomputes == train.activation_checkpointing
                    else (" and activation_checkpointing to true")
                )
                return f"set micro_batch_size to {size}{also}"
    one_row = train.model_copy(update={"micro_batch_size": 1})
    for name in sorted(PRESETS, key=lambda name: -preset(name).num_parameters):
        if fits(preset(name, vocab_size=config.vocab_size), one_row):
            return f"take the preset {name} with micro_batch_size 1 or more"
    return "take a smaller model"
