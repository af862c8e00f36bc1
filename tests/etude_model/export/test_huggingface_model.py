"""The exported folders, opened by transformers and PEFT, against our own model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from etude_model.config import EtudeConfig, LoraConfig
from etude_model.export.huggingface import export_huggingface
from etude_model.export.peft import export_peft
from etude_model.inference.generate import SamplingConfig, generate
from etude_model.inference.load import load_checkpoint
from etude_model.model.lora import add_lora, base_state_dict, save_lora
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.errors import BadInput
from storage.files import write_json

TOLERANCE = 1e-5
QUESTION = [{"role": "user", "content": "old bridge"}]
ANSWER = {"role": "assistant", "content": "north river"}


def config(vocab_size: int, **changes: Any) -> EtudeConfig:
    """Return a model of three layers with no default value that could hide a mix-up."""
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 48,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,  # 4 x 16 is not 48: a head_dim that gets lost shows
        "intermediate_size": 80,
        "context_length": 64,
        "rope_theta": 5000.0,
        "initializer_range": 0.2,  # large, so that logits differ and a wrong RoPE base shows
    }
    return EtudeConfig(**values | changes)


def save(model: Etude, folder: Path, tokenizer: Tokenizer, stage: str = "sft") -> Path:
    """Write a checkpoint folder by hand, as the contract describes it."""
    folder.mkdir(parents=True)
    save_file(base_state_dict(model), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", model.config.model_dump(mode="json"))
    shutil.copyfile(tokenizer.path, folder / "tokenizer.model")
    figures = {"bits_per_byte": 2.5, "bits_per_byte/en": 2.25, "bits_per_byte/zh": 2.75}
    training = {"stage": stage, "steps": 7, "tokens_seen": 1000}
    write_json(folder / "training.json", training | {"evaluations": {"after": figures}})
    return folder


@pytest.fixture
def base(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Path:
    """A checkpoint with random weights, norms too (their starting value 1 would hide a mix-up)."""
    torch.manual_seed(1)
    model = Etude(config(tiny_tokenizer.vocab_size))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.uniform_(0.5, 1.5)
    return save(model, tmp_path / "base", tiny_tokenizer)


@pytest.fixture
def lora(base: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """The same base with an adapter on four of the seven linears, with weights of its own."""
    torch.manual_seed(2)
    model = load_checkpoint(base).model
    lora = LoraConfig(rank=3, alpha=5, targets=("q_proj", "o_proj", "up_proj", "down_proj"))
    add_lora(model, lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.2)
    folder = save(model, tmp_path / "lora", tiny_tokenizer, "lora")
    save_lora(model, folder, lora)
    return folder


def tokens(checkpoint: Path, length: int = 64) -> torch.Tensor:
    """Return random ids [2, length] that fill the context."""
    size = load_checkpoint(checkpoint).config.vocab_size
    return torch.randint(0, size, (2, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def our_logits(checkpoint: Path) -> torch.Tensor:
    """Return the logits of our own model, an adapter merged."""
    model = load_checkpoint(checkpoint).model
    return model.logits(model(tokens(checkpoint)))


@torch.no_grad()
def their_logits(model: Any, checkpoint: Path) -> torch.Tensor:
    """Return the logits of a transformers or PEFT model on the same ids."""
    return model(tokens(checkpoint)).logits


def difference(first: torch.Tensor, second: torch.Tensor, what: str) -> float:
    """Print the largest difference of two logits and return it, relative to their spread."""
    largest = float((first - second).abs().max())
    print(f"{what}: largest logit difference {largest:.2e}, spread {float(first.std()):.2f}")
    return largest / float(first.std())


def test_base_logits_equal(base: Path, tmp_path: Path) -> None:
    """Catches a wrong RoPE base, head size, norm or tie in config.json: all of them load."""
    model = AutoModelForCausalLM.from_pretrained(export_huggingface(base, tmp_path / "out"))
    assert isinstance(model, Qwen3ForCausalLM) and model.dtype == torch.float32
    assert difference(our_logits(base), their_logits(model, base), "base") < TOLERANCE


def test_untied_logits_equal(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Catches an output matrix that transformers replaces by the embeddings."""
    torch.manual_seed(3)
    model = Etude(config(tiny_tokenizer.vocab_size, tie_embeddings=False, num_kv_heads=4))
    checkpoint = save(model, tmp_path / "untied", tiny_tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(export_huggingface(checkpoint, tmp_path / "out"))
    assert (
        difference(our_logits(checkpoint), their_logits(theirs, checkpoint), "untied") < TOLERANCE
    )


def test_lora_is_merged_and_peft_equals_it(lora: Path, base: Path, tmp_path: Path) -> None:
    """Catches a merge with another scale, and adapter names that PEFT loads nothing of."""
    merged = AutoModelForCausalLM.from_pretrained(export_huggingface(lora, tmp_path / "merged"))
    ours = our_logits(lora)
    assert difference(ours, their_logits(merged, lora), "merged") < TOLERANCE
    plain = export_huggingface(lora, tmp_path / "plain", merge=False)
    with_adapter = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(plain), export_peft(lora, tmp_path / "peft")
    )
    assert difference(ours, their_logits(with_adapter, lora), "PEFT") < TOLERANCE
    # The adapter changes something, and the plain export is the base without it.
    assert difference(ours, our_logits(base), "without adapter") > 0.1
    alone = AutoModelForCausalLM.from_pretrained(plain)
    assert difference(our_logits(base), their_logits(alone, lora), "plain") < TOLERANCE


