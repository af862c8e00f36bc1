"""Folders of strangers: nothing that could run code or that is not what it says gets opened."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from etude_model.checkpoint_folder import checked_files
from etude_model.inference.load import load_checkpoint
from storage.artifact import sha256_file
from storage.errors import BadInput

NAMES = ("config.json", "model.safetensors", "tokenizer.model", "training.json")


@pytest.fixture
def folder(parent_checkpoint: Path, tmp_path: Path) -> Path:
    """A trained checkpoint with a manifest of its own."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in NAMES:
        shutil.copyfile(parent_checkpoint / name, folder / name)
    digests = {name: sha256_file(folder / name) for name in NAMES}
    (folder / "manifest.json").write_text(json.dumps(digests))
    return folder


class Bomb:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.trace,)


def test_a_whole_folder_opens(folder: Path) -> None:
    """Catches a check that refuses what training writes, or links within the folder."""
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    assert checked_files(folder, NAMES)["config.json"] == folder / "config.json"
    linked = folder.parent / "by-another-name"
    linked.symlink_to(folder, target_is_directory=True)
    assert load_checkpoint(linked).stage == "pretrain"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_is_refused_unopened(folder: Path, name: str) -> None:
    """Catches weights that run code: under their own name, and under the name of safetensors."""
    trace = folder / "trace"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(BadInput, match="a pickle"):
        load_checkpoint(folder)
    torch.save({"weight": Bomb(trace)}, folder / name)
    with pytest.raises(BadInput, match="a pickle"):
        load_checkpoint(folder)
    assert not trace.exists()


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    """Catches a checkpoint that makes us read, and publish, another file of this machine."""
    (folder / "tokenizer.model").rename(tmp_path / "secret")
    (folder / "tokenizer.model").symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput, match=r"tokenizer.model is a link to .*secret, outside .*check"):
        load_checkpoint(folder)


def test_a_changed_file_is_refused(folder: Path) -> None:
    """Catches weights that a disk or a hand changed: they load, and the model is another."""
    before = sha256_file(folder / "model.safetensors")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1e-3
    save_file(weights, folder / "model.safetensors")
    after = sha256_file(folder / "model.safetensors")
    with pytest.raises(BadInput, match=f"{after[:16]}.*manifest.json says {before[:16]}"):
        load_checkpoint(folder)
    # An artifact of the store has its digests in a list.
    entry = {"path": "model.safetensors", "size": 1, "sha256": before, "mtime_ns": 0}
    (folder / "manifest.json").write_text(json.dumps({"kind": "checkpoint", "files": [entry]}))
    with pytest.raises(BadInput, match=f"{after[:16]}.*says {before[:16]}"):
        load_checkpoint(folder)


def test_rubbish_in_place_of_json_is_refused(folder: Path) -> None:
    """Catches a traceback where a file is empty, cut or a list."""
    for text in ("", '{"files": [', "[]"):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(BadInput, match=r"manifest\.json"):
            load_checkpoint(folder)
