"""Our accuracies beside lm-evaluation-harness, which loads the same weights from our export.

Needs the extra `harness`: pip install "etude[harness]"
"""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from etude_model.config import EtudeConfig
from etude_model.evaluation.bits_per_byte import bits_per_byte, text_batches
from etude_model.evaluation.multiple_choice import answer_questions, evaluate_set
from etude_model.evaluation.questions import read_questions
from etude_model.export.huggingface import export_huggingface
from etude_model.inference.load import load_checkpoint
from etude_model.model.lora import base_state_dict
from etude_model.model.transformer import Etude
from etude_model.tokenizer import Tokenizer
from storage.files import write_json

pytestmark = pytest.mark.slow
WHY = 'lm_eval is not installed: pip install "etude[harness]"'
COLUMNS = {"ceval": ("question", "answer"), "cmmlu": ("Question", "Answer")}


def write_subject(path: Path, format: str, count: int, seed: int) -> None:
    """Write made-up questions of four options, as CSV."""
    question, answer = COLUMNS[format]
    draw = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", question, *"ABCD", answer])
        writer.writeheader()
        for number in range(count):
            row = {
                "id": number,
                question: " " + "".join(draw.choices("河山城市北方，", k=9)) + "。 ",
            }
            row |= {letter: "".join(draw.choices("人民历史水石", k=3)) for letter in "ABCD"}
            writer.writerow(row | {answer: draw.choice("ABCD")})


