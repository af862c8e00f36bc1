"""export and import at the command line: out in each format, in again, and talked to."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from etude_model.architecture import EtudeConfig
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from flows.cli import app
from storage.errors import BadInput
from tasks.train_tokenizer.train import train_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with experts and random weights."""
    folder = tmp_path_factory.mktemp("exchange") / "checkpoint"
    folder.mkdir()
    draw = random.Random(0)
    texts = [" ".join(draw.choices(["river", "old", "city", "古城"], k=6)) for _ in range(200)]
    tokenizer = train_model(texts, vocab_size=310, character_coverage=1.0, field="vocab_size")
    (folder / "tokenizer.model").write_bytes(tokenizer)
    torch.manual_seed(0)
    config = EtudeConfig(
        vocab_size=Tokenizer(folder).vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=32,
        context_length=64,
        num_experts=4,
        num_shared_experts=1,
        moe_intermediate_size=32,
        router_score="sigmoid",
        initializer_range=0.3,
    )
    save_file(Etude(config).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "training.json").write_text(json.dumps({"stage": "sft"}))
    return folder


def run(*arguments: str) -> dict:
    """Run the command in this process and return its last line."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    if result.exception is not None:
        raise result.exception
    answer: dict = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


@pytest.mark.parametrize(
    ("format", "dtype", "file"),
    [
        ("hf", "bfloat16", "model.safetensors"),
        ("gguf", "q8_0", "model.gguf"),
        ("embeddings", "float32", "modules.json"),
    ],
)
def test_each_format_is_written(
    format: str, dtype: str, file: str, checkpoint: Path, tmp_path: Path
) -> None:
    """Catches a format that the help promises and the command does not know."""
    if format == "gguf":
        pytest.importorskip("gguf", reason="the extra gguf is not installed")
    out = tmp_path / "out"
    answer = run("export", str(checkpoint), str(out), "--format", format, "--dtype", dtype)
    assert answer == {"folder": str(out), "format": format} and (out / file).is_file()


def test_what_comes_back_says_the_same(checkpoint: Path, tmp_path: Path) -> None:
    """Catches an import that is a model, but not this one."""
    exported, imported = str(tmp_path / "exported"), str(tmp_path / "imported")
    run("export", str(checkpoint), exported)
    assert run("import", exported, imported) == {"folder": imported}
    ask = ("river", "古城", "--temperature", "0", "--max-tokens", "12")
    assert run("generate", imported, *ask) == run("generate", str(checkpoint), *ask)
    with pytest.raises(BadInput, match="not empty"):
        run("import", exported, imported)
    with pytest.raises(BadInput, match=r"--texts .*missing\.txt is not there"):
        run("import", exported, str(tmp_path / "x"), "--texts", str(tmp_path / "missing.txt"))
