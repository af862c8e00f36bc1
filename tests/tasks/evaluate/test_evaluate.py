"""The report against slow second computations, on tiny real checkpoints and shards."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from etude_model.inference.load import load_checkpoint
from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.evaluate import chance, checkpoint_names, repetition
from tasks.evaluate.prompts import whole_characters

CONFIG = EvaluateConfig(num_rows=200, num_pairs=30, max_new_tokens=12, prompt_tokens=4)


@pytest.fixture(scope="module")
def finished(house: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Counts, Path]:
    """The stage, run once."""
    return house.run(tmp_path_factory.mktemp("report") / "workspace", CONFIG)


def test_bits_per_byte_is_that_of_each_text_alone(
    house: Any, finished: tuple[Counts, Path]
) -> None:
    """Catches padding, neighbours or special tokens that count: each text is scored by itself."""
    report = json.loads((finished[1] / "report.json").read_text())
    for ref, entry in zip(house.checkpoints, report["checkpoints"], strict=True):
        model = load_checkpoint(ref.path).model
        nats = dict.fromkeys(house.texts, 0.0)
        for language, texts in house.texts.items():
            for text in texts:
                ids = [house.tokenizer.bos_id, *house.tokenizer.encode(text)]
                with torch.no_grad():
                    logits = model.logits(model(torch.tensor([ids])))[0]
                losses = torch.nn.functional.cross_entropy(
                    logits[:-1], torch.tensor(ids[1:]), reduction="sum"
                )
                nats[language] += float(losses)
        sizes = {name: sum(len(t.encode()) for t in texts) for name, texts in house.texts.items()}
        for language, total in nats.items():
            expected = total / math.log(2) / sizes[language]
            found = entry["metrics"][f"bits_per_byte/{language}"]
            assert found == pytest.approx(expected, abs=6e-5)
        expected = sum(nats.values()) / math.log(2) / sum(sizes.values())
        assert entry["metrics"]["bits_per_byte"] == pytest.approx(expected, abs=6e-5)
        assert "bits_per_byte/de" not in entry["metrics"]


def test_the_taught_model_answers_and_ends(house: Any, finished: tuple[Counts, Path]) -> None:
    """Catches a prompt cut in the wrong place: only the exact prompt brings the learned answer."""
    report = json.loads((finished[1] / "report.json").read_text())
    figures = {one["name"]: one["metrics"] for one in report["checkpoints"]}
    assert figures["sft"]["answers_ended"] == 1.0
    assert figures["sft"]["sft_bits_per_byte"] < 0.2 < figures["pretrain"]["sft_bits_per_byte"]
    assert "answers_ended" not in figures["pretrain"]
    samples = json.loads((finished[1] / "samples.json").read_text())
    answers = {one["prompt"]: one["text"] for one in samples if one["checkpoint"] == "sft"}
    assert answers == {f"user: {asked}": answer for asked, answer in house.answers.items()}


def test_samples_are_of_every_language_and_checkpoint(
    house: Any, finished: tuple[Counts, Path]
) -> None:
    """Catches a stage that gets no samples, or the chat template for a model that cannot chat."""
    samples = json.loads((finished[1] / "samples.json").read_text())
    number = {
        (name, language): sum((s["checkpoint"], s["language"]) == (name, language) for s in samples)
        for name in ("pretrain", "semantic", "sft", "lora")
        for language in house.texts
    }
    assert set(number.values()) == {2, 3}  # two dialogues a language, three texts
    for one in samples:
        if one["checkpoint"] == "pretrain":
            texts = house.texts[one["language"]]
            assert any(text.startswith(one["prompt"]) for text in texts) and one["prompt"]


def test_same_bytes_again(house: Any, finished: tuple[Counts, Path], tmp_path: Path) -> None:
    """Catches a clock, a path or an unseeded sample in what enters the report's digest."""
    _, path = house.run(tmp_path / "again", CONFIG)
    for file in ("report.json", "report.md", "samples.json"):
        assert (path / file).read_bytes() == (finished[1] / file).read_bytes(), file


