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
from typer.testing import CliRunner

from etude_model.inference.load import load_checkpoint
from flows.cli import app
from storage.artifact import ArtifactRef, Counts
from storage.errors import BadInput
from storage.files import write_json
from storage.store import Store
from tasks.evaluate.champion import champion_markdown, newest_release
from tasks.evaluate.choices import question_identity
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.evaluate import chance, checkpoint_names
from tasks.evaluate.measures import with_change
from tasks.evaluate.prompts import whole_characters
from tasks.evaluate.report import report_markdown

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
            "recall@5": (ranks <= 5).mean(),
            "recall@10": (ranks <= 10).mean(),
            "mrr@10": np.where(ranks <= 10, 1 / ranks, 0).mean(),
        }
        assert chance(size) == pytest.approx(measured, abs=5e-3)


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


def test_multiple_choice_in_the_report(house: Any, tmp_path: Path) -> None:
    """Catches accuracies without their chance and interval, and rows that vanish in silence."""
    questions = tmp_path / "questions" / "val" / "law_val.csv"
    questions.parent.mkdir(parents=True)
    rows = ["question,A,B,C,D,answer"]
    rows += [f"{number}?,a,b,c,d,{'ABCD'[number % 4]}" for number in range(6)] + ["7?,a,b,c,d,"]
    questions.write_text("\n".join(rows) + "\n")
    config = CONFIG.model_copy(
        update={"multiple_choice": (str(questions.parent),), "cut_long_prompts": True}
    )
    counts, path = replace(house, checkpoints=house.checkpoints[:2]).run(tmp_path / "out", config)
    report = json.loads((path / "report.json").read_text())
    for one in report["checkpoints"]:
        result = one["multiple_choice"]["ceval"]
        assert result["num_questions"] == 6 and result["set_aside"] == {"no answer": 1}
        low, high = result["acc_interval"]
        assert low <= result["acc"] == one["metrics"]["acc/ceval"] <= high
        assert result["subjects"]["law"]["num_questions"] == 6
    text = (path / "report.md").read_text(encoding="utf-8")
    row = next(line for line in text.split("\n") if line.startswith("| ceval | semantic | 6 |"))
    assert " 0.2500 | no different from chance |" in row
    assert "- ceval: 1 rows set aside, no answer" in text
    assert (path / "logs" / "multiple_choice.png").read_bytes().startswith(b"\x89PNG")
    assert counts.metrics["pretrain/acc/ceval"] == report["checkpoints"][0]["metrics"]["acc/ceval"]
    questions.write_text("\n".join(rows[:5]) + "\n")
    _, path = replace(house, checkpoints=[]).run(tmp_path / "fewer", config)
    fewer = json.loads((path / "report.json").read_text())
    assert fewer["evaluated_on"] != report["evaluated_on"], "figures of other questions compare"


def test_question_files_decide_the_key(tmp_path: Path) -> None:
    """Catches a report that is reused although a question or a worked example was corrected."""
    for split in ("val", "dev"):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"law_{split}.csv").write_text("question,A,B,C,D,answer\n?,a,b,c,d,A\n")
    plain = CONFIG.model_copy(update={"multiple_choice": (str(tmp_path),)})
    shots = plain.model_copy(update={"few_shot": 1})
    before = question_identity(plain), question_identity(shots)
    (tmp_path / "dev" / "law_dev.csv").write_text("question,A,B,C,D,answer\n?,a,b,c,d,B\n")
    assert question_identity(plain) == before[0] and question_identity(shots) != before[1]
    (tmp_path / "val" / "law_val.csv").write_text("question,A,B,C,D,answer\n?,a,b,c,d,B\n")
    assert question_identity(plain) != before[0]
    with pytest.raises(BadInput, match="nowhere is not there"):
        question_identity(CONFIG.model_copy(update={"multiple_choice": ("nowhere",)}))


def test_changes_are_said_the_right_way_round() -> None:
    """Catches a rise in bits per byte that is praised, and an arrow where nothing changed."""
    assert with_change("bits_per_byte/zh", 1.9, 2.0) == "1.9000 (-0.1000 ▲)"
    assert with_change("recall@10", 0.5, 0.75) == "0.5000 (-0.2500 ▼)"
    assert with_change("acc/ceval", 0.25, 0.25) == "0.2500 (+0.0000)"
    assert with_change("texts_ended", 0.5, 0.25) == "0.5000 (+0.2500)"
    assert with_change("longest_loop", 3.0, None) == "3.0000"
    assert with_change("longest_loop", None, 3.0) == ""


def test_report_shows_the_change_from_the_checkpoint_before(finished: tuple[Counts, Path]) -> None:
    """Catches a change from the wrong checkpoint: it is from the one on the left."""
    report = json.loads((finished[1] / "report.json").read_text())
    first, second = (one["metrics"]["bits_per_byte"] for one in report["checkpoints"][:2])
    text = (finished[1] / "report.md").read_text(encoding="utf-8")
    row = next(line for line in text.split("\n") if line.startswith("| bits_per_byte |"))
    assert row.startswith(f"| bits_per_byte | {first:.4f} | {second:.4f} ({second - first:+.4f} ")
    assert (finished[1] / "logs" / "changes.png").read_bytes().startswith(b"\x89PNG")


