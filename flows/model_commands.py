"""The commands that use a model: generate, chat, embed, evaluate, export, import.

`flows/cli.py` puts them under `etude`. Heavy modules are imported inside the commands.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.answers import Json, answer
from storage.errors import BadInput
from storage.store import Store, read_manifest

if TYPE_CHECKING:
    from etude_model.inference.load import LoadedModel

Checkpoint = Annotated[
    str,
    typer.Argument(
        help="A checkpoint: latest, a key or its beginning, release:latest for the one "
        "that a release was made of, or a folder."
    ),
]
Temperature = Annotated[float, typer.Option(help="0 is always the likeliest token.")]
TopK = Annotated[int, typer.Option(help="Choose among the k likeliest; 0 is all.")]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest of this mass.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1 repeats less.")]
Seed = Annotated[int, typer.Option(help="Same seed, same text.")]
AdapterNames = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", help="NAME=REF of a LoRA or a PEFT folder, or base for none; repeatable."
    ),
]


def generate(
    checkpoint: Checkpoint,
    prompts: Annotated[list[str], typer.Argument(help="One or more beginnings of a text.")],
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens to write; 100, or what the context leaves.")
    ] = None,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    repetition_penalty: RepetitionPenalty = 1.1,
    seed: Seed = 0,
    adapter: AdapterNames = None,
    json_: Json = False,
) -> None:
    """Continue texts; with several adapters, each of them continues each text.

    Example: etude generate latest "The Moon is" "水是" --temperature 0.7
    """
    from flows.talk import continue_texts, decoded, sampling

    settings = sampling(
        100 if max_tokens is None else max_tokens,
        temperature,
        top_k,
        top_p,
        repetition_penalty,
        seed,
    )
    loaded, names = _load(checkpoint, adapter)
    prompts = decoded("prompt", map(os.fsencode, prompts))
    texts = continue_texts(loaded, prompts, settings, names, cut=max_tokens is None)
    for text in [] if json_ else texts:
        who = f"[{text['adapter']}] " if names else ""
        print(f"{who}{text['prompt']}{text['text']}\n")
    answer({"completions": texts}, json_)


def chat(
    checkpoint: Checkpoint = "latest",
    system: Annotated[str, typer.Option(help="What the model should be.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens in an answer.")] = 200,
    temperature: Temperature = 0.3,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    repetition_penalty: RepetitionPenalty = 1.1,
    seed: Seed = 0,
    adapter: AdapterNames = None,
    json_: Json = False,
) -> None:
    """Talk with a checkpoint; lines come from the terminal or a pipe, an empty line ends it.

    Of several adapters the first answers, and a line "/adapter NAME" calls another.

    Example: echo "What is the Moon?" | etude chat latest
    """
    from flows.talk import dialogue, sampling

    settings = sampling(max_tokens, temperature, top_k, top_p, repetition_penalty, seed)
    loaded, names = _load(checkpoint, adapter)
    system = os.fsencode(system).decode("utf-8", "replace")
    messages = dialogue(loaded, settings, system=system, quiet=json_, adapters=names)
    answer({"messages": messages}, json_)


def embed(checkpoint: Checkpoint, json_: Json = False) -> None:
    """Write the embeddings of the lines of standard input as an .npy file to standard output.

    Example: etude embed latest < lines.txt > lines.npy
    """
    import numpy as np

    from etude_model.inference.load import load_checkpoint
    from flows.talk import decoded, embed_lines

    if sys.stdout.isatty() and not json_:
        raise BadInput("embeddings are binary; send them to a file: etude embed CKPT < lines > npy")
    loaded = load_checkpoint(_checkpoint_folder(checkpoint))
    lines = decoded("line", sys.stdin.buffer)
    vectors = embed_lines(loaded, [line.rstrip("\r\n") for line in lines])
    if json_:
        answer({"embeddings": vectors.tolist()}, json_)
    else:
        np.save(sys.stdout.buffer, vectors)


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, release:latest, or a folder.")],
    files: Annotated[list[Path], typer.Argument(help="Question files, folders, .txt files.")],
    few_shot: Annotated[int, typer.Option(help="Worked examples before each question.")] = 0,
    limit: Annotated[int | None, typer.Option(help="First questions of each file.")] = None,
    cut_long: Annotated[bool, typer.Option(help="Cut long prompts, as lm-eval does.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json_: Json = False,
) -> None:
    """Measure a model: C-Eval, CMMLU and HellaSwag files, bits per byte of texts.

    Example: etude evaluate latest ceval/val book.txt --few-shot 5
    """
    from etude_model.device import pick_device
    from etude_model.evaluation.measure import MeasureOptions, lines, measure, open_model

    options = MeasureOptions(few_shot, limit, cut_long)
    chosen = str(pick_device(device))
    loaded = open_model(_model_folder(checkpoint), device=chosen)
    values = measure(loaded, files, options)
    for line in [] if json_ else lines(values):
        print(line)
    answer(values, json_)


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    format_: Annotated[str, typer.Option("--format", help="hf, gguf, embeddings or peft.")] = "hf",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 (the default), bfloat16 or float16; for gguf also q8_0."),
    ] = None,
    json_: Json = False,
) -> None:
    """Write a checkpoint in a format that other programs load.

    hf is for transformers and vLLM, gguf for llama.cpp and Ollama, embeddings for
    sentence-transformers; peft writes a LoRA's adapter alone.

    Example: etude export latest ./my-model --format gguf --dtype q8_0
    """
    from etude_model.export.embeddings import export_embeddings
    from etude_model.export.gguf import export_gguf
    from etude_model.export.huggingface import export_huggingface
    from etude_model.export.peft import export_peft

    writers = {"hf": export_huggingface, "gguf": export_gguf, "embeddings": export_embeddings}
    if format_ not in (*writers, "peft"):
        names = ", ".join((*writers, "peft"))
        raise BadInput(f"--format {format_} is unknown; choose one of {names}")
    if format_ == "peft" and dtype is not None:
        raise BadInput(f"--dtype {dtype}: an adapter keeps its own number format; leave it out")
    source = _checkpoint_folder(checkpoint)
    if format_ == "peft":
        folder = export_peft(source, out)
    else:
        folder = writers[format_](source, out, dtype=dtype or "float32")
    if not json_:
        print(folder)
    answer({"folder": str(folder), "format": format_}, json_)


def import_(
    model: Annotated[
        Path, typer.Argument(help="A Hugging Face folder: Qwen3, Qwen3-MoE, Dots1, or PEFT's LoRA.")
    ],
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    texts: Annotated[
        Path | None, typer.Option(help="A text file; the tokens it uses are kept first.")
    ] = None,
    vocab_size: Annotated[
        int, typer.Option(help="Most ids of a foreign byte-level tokenizer to keep.")
    ] = 65536,
    base: Annotated[str, typer.Option(help="Of a LoRA: the checkpoint it belongs to.")] = "",
    json_: Json = False,
) -> None:
    """Turn a Hugging Face model into a checkpoint, to talk to it or to train on from it.

    A model's own vocabulary may be larger than what shards hold and small models need: what your
    texts do not use is cut off.

    Example: etude import ./Qwen3-0.6B ./parent --texts mine.txt --vocab-size 32768
    """
    from etude_model.export.import_huggingface import import_huggingface
    from etude_model.export.peft import import_peft

    if texts is not None and not texts.is_file():
        raise BadInput(f"--texts {texts} is not there; give a text file in UTF-8")
    if not base and (model / "adapter_config.json").is_file():
        raise BadInput(f"{model} is a LoRA of PEFT; say to which checkpoint it belongs: --base REF")
    if base:
        folder = import_peft(model, _checkpoint_folder(base), out)
    else:
        lines = texts.open(encoding="utf-8", errors="replace") if texts is not None else ()
        folder = import_huggingface(model, out, texts=lines, vocab_size=vocab_size)
    if not json_:
        print(folder)
    answer({"folder": str(folder)}, json_)


def _load(checkpoint: str, adapters: list[str] | None) -> tuple[LoadedModel, list[str]]:
    """Return the model a CKPT names with its adapters beside it, and the adapters' names."""
    from etude_model.inference.load import load_checkpoint
    from flows.talk import BASE, adapter_references

    folder, references = _checkpoint_folder(checkpoint), adapter_references(adapters or [])
    if not references:
        return load_checkpoint(folder), []
    folders = {name: _checkpoint_folder(ref) for name, ref in references.items() if name != BASE}
    return load_checkpoint(folder, adapters=folders), list(references)


def _model_folder(text: str) -> Path:
    """Return the folder a CKPT names: a given one, or a checkpoint or release of the store."""
    folder = Path(text)
    if folder.is_dir():
        return folder
    ref = Store().resolve(text, kind="checkpoint")
    if ref.kind not in ("checkpoint", "release"):
        raise BadInput(f"{ref} is not a checkpoint; give latest, a checkpoint's key or a folder")
    return ref.path


def _checkpoint_folder(text: str) -> Path:
    """Return the folder of the checkpoint a CKPT names; of a release, the one it was made of."""
    folder, store = _model_folder(text), Store()
    manifest = read_manifest(folder)
    if manifest is None or manifest.kind != "release":
        return folder
    found = store.find("checkpoint", manifest.inputs["checkpoint"]["key"])
    if found is None:
        raise BadInput(
            f"the checkpoint that {text} was made of is no longer in the store; make one of what "
            f"was published: etude import {folder / 'huggingface'} OUT"
        )
    return found.path
