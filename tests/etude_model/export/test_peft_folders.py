"""LoRA checkpoints and PEFT folders, both ways, and the adapters that PEFT cannot hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from etude_model.config import EtudeConfig, LoraConfig
from etude_model.export.huggingface import export_huggingface
from etude_model.export.peft import export_peft, fits_peft, has_adapter, import_peft
from etude_model.inference.load import load_checkpoint
from etude_model.model.lora import add_lora, lora_state_dict, save_lora
from etude_model.model.transformer import Etude
from storage.errors import BadInput
from storage.files import read_json, write_json

TOKENS = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(0))


def save(folder: Path, tokenizer: Path, lora: LoraConfig | None = None, **changes: Any) -> Path:
    """Write a checkpoint of a random model, with an adapter or without."""
    folder.mkdir()
    values: dict[str, Any] = {
        "vocab_size": 330,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "context_length": 32,
        "initializer_range": 0.2,
    }
    config = EtudeConfig(**values | changes)
    torch.manual_seed(0)
    model = Etude(config)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_json(folder / "training.json", {"stage": "lora" if lora else "sft", "evaluations": {}})
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    if lora is not None:
        add_lora(model, lora)
        with torch.no_grad():
            for name, weight in lora_state_dict(model).items():
                if "lora_A" not in name:
                    weight += torch.randn_like(weight) * 0.2
        save_lora(model, folder, lora)
    return folder


@torch.no_grad()
def logits(checkpoint: Path) -> torch.Tensor:
    """Return the logits of a checkpoint, its adapter merged."""
    model = load_checkpoint(checkpoint).model
    return model.logits(model(TOKENS))


@pytest.mark.parametrize("use_dora", [False, True])
def test_there_into_peft_and_back(
    use_dora: bool, tiny_tokenizer_path: Path, tmp_path: Path
) -> None:
    """Catches an adapter that is another one after PEFT has loaded and saved it."""
    lora = LoraConfig(rank=3, use_rslora=True, use_dora=use_dora, rank_pattern={"q_proj": 2})
    ours = save(tmp_path / "ours", tiny_tokenizer_path, lora)
    base = save(tmp_path / "base", tiny_tokenizer_path)
    exported = export_huggingface(ours, tmp_path / "exported", merge=False)
    assert fits_peft(ours) and has_adapter(ours) and not has_adapter(base)
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(exported), export_peft(ours, tmp_path / "peft")
    ).eval()
    theirs.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert (theirs(TOKENS).logits - logits(ours)).abs().max() <= 1e-5
    for number, folder in enumerate(("peft", "saved")):
        back = import_peft(tmp_path / folder, base, tmp_path / f"back-{number}")
        assert (logits(back) - logits(ours)).abs().max() <= 1e-6
        assert read_json(back / "training.json")["stage"] == "lora"
        assert load_checkpoint(base, adapters={"it": tmp_path / folder}).adapters is not None
    assert (logits(base) - logits(ours)).abs().max() > 0.1


def test_what_is_no_pair_is_refused(tiny_tokenizer_path: Path, tmp_path: Path) -> None:
    """Catches an adapter below another, on other weights, or exported where there is none."""
    ours = save(tmp_path / "ours", tiny_tokenizer_path, LoraConfig(rank=2))
    base = save(tmp_path / "base", tiny_tokenizer_path)
    other = save(tmp_path / "other", tiny_tokenizer_path, initializer_range=0.1)
    folder = export_peft(ours, tmp_path / "peft")
    with pytest.raises(BadInput, match="has no LoRA adapter"):
        export_peft(base, tmp_path / "nothing")
    with pytest.raises(BadInput, match="has an adapter of its own"):
        import_peft(folder, ours, tmp_path / "nothing")
    with pytest.raises(BadInput, match=r"base weights \w+…, this model has \w+…"):
        import_peft(folder, other, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_sparse_model_gives_a_merged_export_alone(
    tiny_tokenizer_path: Path, tmp_path: Path
) -> None:
    """Catches a PEFT folder that loads without a word and leaves most of the updates out."""
    experts = {"num_experts": 4, "num_shared_experts": 1, "moe_intermediate_size": 16}
    sparse = experts | {"router_score": "sigmoid"}
    whole = save(tmp_path / "whole", tiny_tokenizer_path, LoraConfig(rank=2), **sparse)
    assert not fits_peft(whole)
    with pytest.raises(BadInput, match="takes gate_proj for routed experts"):
        export_peft(whole, tmp_path / "nothing")
    merged = AutoModelForCausalLM.from_pretrained(export_huggingface(whole, tmp_path / "merged"))
    with torch.no_grad():
        assert (merged(TOKENS).logits - logits(whole)).abs().max() <= 1e-5
    attention = LoraConfig(rank=2, targets=("q_proj", "v_proj"))
    part = save(tmp_path / "part", tiny_tokenizer_path, attention, **sparse)
    assert fits_peft(part)
    base = export_huggingface(part, tmp_path / "exported", merge=False)
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), export_peft(part, tmp_path / "peft")
    )
    with torch.no_grad():
        assert (theirs.eval()(TOKENS).logits - logits(part)).abs().max() <= 1e-5
