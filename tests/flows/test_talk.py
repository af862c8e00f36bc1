"""generate and chat with several adapters: who writes, and what becomes of a wrong name."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from etude_model.config import EtudeConfig, LoraConfig
from etude_model.model.lora import add_lora, lora_state_dict, save_lora
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from flows.cli import app
from flows.talk import adapter_references
from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.store import Store
from tasks.train_tokenizer.train import train_model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base checkpoint and, as LoRA checkpoints of it, two adapters."""
    home = tmp_path_factory.mktemp("talk")
    draw = random.Random(0)
    texts = [" ".join(draw.choices(["river", "old", "city", "古城"], k=6)) for _ in range(200)]
    (home / "tokenizer.model").write_bytes(
        train_model(texts, vocab_size=310, character_coverage=1.0, field="vocab_size")
    )
    config = EtudeConfig(
        vocab_size=Tokenizer(home / "tokenizer.model").vocab_size,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=32,
        context_length=64,
        initializer_range=0.3,
    )
    folders = {}
    for number, name in enumerate(("plain", "polite", "rude")):
        torch.manual_seed(0)
        model, folder = Etude(config), home / name
        folder.mkdir()
        save_file(model.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(config.model_dump_json())
        (folder / "training.json").write_text(json.dumps({"stage": "lora" if number else "sft"}))
        shutil.copyfile(home / "tokenizer.model", folder / "tokenizer.model")
        if number:
            add_lora(model, LoraConfig(rank=2))
            torch.manual_seed(number)
            with torch.no_grad():
                for key, weight in lora_state_dict(model).items():
                    if "lora_B" in key:
                        weight.normal_(0, 0.5)
            save_lora(model, folder, LoraConfig(rank=2))
        folders[name] = str(folder)
    return folders


def run(*arguments: str, stdin: str = "") -> dict:
    """Run the command in this process and return its last line."""
    result = CliRunner().invoke(app, [*arguments, "--json"], input=stdin)
    if result.exception is not None:
        raise result.exception
    answer: dict = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


def texts(*arguments: str) -> dict[tuple[str, str | None], str]:
    """Return what `generate` writes, by prompt and adapter."""
    options = ("--temperature", "0", "--max-tokens", "12")
    answer = run("generate", *arguments, *options)
    return {(one["prompt"], one.get("adapter")): one["text"] for one in answer["completions"]}


def test_each_adapter_continues_each_text(checkpoints: dict[str, str]) -> None:
    """Catches a batch in which adapters and prompts are paired wrongly."""
    polite, rude, plain = (checkpoints[name] for name in ("polite", "rude", "plain"))
    adapters = ("--adapter", f"nice={polite}", "--adapter", rude, "--adapter", "base")
    found = texts(polite, "river", "old city", *adapters)
    names = ("nice", "rude", "base")
    assert list(found) == [(prompt, name) for prompt in ("river", "old city") for name in names]
    for prompt in ("river", "old city"):
        assert found[prompt, "nice"] == texts(polite, prompt)[prompt, None]
        assert found[prompt, "rude"] == texts(rude, prompt)[prompt, None]
        assert found[prompt, "base"] == texts(plain, prompt)[prompt, None]
    assert len(set(found.values())) > 3


def test_a_line_calls_another_adapter(checkpoints: dict[str, str]) -> None:
    """Catches a switch that is answered as a question, and a typo that ends the conversation."""
    plain = checkpoints["plain"]
    adapters = [f"--adapter={name}={checkpoints[name]}" for name in ("polite", "rude")]
    lines = "river\n/adapter rude\n/adapter nobody\nriver\n"
    options = ("--temperature", "0", "--max-tokens", "6")
    messages = run("chat", plain, *adapters, *options, stdin=lines)["messages"]
    assert [one["content"] for one in messages if one["role"] == "user"] == ["river", "river"]
    alone = run("chat", checkpoints["polite"], *options, stdin="river\n")["messages"]
    assert messages[:2] == alone
    rude = run("chat", plain, *adapters, *options, stdin="/adapter rude\nriver\n")["messages"]
    assert rude == run("chat", checkpoints["rude"], *options, stdin="river\n")["messages"]


def test_a_lora_goes_out_to_peft_and_comes_back(
    checkpoints: dict[str, str], tmp_path: Path
) -> None:
    """Catches an import that asks for no base, and one that changes what the adapter says."""
    polite, plain = checkpoints["polite"], checkpoints["plain"]
    out = run("export", polite, str(tmp_path / "peft"), "--format", "peft")["folder"]
    with pytest.raises(BadInput, match="is a LoRA of PEFT; say to which checkpoint it belongs"):
        run("import", out, str(tmp_path / "back"))
    back = run("import", out, str(tmp_path / "back"), "--base", plain)["folder"]
    assert texts(back, "river") == texts(polite, "river")
    assert (
        texts(plain, "river", "--adapter", f"it={out}")["river", "it"]
        == texts(polite, "river")["river", None]
    )


def test_names_of_adapters() -> None:
    """Catches a path with = in it that is cut in two, and one name for two adapters."""
    given = ["nice=latest", "out/my=folder", "base", "3f2a"]
    expected = {"nice": "latest", "my=folder": "out/my=folder", "base": "base", "3f2a": "3f2a"}
    assert adapter_references(given) == expected
    for wrong in (["a/x", "b/x"], ["base=latest"], ["x=a", "x=b"]):
        with pytest.raises(BadInput, match="is taken; use --adapter OTHER="):
            adapter_references(wrong)


def test_a_text_is_as_long_as_the_context_allows(checkpoints: dict[str, str]) -> None:
    """Catches a default that a small model refuses, and advice that names no option."""
    plain = checkpoints["plain"]
    (written,) = run("generate", plain, "river", "--temperature", "0")["completions"]
    assert written["text"] and written["finish_reason"] in ("stop", "length")
    with pytest.raises(BadInput, match=r"^--max-tokens 63 is more than .* give at most 62,"):
        run("generate", plain, "river", "--max-tokens", "63")
    run("generate", plain, "river", "--max-tokens", "62")
    with pytest.raises(BadInput, match=r"^--max-tokens 0: "):
        run("generate", plain, "river", "--max-tokens", "0")
    with pytest.raises(BadInput, match="the model reads 64; shorten it"):
        run("generate", plain, "river " * 90)


def test_bytes_that_are_no_text(checkpoints: dict[str, str]) -> None:
    """Catches the tokenizer's own error where a line is Latin-1: nobody learns which."""
    plain, latin = checkpoints["plain"], b"river\n\xe9t\xe9\n"
    result = CliRunner().invoke(app, ["embed", plain, "--json"], input=latin)
    assert isinstance(result.exception, BadInput)
    assert str(result.exception).startswith("line 2 is not UTF-8 ")
    with pytest.raises(BadInput, match=r"^prompt 1 is not UTF-8 "):
        run("generate", plain, os.fsdecode(b"\xe9t\xe9"))
    result = CliRunner().invoke(app, ["chat", plain, "--json", "--max-tokens", "3"], input=latin)
    asked = json.loads(result.stdout.splitlines()[-1])["messages"][::2]
    assert [one["content"] for one in asked] == ["river", "\ufffdt\ufffd"]


def test_a_release_means_the_checkpoint_it_was_made_of(
    checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a release that only `evaluate` takes, and another kind taken for a model."""
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path))
    store = Store()

    def put(kind: str, inputs: dict[str, ArtifactRef], files: Path | None = None) -> ArtifactRef:
        with store.building(kind, f"{kind}1") as workspace:
            for file in files.iterdir() if files else ():
                shutil.copyfile(file, workspace.path / file.name)
            fixed = {"version": 1, "config": {}, "counts": Counts(1, 1), "seconds": 1.0}
            return store.commit(workspace, stage="x", inputs=inputs, **fixed)

    checkpoint = put("checkpoint", {}, Path(checkpoints["polite"]))
    put("release", {"checkpoint": checkpoint})
    put("pages", {})
    assert texts("release:latest", "river") == texts(checkpoints["polite"], "river")
    for command in (["generate", "pages:latest", "x"], ["export", "pages:latest", "out"]):
        with pytest.raises(BadInput, match=r"^pages:pages1 is not a checkpoint; give latest"):
            run(*command)
    shutil.rmtree(checkpoint.path)
    with pytest.raises(BadInput, match=r"is no longer in the store; .* etude import .*huggingface"):
        run("chat", "release:latest")