def test_batch_size_changes_nothing(
    house: Any, finished: tuple[Counts, Path], tmp_path: Path
) -> None:
    """Catches a mean of batch means, and ranks within a batch instead of the whole pool."""
    changed, _ = house.run(tmp_path / "batches", CONFIG.model_copy(update={"batch_size": 7}))
    assert changed.metrics == pytest.approx(dict(finished[0].metrics), abs=2e-4)


def test_report_for_people(finished: tuple[Counts, Path]) -> None:
    """Catches a table without the random chance, or figures that MLflow and Prefect do not see."""
    counts, path = finished
    text = (path / "report.md").read_text(encoding="utf-8")
    assert "| measure | pretrain | semantic | sft | lora | chance |" in text
    row = next(line for line in text.split("\n") if line.startswith("| recall@10 |"))
    assert row.endswith(f" {10 / 30:.4f} |")
    assert "| pretrain | 5 | 100 | bits_per_byte | 3.5000 | 2.5000 |" in text
    assert (path / "logs" / "report.md").read_text(encoding="utf-8") == text
    assert (path / "logs" / "bits_per_byte.png").read_bytes().startswith(b"\x89PNG")
    assert counts.seen == counts.kept == 4
    assert 0 <= counts.metrics["lora/recall@10"] <= 1
    assert str(path) not in text


def test_without_held_out_dialogues_and_pairs(house: Any, tmp_path: Path) -> None:
    """Catches a small corpus, all of whose dialogues fell to training, that stops the whole run."""
    empty = ArtifactRef("shards", "none", "digest-none", tmp_path / "none")
    empty.path.mkdir()
    one = house.checkpoints[2:3]
    bare = replace(house, checkpoints=one, lm=empty, sft=empty, pairs=empty)
    counts, path = bare.run(tmp_path / "out", CONFIG)
    assert counts.metrics == {}
    report = json.loads((path / "report.json").read_text())
    assert report["checkpoints"][0]["metrics"] == {} and report["chance"] == {}


def test_shards_of_another_tokenizer_are_refused(house: Any, tmp_path: Path) -> None:
    """Catches figures about ids that mean something else."""
    (tmp_path / "other").mkdir()
    model = house.tokenizer.path.read_bytes()
    # The same model with an unknown protobuf field (number 1000) at its end.
    (tmp_path / "other" / "tokenizer.model").write_bytes(model + b"\xc0\x3e\x01")
    other = ArtifactRef("tokenizer", "o", "o", tmp_path / "other")
    with pytest.raises(BadInput, match="lm_shards were made with tokenizer"):
        replace(house, tokenizer_ref=other).run(tmp_path / "out", CONFIG)


def test_chance_is_what_a_random_ranking_reaches() -> None:
    """Catches 10 / pool where the pool has fewer than ten, and a wrong sum for the rank."""
    draw = np.random.default_rng(0)
    for size in (4, 30):
        ranks = draw.integers(1, size + 1, 200_000)
        measured = {
            "recall@1": (ranks <= 1).mean(),
            "recall@10": (ranks <= 10).mean(),
            "mrr@10": np.where(ranks <= 10, 1 / ranks, 0).mean(),
        }
        assert chance(size) == pytest.approx(measured, abs=5e-3)


def test_repetition() -> None:
    """Catches a loop that counts as variety, or a short text that counts as a loop."""
    assert repetition([1, 2, 3]) == repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([7] * 13) == pytest.approx(0.9)


def test_names_stay_apart(tmp_path: Path) -> None:
    """Catches two checkpoints of one stage whose figures overwrite each other."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "training.json").write_text('{"stage": "sft"}')
    assert checkpoint_names(folders) == ["sft", "sft-2"]


def test_a_prompt_is_not_cut_inside_a_character(house: Any) -> None:
    """Catches a report that shows half a character, where rows and prompts are cut at tokens."""
    ids = house.tokenizer.encode("龘 and 鱻")
    assert len(house.tokenizer.encode("龘")) == 3, "the character must be three byte tokens"
    assert house.tokenizer.decode(whole_characters(house.tokenizer, ids)) == "龘 and 鱻"
    assert house.tokenizer.decode(whole_characters(house.tokenizer, ids[1:-1])) == " and "
    assert whole_characters(house.tokenizer, ids[:1]) == ids[:1]