def write_hellaswag(path: Path, count: int, seed: int) -> None:
    """Write made-up beginnings with endings of unlike lengths, marks and spaces among them."""
    draw, words = random.Random(seed), ["river", "old", "[title]", "bridge", "NORTH", "[step]", ""]

    def text(longest: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(2, longest))) + draw.choice(
            ["", " ", "."]
        )

    rows = [
        {
            "activity_label": "Bridge building",
            "ctx_a": "river " + text(9),
            "ctx_b": draw.choice(["", "the old man " + text(4)]),
            "endings": ["city " + text(8) for _ in range(4)],
            "label": str(draw.randrange(4)),
        }
        for _ in range(count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_json_lines(path: Path, out: Path) -> Path:
    """Copy rows with every value a text: pandas, behind lm-eval's CSV reader, makes 0.50 a 0.5."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [
            {k: v for k, v in row.items() if k != "explanation"} for row in csv.DictReader(file)
        ]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def checkpoint(tiny_tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose weights are large enough for the choices to differ clearly."""
    tokenizer = Tokenizer(tiny_tokenizer_path)
    torch.manual_seed(0)
    config = EtudeConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=48,
        context_length=1024,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("harness") / "checkpoint"
    folder.mkdir()
    weights = base_state_dict(Etude(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config.model_dump(mode="json"))
    shutil.copyfile(tiny_tokenizer_path, folder / "tokenizer.model")
    write_json(folder / "training.json", {"stage": "pretrain", "steps": 1, "tokens_seen": 1})
    return folder


@pytest.fixture(scope="module")
def harness_model(checkpoint: Path) -> Callable[..., Any]:
    """A function that opens the exported folder in lm-eval's own Hugging Face model."""
    pytest.importorskip("lm_eval", reason=WHY)
    from lm_eval.models.huggingface import HFLM

    out = export_huggingface(checkpoint, checkpoint.parent / "huggingface")

    def load(**options: Any) -> Any:
        return HFLM(pretrained=str(out), device="cpu", dtype="float32", batch_size=7, **options)

    return load


def ask_harness(
    model: Any, folder: Path, base: str, files: dict[str, Path], few_shot: int
) -> dict[str, Any]:
    """Run a task of lm-eval, its own prompts and metrics, on local files."""
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    include = next((Path(lm_eval.__file__).parent / "tasks").rglob(f"{base}.yaml"))
    names = {name: str(path) for name, path in files.items()}
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(
        f"include: {include}\ntask: etude_{base}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {json.dumps({'data_files': names})}\n",
        encoding="utf-8",
    )
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[f"etude_{base}"],
        num_fewshot=few_shot,
        task_manager=TaskManager(include_path=str(folder)),
        bootstrap_iters=0,
        log_samples=True,
    )
    figures = found["results"][f"etude_{base}"]
    samples = sorted(found["samples"][f"etude_{base}"], key=lambda one: one["doc_id"])
    return {
        "acc": figures["acc,none"],
        "acc_norm": figures["acc_norm,none"],
        "prompts": [one["arguments"][0][0] for one in samples],
        "log_likelihoods": [[float(one[0]) for one in s["filtered_resps"]] for s in samples],
    }


@pytest.mark.parametrize("few_shot", [0, 2])
@pytest.mark.parametrize("format", ["ceval", "cmmlu", "hellaswag"])
def test_same_numbers_as_lm_eval(
    format: str, few_shot: int, checkpoint: Path, harness_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Catches another prompt, another cut into tokens, another length, another tie."""
    if format == "hellaswag":
        base, asked = "hellaswag", tmp_path / "hellaswag_validation.jsonl"
        examples = tmp_path / "hellaswag_train.jsonl"
        write_hellaswag(asked, 24, seed=1)
        write_hellaswag(examples, 9, seed=2)
        files = {"validation": asked, "train": examples}
    else:
        names = {"ceval": ("val", "law_val", "law_dev"), "cmmlu": ("test", "arts", "arts")}
        split, own, beside = names[format]
        base = "ceval-valid_law" if format == "ceval" else "cmmlu_arts"
        asked, examples = tmp_path / split / f"{own}.csv", tmp_path / "dev" / f"{beside}.csv"
        write_subject(asked, format, 24, seed=1)
        write_subject(examples, format, 9, seed=2)
        files = {
            split: as_json_lines(asked, tmp_path / "asked.jsonl"),
            "dev": as_json_lines(examples, tmp_path / "examples.jsonl"),
        }
    theirs = ask_harness(harness_model(), tmp_path / "task", base, files, few_shot)
    loaded = load_checkpoint(checkpoint)
    (questions,) = read_questions([asked], few_shot=few_shot)
    assert questions.name == format
    assert [one.prompt for one in questions.questions] == theirs["prompts"]
    answers, set_aside = answer_questions(loaded.model, loaded.tokenizer, questions.questions)
    assert not set_aside
    ours = [list(one.log_likelihoods) for one in answers]
    torch.testing.assert_close(
        torch.tensor(ours), torch.tensor(theirs["log_likelihoods"]), rtol=1e-5, atol=1e-4
    )
    overall = evaluate_set(loaded.model, loaded.tokenizer, questions).overall
    assert overall is not None and overall.num_questions == 24
    assert overall.acc == pytest.approx(theirs["acc"], abs=1e-12)
    assert overall.acc_norm == pytest.approx(theirs["acc_norm"], abs=1e-12)
    assert 0 < overall.acc < 1, "a figure that any mistake would leave as it is"


def test_real_questions_are_cut_as_lm_eval_cuts(
    checkpoint: Path, harness_model: Callable[..., Any], shared_data: Path, tmp_path: Path
) -> None:
    """Catches a long prompt that loses other tokens, and what only real question files contain."""
    val, dev = (
        shared_data / "eval" / "ceval" / split / f"law_{split}.csv" for split in ("val", "dev")
    )
    files = {
        "val": as_json_lines(val, tmp_path / "val.jsonl"),
        "dev": as_json_lines(dev, tmp_path / "dev.jsonl"),
    }
    theirs = ask_harness(harness_model(), tmp_path / "task", "ceval-valid_law", files, 5)
    loaded = load_checkpoint(checkpoint)
    (questions,) = read_questions([val], few_shot=5)
    assert not evaluate_set(loaded.model, loaded.tokenizer, questions).overall, "all are too long"
    answers, set_aside = answer_questions(
        loaded.model, loaded.tokenizer, questions.questions, cut_long=True, batch_size=8
    )
    assert not set_aside and [one.question.prompt for one in answers] == theirs["prompts"]
    torch.testing.assert_close(
        torch.tensor([list(one.log_likelihoods) for one in answers]),
        torch.tensor(theirs["log_likelihoods"]),
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.parametrize("context_length", [8, 1024])
def test_same_bits_per_byte_as_lm_eval(
    context_length: int, checkpoint: Path, harness_model: Callable[..., Any]
) -> None:
    """Catches a long text that is cut into other windows, or a special token that counts."""
    from lm_eval.api.instance import Instance

    loaded = load_checkpoint(checkpoint)
    texts = ["北方的城市，有一座大桥。" * 3, "old bridge, north river " * 4, "a"]
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    model = harness_model(add_bos_token=False, max_length=context_length)
    theirs = sum(model.loglikelihood_rolling(requests, disable_tqdm=True))
    pairs = [("xx", text) for text in texts]
    batches = text_batches(loaded.tokenizer, pairs, context_length=context_length)
    found = bits_per_byte(loaded.model, batches, loaded.tokenizer.token_bytes)
    expected = -theirs / math.log(2) / sum(len(text.encode()) for text in texts)
    assert found["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