def release_of(checkpoint: str, data: str, metrics: dict[str, float]) -> dict[str, Any]:
    """Return what release.json says, as far as a report looks at it."""
    metric = {"name": "bits_per_byte", "evaluated_on": data}
    values = {"model_name": "etude", "stage": "lora", "checkpoint": checkpoint}
    return values | {"metric": metric, "metrics": metrics}


def test_beside_a_release(finished: tuple[Counts, Path]) -> None:
    """Catches figures of unlike data that are compared, and a model compared with itself."""
    report = json.loads((finished[1] / "report.json").read_text())
    ours = report["checkpoints"][-1]["metrics"]
    row = f"| bits_per_byte | 1.0000 | {ours['bits_per_byte']:.4f}"
    metrics = ours | {"bits_per_byte": 1.0}
    same = champion_markdown(release_of("older", report["evaluated_on"], metrics), report)
    assert f"{row} ({ours['bits_per_byte'] - 1:+.4f} ▼) |" in same and "other" not in same
    other = champion_markdown(release_of("older", "other", metrics), report)
    assert f"{row} |" in other and "other held-out data" in other
    itself = champion_markdown(release_of("digest3", "other", metrics), report)
    assert "It is this lora checkpoint itself." in itself and row not in itself


def test_the_newest_release_is_for_the_logs_only(
    house: Any, finished: tuple[Counts, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a digest that depends on what was published before."""
    store = Store(tmp_path / "home")
    monkeypatch.setenv("ETUDE_HOME", str(tmp_path / "home"))
    assert newest_release(store) is None
    for number in (1, 2):
        with store.building("release", f"release{number}") as workspace:
            values = release_of(f"older{number}", "other", {"bits_per_byte": number})
            write_json(workspace.path / "release.json", values)
            store.commit(
                workspace,
                stage="publish",
                version=1,
                config={},
                inputs={},
                counts=Counts(1, 1),
                seconds=1.0,
            )
    older = store.root / "release" / "release1" / "manifest.json"  # older, but used last
    write_json(older, json.loads(older.read_text()) | {"created": "2001-01-01T00:00:00+00:00"})
    _, path = house.run(tmp_path / "out", CONFIG)
    for file in ("report.json", "report.md", "samples.json"):
        assert (path / file).read_bytes() == (finished[1] / file).read_bytes(), file
    plain, shown = path / "report.md", (path / "logs" / "report.md").read_text(encoding="utf-8")
    assert shown.startswith(plain.read_text(encoding="utf-8"))
    assert "| bits_per_byte | 2.0000 | " in shown.partition("## Beside the newest release")[2]
    picture = (path / "logs" / "changes-from-release.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_command(house: Any, tmp_path: Path) -> None:
    """Catches a command that measures another folder than the one it is given, or a bare text."""
    text = tmp_path / "some.txt"
    text.write_text("old bridge, 古城。\n" * 20, encoding="utf-8")
    runner = CliRunner()
    values = []
    for ref in house.checkpoints[:2]:
        found = runner.invoke(app, ["evaluate", str(ref.path), str(text), "--device=cpu", "--json"])
        assert found.exit_code == 0, found.output
        values.append(json.loads(found.output.strip().split("\n")[-1])["texts"][str(text)])
    assert 0 < values[1]["bits_per_byte"] != values[0]["bits_per_byte"] < 12
    shown = runner.invoke(app, ["evaluate", str(house.checkpoints[0].path), str(text)])
    assert f"{values[0]['bits_per_byte']:.4f} bits_per_byte" in shown.output
    refused = runner.invoke(app, ["evaluate", str(house.checkpoints[0].path), "nowhere.csv"])
    assert isinstance(refused.exception, BadInput) and "nowhere.csv" in str(refused.exception)


def test_retrieval_by_source_stands_beside_its_baselines(finished: tuple[Counts, Path]) -> None:
    """Catches dozens of rows in which nobody finds whether the model beats word matching."""
    report = json.loads((finished[1] / "report.json").read_text())
    figures = {f"{name}recall@10{of}": 0.5 for name in ("", "bm25/") for of in ("", "/lead/en")}
    after = figures | {"recall@10/lead/en": 0.75, "input_embeddings/recall@10": 0.25}
    training = report["checkpoints"][1]["training"] | {
        "evaluations": {"before": figures, "after": after}
    }
    report["checkpoints"][1]["training"] = training
    text = report_markdown(report, [])
    table = text.partition("## Retrieval by source")[2].partition("##")[0]
    assert "| semantic | all | 0.5000 | 0.5000 (+0.0000) | 0.5000 | 0.2500 |" in table
    assert "| semantic | lead/en | 0.5000 | 0.7500 (+0.2500 ▲) | 0.5000 |  |" in table
    changed = text.partition("## What each training changed")[2].partition("##")[0]
    assert "| semantic | 5 | 100 | recall@10 | 0.5000 | 0.5000 |" in changed
    assert "lead/en" not in changed and "bm25" not in changed
