"""Pretraining that goes on from a checkpoint: its weights are part of the key, its path is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude_model.config import PretrainConfig
from storage.artifact import sha256_file
from storage.errors import BadInput
from tasks.train.task import parent_identity, pretrain


def test_the_key_holds_the_weights_of_the_parent(tmp_path: Path) -> None:
    """Would catch a run that reuses what was trained from other weights of the same name."""
    fresh = pretrain.key(PretrainConfig(), {})
    keys = set()
    for name, weights in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        config = PretrainConfig(parent=str(tmp_path / name))
        assert parent_identity(config) == sha256_file(tmp_path / name / "model.safetensors")
        keys.add(pretrain.key(config, {}))
    assert len(keys) == 2 and fresh not in keys
    with pytest.raises(BadInput, match="nowhere"):
        pretrain.key(PretrainConfig(parent=str(tmp_path / "nowhere")), {})
