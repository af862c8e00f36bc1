"""The release folder: complete, the same every time, refused without its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.artifact import ArtifactRef, sha256_file
from storage.errors import BadInput
from storage.workspace import Workspace
from tasks.publish.config import PublishConfig
from tasks.publish.release import release_digest, write_release
from tasks.publish.task import publish

Make = Callable[..., ArtifactRef]
CONFIG = PublishConfig()


def test_release_holds_all_and_names_every_digest(
    make_checkpoint: Make, make_report: Make, workspace: Workspace
) -> None:
    """Catches a file that is left out, or changed after its digest was written down."""
    checkpoint = make_checkpoint(1, adapter=True)
    report = make_report(checkpoint, {"sft_bits_per_byte": 1.5, "recall@10": 0.5})
    counts = publish.run(checkpoint=checkpoint, report=report, config=CONFIG, workspace=workspace)
    out = workspace.path
    release = json.loads((out / "release.json").read_text())
    found = {
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and path.name != "release.json"
    }
    assert found == set(release["files"])
    assert {"huggingface/model.safetensors", "peft/adapter_model.safetensors"} < found
    assert {"report.md", "report.json"} < found
    assert all(sha256_file(out / name) == digest for name, digest in release["files"].items())
    assert release["metric"]["value"] == 1.5 and release["checkpoint"] == checkpoint.digest
    assert counts.metrics == {"sft_bits_per_byte": 1.5, "recall@10": 0.5}


@pytest.mark.parametrize("adapter", [False, True])
def test_same_inputs_same_release(
    adapter: bool, make_checkpoint: Make, make_report: Make, tmp_path: Path
) -> None:
    """Catches a clock, a path or a random order in the release, whose digest is its name.

    The folders hold what an interrupted attempt left: it must be replaced.
    """
    checkpoint = make_checkpoint(1, adapter=adapter)
    report = make_report(checkpoint, {"sft_bits_per_byte": 1.5})
    digests = []
    for number in range(6):  # safetensors orders two keys of a header either way
        out = tmp_path / str(number)
        (out / "huggingface").mkdir(parents=True)
        (out / "huggingface" / "model.safetensors").write_bytes(b"torn")
        write_release(
            checkpoint.path,
            report.path,
            out,
            checkpoint_digest=checkpoint.digest,
            config=CONFIG,
        )
        digests.append(release_digest(out))
    assert len(set(digests)) == 1
    assert (tmp_path / "0" / "peft").exists() == adapter


def test_report_of_another_checkpoint_is_refused(
    make_checkpoint: Make, make_report: Make, workspace: Workspace
) -> None:
    """Catches a model that is published with the figures of another one."""
    report = make_report(make_checkpoint(2), {"sft_bits_per_byte": 1.0})
    with pytest.raises(BadInput, match="not about digest-1"):
        publish.run(
            checkpoint=make_checkpoint(1), report=report, config=CONFIG, workspace=workspace
        )
