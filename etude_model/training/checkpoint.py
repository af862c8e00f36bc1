"""Training state <-> steps/step_00000100/: whole or not there at all.

    steps/step_00000100/
      model.safetensors       the trainable parameters, float32
      optimizer.safetensors   AdamW's moments, "<parameter>.exp_avg" and so on
      state.json              step, tokens, evaluations: what is a number and not a tensor
      manifest.json           the SHA-256 of the other three

A checkpoint is written beside its place, synced and renamed, so a crash leaves the former one in
force. One that was damaged later does not match its manifest and is passed over.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

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
        save_file(plain, beside, metadata={"format": "pt"})


def save_checkpoint(
    run_dir: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> Path:
    """Write steps/step_<state["step"]>/ and return it once it is on the disk."""
    folder = run_dir / STEPS / f"step_{state['step']:08d}"
    if folder.exists() and _problem(folder) is None:
        return folder  # stopped right after a resume: the same step is the same bytes
    beside = folder.with_name(f"{folder.name}.tmp")
    for leftover in (beside, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    write_tensors(beside / MODEL, trainable(model))
    write_tensors(beside / OPTIMIZER, _moments(model, optimizer))
    write_json(beside / STATE, state)
    digests = {name: sha256_file(beside / name) for name in (MODEL, OPTIMIZER, STATE)}
    write_json(beside / MANIFEST, digests)
    sync_directory(beside)
    beside.rename(folder)
    sync_directory(folder.parent)
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
        problem = _problem(folder)
        if problem is None:
            state = read_json(folder / STATE)
            if state["identity"] != identity:
                raise BadInput(
                    f"{folder} was made with another config or other data; restore them or "
                    f"delete {run_dir / STEPS} to start again"
                )
            _load(folder, model, optimizer)
            return state
        warn(f"checkpoint {folder.name} is torn ({problem}); going back to the one before")
    return None


def keep_last(run_dir: Path, count: int) -> None:
    """Delete all but the `count` newest checkpoints, and what crashes left half written."""
    for leftover in (run_dir / STEPS).glob("*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in _newest_first(run_dir)[max(1, count) :]:
        shutil.rmtree(folder, ignore_errors=True)


def trainable(model: nn.Module) -> dict[str, torch.Tensor]:
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
    weights, moments = load_file(folder / MODEL), load_file(folder / OPTIMIZER)
    parameters = trainable(model)
    assert parameters.keys() == weights.keys(), "the checkpoint is of another model"
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    optimizer.state.clear()
    for key, value in moments.items():
        name, _, moment = key.rpartition(".")
        parameter = parameters[name]
        optimizer.state[parameter][moment] = value.to(parameter.device)


def _newest_first(run_dir: Path) -> list[Path]:
    folders = [path for path in (run_dir / STEPS).glob("step_*") if path.suffix != ".tmp"]
    return sorted(folders, reverse=True)


def _problem(folder: Path) -> str | None:
    try:
        digests = read_json(folder / MANIFEST)
        for name in (MODEL, OPTIMIZER, STATE):
            if sha256_file(folder / name) != digests[name]:
                return f"{name} does not match its SHA-256"
    except (OSError, ValueError, KeyError) as error:
        return f"{MANIFEST}: {error!r}"
    return None
