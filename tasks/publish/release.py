"""checkpoint + report -> a release folder: what someone else needs, and nothing else.

    huggingface/   loads in transformers, an adapter merged
    peft/          the adapter alone, where there is one that PEFT can hold
    report.md      how good it is
    report.json    the same for programs
    release.json   what this is, the deciding figure, the SHA-256 of every other file

The same checkpoint and report give the same bytes, so release.json's digest is the release's name.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.artifact import sha256_file
from storage.errors import BadInput
from storage.files import read_json, write_json
from tasks.publish.config import PublishConfig

FORMAT = 1
RELEASE = "release.json"


def write_release(
    checkpoint: Path, report: Path, out: Path, *, checkpoint_digest: str, config: PublishConfig
) -> dict[str, Any]:
    """Fill the folder `out` and return what release.json says.

    `checkpoint` and `report` are the artifacts' folders. A report that does not hold the
    checkpoint is BadInput; what an interrupted attempt left in `out` is replaced.
    """
    from etude_model.export.huggingface import export_huggingface
    from etude_model.export.peft import export_peft, fits_peft

    values = read_json(report / "report.json")
    entry = find_checkpoint(values, checkpoint_digest)
    for name in ("huggingface", "peft"):
        shutil.rmtree(out / name, ignore_errors=True)
    export_huggingface(checkpoint, out / "huggingface", dtype=config.dtype)
    if fits_peft(checkpoint):
        export_peft(checkpoint, out / "peft")
    for name in ("report.json", "report.md"):
        shutil.copyfile(report / name, out / name)
    release = {
        "format": FORMAT,
        "model_name": config.model_name,
        "stage": entry["stage"],
        "checkpoint": checkpoint_digest,
        "architecture": read_json(checkpoint / "config.json"),
        "training": entry["training"],
        "metric": {
            "name": config.metric,
            "value": entry["metrics"].get(config.metric),
            "lower_is_better": config.lower_is_better,
            "evaluated_on": values["evaluated_on"],
        },
        "metrics": entry["metrics"],
        "files": _digests(out),
    }
    write_json(out / RELEASE, release)
    return release


def find_checkpoint(report: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """Return a report's entry of the checkpoint with this digest; BadInput if it has none."""
    for entry in report["checkpoints"]:
        if entry["digest"] == digest:
            return dict(entry)
    names = ", ".join(f"{one['name']} {one['digest'][:10]}" for one in report["checkpoints"])
    raise BadInput(
        f"the report is about {names or 'no checkpoint'}, not about {digest[:10]}; "
        "evaluate this checkpoint and publish it with that report"
    )


def release_digest(release: Path) -> str:
    """Return the SHA-256 of release.json, which names the digest of every other file."""
    return sha256_file(release / RELEASE)


def _digests(out: Path) -> dict[str, str]:
    wanted = ["report.json", "report.md"]
    for folder in ("huggingface", "peft"):
        files = (path for path in (out / folder).rglob("*") if path.is_file())
        wanted += [path.relative_to(out).as_posix() for path in files]
    return {name: sha256_file(out / name) for name in sorted(wanted)}
