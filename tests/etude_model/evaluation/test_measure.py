"""The command for any model and any files: checkpoints, exports, releases, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from etude_model.evaluation.__main__ import main
from etude_model.evaluation.measure import MeasureOptions, lines, measure, open_model
from etude_model.export.huggingface import export_huggingface
from storage.errors import BadInput

SWAG = {"activity_label": "a", "ctx_a": "old", "ctx_b": "city", "endings": ["river", "bridge"]}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Four questions, one of them without an answer and one too long; and a text."""
    long = " ".join(["city"] * 40)
    rows = [SWAG | {"label": label} for label in ("0", "1", "")]
    rows.append(SWAG | {"label": "1", "ctx_a": long})
    swag, text = tmp_path / "swag.jsonl", tmp_path / "北方.txt"
    swag.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    text.write_text("北方的城市 old bridge\n" * 5, encoding="utf-8")
    return [swag, text]


def test_all_kinds_of_folders_give_the_same_figures(
    parent_checkpoint: Path, files: list[Path], tmp_path: Path
) -> None:
    """Catches a release or an export that cannot be measured, or is measured as another model."""
    expected = measure(open_model(parent_checkpoint), files)
    swag, text = expected["multiple_choice"]["hellaswag"], expected["texts"][str(files[1])]
    assert swag["num_questions"] == 2 and swag["acc"] == 0.5, "two equal questions, two answers"
    assert swag["set_aside"] == {"longer than the model reads": 1, "no answer": 1}
    characters, size = len(files[1].read_text()), files[1].stat().st_size
    share = text["bits_per_byte"] * size / (text["bits_per_character"] * characters)
    assert share == pytest.approx(1)
    release = tmp_path / "release"
    release.mkdir()
    export_huggingface(parent_checkpoint, release / "huggingface")
    for folder in (release, release / "huggingface"):
        found = measure(open_model(folder), files)
        assert found["texts"][str(files[1])] == pytest.approx(text, rel=1e-5)
        assert found["multiple_choice"] == expected["multiple_choice"]
    shown = "\n".join(lines(expected))
    assert "hellaswag: acc 0.5000 (0.0" in shown and "chance 0.5000, 2 questions" in shown
    assert "1 rows set aside, no answer" in shown and "bits_per_character" in shown


def test_command_line(
    parent_checkpoint: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches options that get lost on their way, and errors that come as a traceback."""
    names = [str(parent_checkpoint), *map(str, files), "--device", "cpu"]
    assert main([*names, "--limit", "1", "--batch-size", "1"]) == 0
    values: dict[str, Any] = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert values["multiple_choice"]["hellaswag"]["num_questions"] == 1
    assert main([*names, "--few-shot", "1", "--cut-long"]) == 0
    values = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert values["multiple_choice"]["hellaswag"]["num_questions"] == 3
    for bad, message in (
        (["nowhere.csv"], "nowhere.csv is no file"),
        (["nowhere.txt"], "nowhere.txt cannot be read"),
        ([str(files[1]), "--few-shot", "-1"], "few_shot=-1 is too small"),
    ):
        assert main([str(parent_checkpoint), *bad, "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err


def test_what_is_no_model_or_no_file_is_refused(parent_checkpoint: Path, tmp_path: Path) -> None:
    """Catches a broken config that passes for a foreign model, and a command about nothing."""
    broken = tmp_path / "broken"
    shutil.copytree(parent_checkpoint, broken)
    (broken / "config.json").write_text("{")
    with pytest.raises(BadInput):
        open_model(broken)
    with pytest.raises(BadInput, match="no file is given"):
        measure(open_model(parent_checkpoint), [], MeasureOptions())
