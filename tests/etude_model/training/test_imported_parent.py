"""Training that starts from an imported model, and tokenizers that do not belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from etude_model.export.huggingface import export_huggingface
from etude_model.export.import_huggingface import import_huggingface
from etude_model.tokenizer import Tokenizer
from etude_model.training.run import build_trainer, read_run
from storage.errors import BadInput


def point(folder: Path, **values: str) -> Path:
    """Change what a run directory asks for."""
    path = folder / "logs" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def train(folder: Path) -> dict[str, torch.Tensor]:
    """Run the training in a folder and return the finished weights."""
    for _ in build_trainer(read_run(folder), folder).events():
        pass
    return load_file(folder / "model.safetensors")


@pytest.fixture
def imported(parent_checkpoint: Path, tmp_path: Path) -> Path:
    """The parent, once out to Hugging Face's files and back."""
    return import_huggingface(
        export_huggingface(parent_checkpoint, tmp_path / "exported"), tmp_path / "imported"
    )


@pytest.mark.parametrize("stage", ["sft", "lora"])
def test_training_goes_on_from_it(
    stage: str, write_run: Callable[..., Path], imported: Path, tmp_path: Path
) -> None:
    """Catches an import that only looks like a checkpoint, or is not the same to the last bit."""
    steps = {"num_steps": 2, "warmup_steps": 1}
    ours = train(write_run(tmp_path / "ours", stage, **steps))
    run = point(write_run(tmp_path / "theirs", stage, **steps), parent=str(imported))
    theirs = train(point(run, tokenizer=str(imported)))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_tokenizers_that_differ_are_refused_with_both_digests(
    write_run: Callable[..., Path], imported: Path, tmp_path: Path
) -> None:
    """Catches a model that is trained on another's ids: it runs, and learns nonsense."""
    before = Tokenizer(imported).digest
    (imported / "manifest.json").unlink()
    other = tmp_path / "other.model"  # the same pieces, another file
    other.write_bytes((imported / "tokenizer.model").read_bytes() + b"\x9a\x06\x00")
    after = Tokenizer(other).digest
    run = point(write_run(tmp_path / "shards", "pretrain"), tokenizer=str(other))
    with pytest.raises(BadInput, match=f"made with tokenizer {before}, the run has {after}"):
        build_trainer(read_run(run), run)
    (imported / "tokenizer.model").write_bytes(other.read_bytes())
    run = point(write_run(tmp_path / "parent", "sft"), parent=str(imported))
    with pytest.raises(BadInput, match=f"has tokenizer {after}, the run has {before}"):
        build_trainer(read_run(run), run)
