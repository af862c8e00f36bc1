"""Checkpoint folders: what goes in comes out, and what is no checkpoint is refused with words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from etude_model.config import EtudeConfig, LoraConfig
from etude_model.inference.load import load_checkpoint
from etude_model.model.lora import LoraLinear, add_lora, base_state_dict, save_lora
from etude_model.model.transformer import Etude
from storage.errors import BadInput

TOKENS = torch.arange(10)[None]


def write(folder: Path, model: Etude, tokenizer_path: Path) -> Path:
    """Write a checkpoint folder as training does."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(model.config.model_dump_json())
    save_file(base_state_dict(model), folder / "model.safetensors")
    shutil.copyfile(tokenizer_path, folder / "tokenizer.model")
    (folder / "training.json").write_text(json.dumps({"stage": "pretrain", "steps": 3}))
    return folder


@pytest.fixture
def model(tiny_model_config: EtudeConfig) -> Etude:
    """A fresh model for the tiny tokenizer."""
    torch.manual_seed(0)
    return Etude(tiny_model_config).eval()


@pytest.fixture
def folder(tmp_path: Path, model: Etude, tiny_tokenizer_path: Path) -> Path:
    """A whole checkpoint."""
    return write(tmp_path / "checkpoint", model, tiny_tokenizer_path)


def test_a_checkpoint_comes_back(folder: Path, model: Etude) -> None:
    """Catches weights that change on the way, and a model that cannot be trained on."""
    loaded = load_checkpoint(folder)
    assert loaded.stage == "pretrain" and loaded.config == model.config
    assert loaded.tokenizer.vocab_size == model.config.vocab_size
    assert not loaded.model.training
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    loaded.model.loss(loaded.model(TOKENS), TOKENS)[0].backward()
    assert loaded.model.model.embed_tokens.weight.grad is not None


def test_an_adapter_is_merged_or_kept_beside(folder: Path, model: Etude) -> None:
    """Catches an adapter that is forgotten, or a merged model with lora tensors in its weights."""
    config = LoraConfig(rank=2)
    names = model.state_dict().keys()
    add_lora(model, config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLinear):
                module.lora_B.weight.normal_(0, 0.2)
        save_lora(model, folder, config)
        merged, beside = load_checkpoint(folder), load_checkpoint(folder, merge=False)
        assert merged.model.state_dict().keys() == names
        assert any("lora_A" in name for name in beside.model.state_dict())
        for loaded in (merged, beside):
            torch.testing.assert_close(loaded.model(TOKENS), model(TOKENS), atol=1e-5, rtol=1e-5)


def test_adapters_by_name_stand_in_for_the_checkpoint_s_own(
    folder: Path, model: Etude, tmp_path: Path
) -> None:
    """Catches an own adapter that is merged below the others, and a foreign one that is taken."""
    names = {}
    for number in (1, 2):
        torch.manual_seed(number)
        trained = load_checkpoint(folder).model
        add_lora(trained, LoraConfig(rank=number))
        with torch.no_grad():
            for module in trained.modules():
                if isinstance(module, LoraLinear):
                    module.lora_B.weight.normal_(0, 0.2)
        names[f"number-{number}"] = tmp_path / f"adapter-{number}"
        save_lora(trained, names[f"number-{number}"], LoraConfig(rank=number))
    own = shutil.copytree(folder, tmp_path / "own")
    for path in names["number-1"].iterdir():
        shutil.copyfile(path, own / path.name)
    loaded = load_checkpoint(own, adapters=names)
    assert loaded.adapters is not None and loaded.adapters.names == list(names)
    assert load_checkpoint(folder).adapters is None
    with torch.no_grad():
        assert torch.equal(loaded.model(TOKENS), model(TOKENS))
        merged = load_checkpoint(own).model(TOKENS)
        with loaded.adapters.rows(["number-1"]).applied():
            torch.testing.assert_close(loaded.model(TOKENS), merged, atol=1e-5, rtol=1e-5)
    other = write(tmp_path / "other", Etude(model.config), folder / "tokenizer.model")
    with pytest.raises(BadInput, match="adapter-1 was trained on base weights"):
        load_checkpoint(other, adapters=names)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    """Catches a checkpoint that makes its reader open any file of the machine."""
    elsewhere = shutil.move(folder / "model.safetensors", tmp_path / "weights")
    (folder / "model.safetensors").symlink_to(elsewhere)
    with pytest.raises(BadInput, match=r"is a link to .*weights, outside"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.model", "training.json"]
)
def test_a_folder_without_a_file_is_refused(folder: Path, name: str) -> None:
    """Catches a traceback where a user gave the wrong folder."""
    (folder / name).unlink()
    with pytest.raises(BadInput, match=f"lacks {name}"):
        load_checkpoint(folder)
    with pytest.raises(BadInput, match="lacks config"):
        load_checkpoint(folder / "nowhere")


def test_damage_is_refused_with_words(
    folder: Path, tmp_path: Path, tiny_model_config: EtudeConfig, tiny_tokenizer_path: Path
) -> None:
    """Catches weights of another shape that are taken, and pickles or rubbish that are opened."""
    other = tiny_model_config.model_copy(update={"intermediate_size": 40})
    (folder / "config.json").write_text(other.model_dump_json())
    with pytest.raises(BadInput, match=r"down_proj.* \(32, 48\), config.json asks for \(32, 40\)"):
        load_checkpoint(folder)
    (folder / "config.json").write_text('{"vocab_size": 5, "colour": "red"}')
    with pytest.raises(BadInput, match="colour"):
        load_checkpoint(folder)
    small = Etude(tiny_model_config.model_copy(update={"vocab_size": 40}))
    with pytest.raises(BadInput, match="ids, the model vocab_size=40"):
        load_checkpoint(write(tmp_path / "small", small, tiny_tokenizer_path))
    torch.save({}, tmp_path / "small" / "model.safetensors")
    with pytest.raises(BadInput, match="cannot be read"):
        load_checkpoint(tmp_path / "small")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused(
    folder: Path, model: Etude, number: float, dtype: torch.dtype
) -> None:
    """Catches a diverged or damaged model that answers with rubbish instead of being named."""
    weights = {name: weight.to(dtype) for name, weight in base_state_dict(model).items()}
    weights["model.layers.1.mlp.up_proj.weight"][3, 2] = number
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"layers\.1\.mlp\.up_proj\.weight .* finite numbers"):
        load_checkpoint(folder)
