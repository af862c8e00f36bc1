"""Training state <-> steps/step_00000100/: whole or not there at all.

    steps/step_00000100/
      model.safetensors       what training changes: parameters, float32, and balancing biases
      optimizer.safetensors   the optimiser's moments, "<parameter>.exp_avg" and so on
      state.json              step, tokens, evaluations: what is a number and not a tensor
      manifest.json           the SHA-256 of the other three

A checkpoint is written beside its place, synced and renamed, so a crash leaves the former one in
force. One that was damaged later does not match its manifest and is passed over.

    step 99   step 100       step 101   step 102
              copy tensors                       told to the world, older ones deleted
                   `-- write, sync, rename --´   in a thread: training goes on meanwhile
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from etude_model.training.distributed import World, copies, place
from storage.artifact import sha256_file
from storage.errors import BadInput
from storage.files import read_json, replacing, sync_directory, write_json

STEPS = "steps"
MODEL, OPTIMIZER, STATE, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file, whole or not at all; equal tensors give equal bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as beside:
        try:
            save_file(plain, beside, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, in a wrapper of its own
            raise OSError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy in main memory of all that a resume needs, by file: the run may go on meanwhile."""

    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]


def take_snapshot(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], world: World
) -> Snapshot:
    """Copy what `model` and `optimizer` hold now; `state` has the "step" and other JSON values.

    Every rank must ask, for each may hold a part only; rank 0 gets the tensors.
    """
    files = {MODEL: changing(model), OPTIMIZER: _moments(model, optimizer)}
    tensors = {file: copies(held, world) for file, held in files.items()}
    return Snapshot(tensors, copy.deepcopy(state))


def write_checkpoint(run_dir: Path, snapshot: Snapshot) -> Path:
    """Write steps/step_<state["step"]>/ and return it once it is on the disk."""
    folder = step_folder(run_dir, snapshot.state["step"])
    if folder.exists() and problem(folder) is None:
        return folder  # stopped right after a resume: the same step is the same bytes
    beside = folder.with_name(f"{folder.name}.tmp")
    for leftover in (beside, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, tensors in snapshot.tensors.items():
        write_tensors(beside / name, tensors)
    write_json(beside / STATE, snapshot.state)
    digests = {name: sha256_file(beside / name) for name in (MODEL, OPTIMIZER, STATE)}
    write_json(beside / MANIFEST, digests)
    sync_directory(beside)
    beside.rename(folder)
    sync_directory(folder.parent)
    return folder


class CheckpointWriter:
    """Writes snapshots in a thread of its own, one at a time, and clears old ones away."""

    def __init__(self, run_dir: Path, *, keep: int) -> None:
        """Keep the `keep` newest checkpoints of a run, and the best."""
        self.run_dir, self.keep = run_dir, keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None

    def start(self, snapshot: Snapshot, *, best: int | None = None) -> None:
        """Begin to write; the one before must be `finished`. `best` is a step to keep."""
        assert self._writing is None, "ask finished(wait=True) first: two copies need two memories"
        self._writing = self._thread.submit(self._write, snapshot, best)

    def finished(self, *, wait: bool = False) -> Path | None:
        """Return the checkpoint that is on the disk since the last call, or raise its OSError."""
        if self._writing is None or not (wait or self._writing.done()):
            return None
        writing, self._writing = self._writing, None
        return writing.result()

    def close(self) -> None:
        """Let the thread end; what it is at gets whole."""
        self._thread.shutdown()

    def _write(self, snapshot: Snapshot, best: int | None) -> Path:
        folder = write_checkpoint(self.run_dir, snapshot)
        keep_last(self.run_dir, self.keep, best=best)
        return folder


def load_checkpoint_state(
    run_dir: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    identity: str,
    warn: Callable[[str], None],
) -> dict[str, Any] | None:
    """Load the newest whole checkpoint into model and optimiser and return its state.

    None where there is none. A torn checkpoint is reported to `warn` and passed over; one whose
    state["identity"] is another is BadInput, for going on with it would give neither run's result.
    """
    for folder in _newest_first(run_dir):
        found = problem(folder)
        if found is None:
            state = read_json(folder / STATE)
            if state["identity"] != identity:
                raise BadInput(
                    f"{folder} was made with another config or other data; restore them or "
                    f"delete {run_dir / STEPS} to start again"
                )
            _load(folder, model, optimizer)
            return state
        warn(f"checkpoint {folder.name} is torn ({found}); going back to the one before")
    return None


def load_weights(folder: Path, model: nn.Module) -> None:
    """Put the weights of a step checkpoint into the model."""
    there, found = changing(model), load_file(folder / MODEL)
    assert there.keys() == found.keys(), "the checkpoint is of another model"
    with torch.no_grad():
        for name, tensor in there.items():
            tensor.copy_(place(found[name], tensor))


def keep_last(run_dir: Path, count: int, *, best: int | None = None) -> None:
    """Delete all but the `count` newest checkpoints and the best, and what crashes left behind."""
    for leftover in (run_dir / STEPS).glob("*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in _newest_first(run_dir)[max(1, count) :]:
        if best is None or folder != step_folder(run_dir, best):
            shutil.rmtree(folder, ignore_errors=True)


def step_folder(run_dir: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return run_dir / STEPS / f"step_{step:08d}"


def changing(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what training changes, by name: trainable parameters, and buffers that are saved."""
    saved = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {**trainable(model), **buffers}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes, by name; a tied weight once."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{moment}": value
        for name, parameter in trainable(model).items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def _load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    load_weights(folder, model)
    parameters = trainable(model)
    optimizer.state.clear()
    for key, value in load_file(folder / OPTIMIZER).items():
        name, _, moment = key.rpartition(".")
        parameter = parameters[name]
        optimizer.state[parameter][moment] = place(value, parameter)


def _newest_first(run_dir: Path) -> list[Path]:
    folders = [path for path in (run_dir / STEPS).glob("step_*") if path.suffix != ".tmp"]
    return sorted(folders, reverse=True)


def problem(folder: Path) -> str | None:
    """Return why a checkpoint cannot be trusted, or nothing."""
    try:
        digests = read_json(folder / MANIFEST)
        for name in (MODEL, OPTIMIZER, STATE):
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256_file(folder / name) != digests[name]:
                return f"{name} does not match its SHA-256"
    except (OSError, ValueError, KeyError) as error:
        return f"{MANIFEST}: {error!r}"
    return None
