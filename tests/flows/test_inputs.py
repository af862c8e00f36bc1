"""What a recipe names is looked at before the first stage, and only as far as the way goes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from etude_model.config import preset
from flows.inputs import check_inputs
from flows.recipe import load_recipe
from storage.errors import BadInput
from tasks.train_tokenizer.train import train_model

REPOSITORY = Path(__file__).resolve().parents[2]


def write_tokenizer(path: Path, words: Iterable[str]) -> None:
    """Write a small tokenizer of these words."""
    path.write_bytes(train_model(words, vocab_size=300, character_coverage=1.0, field="vocab_size"))


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A checkpoint folder as far as it is looked at: nobody opens the weights."""
    folder = tmp_path / "parent"
    folder.mkdir()
    for name in ("model.safetensors", "training.json"):
        (folder / name).touch()
    (folder / "config.json").write_text(preset("nano", context_length=64).model_dump_json())
    write_tokenizer(folder / "tokenizer.model", ["river city old"] * 20)
    return folder


@pytest.mark.parametrize(
    ("override", "stage", "words"),
    [
        ("fetch=[{kind: file, path: nope.xml}]", "fetch", r"fetch\.0: nope\.xml is not there"),
        ("format_sft.files=[tests]", "format_sft", r"format_sft\.files: tests is a folder"),
        ("format_sft.files=[nope]", "format_sft", r"format_sft\.files: nope is not there"),
        ("format_lora.files=[README.md]", "format_sft", r"format_lora\.files: .* no known format"),
        ("train_tokenizer.path=nope", "train_tokenizer", r"train_tokenizer\.path: nope is not"),
        ("train_tokenizer.path=tests", "train_tokenizer", r"train_tokenizer\.path: no tokenizer"),
        ("pretrain.parent=nope", "pretrain", r"pretrain\.parent: nope is not there"),
        ("pretrain.parent=tests", "pretrain", r"pretrain\.parent: .* lacks config\.json"),
        ("evaluate.multiple_choice=[nope]", "evaluate", r"evaluate\.multiple_choice: nope is not"),
    ],
)
def test_a_path_that_is_wrong_is_refused_first(
    override: str, stage: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a wrong path found hours later, and one asked for that the way does not need."""
    monkeypatch.chdir(REPOSITORY)
    recipe = load_recipe("demo", [override])
    for last in (stage, "publish"):
        with pytest.raises(BadInput, match=words):
            check_inputs(recipe, last)
    if stage != "fetch":
        check_inputs(recipe, "fetch")


def test_a_parent_has_to_fit_the_shards(parent: Path, tmp_path: Path) -> None:
    """Catches a parent whose context or tokenizer is another one: the child would find out."""
    tokenizer = parent / "tokenizer.model"
    fits = [f"pretrain.parent={parent}", f"train_tokenizer.path={tokenizer}"]
    narrow = "shard.context_length=64"
    check_inputs(load_recipe("demo", [*fits, narrow]), "publish")
    with pytest.raises(BadInput, match=r"reads 64 tokens.*set shard\.context_length=64"):
        check_inputs(load_recipe("demo", fits), "publish")
    write_tokenizer(tmp_path / "other.model", ["lake town new"] * 20)
    other = f"train_tokenizer.path={tmp_path / 'other.model'}"
    with pytest.raises(BadInput, match=rf"another one; set train_tokenizer\.path={tokenizer}"):
        check_inputs(load_recipe("demo", [*fits, narrow, other]), "publish")