def test_bfloat16_weights(base: Path, tmp_path: Path) -> None:
    """Catches a dtype that config.json and the weights disagree on."""
    out = export_huggingface(base, tmp_path / "out", dtype="bfloat16")
    with safe_open(out / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert difference(our_logits(base), their_logits(model.float(), base), "bfloat16") < 0.1


def test_generation_stops_at_the_end_of_the_answer(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Catches a missing `<|im_end|>` among the end ids: the answer would run to the limit.

    The model is taught one answer, so transformers must write it, stop by itself, and write what
    our own generation does.
    """
    torch.manual_seed(4)
    model = Etude(config(tiny_tokenizer.vocab_size, initializer_range=0.05))
    ids, mask = tiny_tokenizer.encode_dialogue([*QUESTION, ANSWER])
    tokens_BT = torch.tensor([ids])
    targets_BT = torch.tensor([[*ids[1:], 0]])
    targets_BT[0, ~torch.tensor([*mask[1:], 0], dtype=torch.bool)] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        nats, count = model.loss(model(tokens_BT), targets_BT)
        optimizer.zero_grad()
        (nats / count).backward()
        optimizer.step()
    checkpoint = save(model, tmp_path / "taught", tiny_tokenizer)
    out = export_huggingface(checkpoint, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(out)
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.generation_config.eos_token_id == [
        tiny_tokenizer.eos_id,
        tiny_tokenizer.im_end_id,
    ]
    prompt = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = theirs.generate(**prompt, max_new_tokens=30, do_sample=False)[0]
    answer = written[prompt["input_ids"].shape[1] :].tolist()
    assert answer[-1] == tiny_tokenizer.im_end_id
    assert tokenizer.decode(answer, skip_special_tokens=True) == ANSWER["content"]
    greedy = SamplingConfig(max_new_tokens=30, temperature=0)
    ours = generate(
        load_checkpoint(checkpoint).model,
        prompt["input_ids"].tolist(),
        greedy,
        stop_ids={tiny_tokenizer.im_end_id},
    )
    assert ours[0].token_ids == answer[:-1] and ours[0].finish_reason == "stop"


def test_model_card_and_equal_bytes(base: Path, tmp_path: Path) -> None:
    """Catches a time or a path in an export: a release's digest must follow from its inputs."""
    first, second = (export_huggingface(base, tmp_path / name) for name in ("one", "two"))
    names = {path.name for path in first.iterdir()}
    assert names == {
        *("model.safetensors", "config.json", "generation_config.json", "README.md"),
        *("tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    }
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    card = (first / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-sa-4.0" in card and "- en\n- zh" in card and "2.7500" in card
    assert str(tmp_path) not in card


def test_what_is_there_is_not_overwritten(base: Path, tmp_path: Path) -> None:
    """Catches an export that mixes with older files, and a half export after a failure."""
    out = tmp_path / "out"
    out.mkdir()
    export_huggingface(base, out)  # an empty folder is as good as none
    with pytest.raises(BadInput, match="not empty"):
        export_huggingface(base, out)
    with pytest.raises(BadInput, match="dtype='int4'"):
        export_huggingface(base, tmp_path / "other", dtype="int4")
    with pytest.raises(BadInput, match="no LoRA adapter"):
        export_peft(base, tmp_path / "other")
    (base / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(BadInput):
        export_huggingface(base, tmp_path / "other")
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".*"))
