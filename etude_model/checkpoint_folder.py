"""A folder from anywhere -> its files, once it is known that opening them does no harm.

A model folder of a stranger, or one that a disk has half forgotten, is refused before any of it is
read: weights that are a pickle (opening one runs its code), a link that leads out of the folder, a
file that is not what the folder's own manifest says. What remains is safetensors and JSON.

    files = checked_files(folder, ("config.json", "model.safetensors"))
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage.artifact import sha256_file
from storage.errors import BadInput

MANIFEST = "manifest.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch.save: a zip file now, a bare pickle before 1.6


def checked_files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the paths of the files called `names`, all of them there, inside `folder` and whole.

    Whole means: with the SHA-256 that the folder's manifest.json gives, where it gives one. The
    first file that is missing, a pickle, elsewhere or changed is BadInput.
    """
    wanted = list(names)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise BadInput(_missing(folder, missing))
    digests = _digests(folder)
    return {name: _checked(folder, name, digests.get(name)) for name in wanted}


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; anything else is BadInput."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not JSON ({error}); copy it again from where it came") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path} holds a {type(values).__name__}, not an object; copy it again")
    return values


def _checked(folder: Path, name: str, digest: str | None) -> Path:
    path, home = folder / name, folder.resolve()
    target = path.resolve()
    if not target.is_relative_to(home):
        raise BadInput(
            f"{path} is a link to {target}, outside {home}; copy the folder with the files "
            "themselves in it (cp -rL)"
        )
    if path.suffix == ".safetensors" and _starts_like_pickle(path):
        raise BadInput(
            f"{path} cannot be read: it is a pickle, and opening one would run its code; "
            "get the model's safetensors"
        )
    if digest is not None and (found := sha256_file(path)) != digest:
        raise BadInput(
            f"{path} has the SHA-256 {found[:16]}…, {MANIFEST} says {digest[:16]}…; copy the "
            "folder again"
        )
    return path


def _starts_like_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith(_PICKLE_STARTS) and start[8:] != b"{"  # safetensors: length, then JSON


def _missing(folder: Path, missing: list[str]) -> str:
    pickles = sorted(
        path.name
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.suffix in PICKLE_SUFFIXES
    )
    if pickles and any(name.endswith(".safetensors") for name in missing):
        return (
            f"{folder} holds its weights as a pickle, {pickles[0]}, and opening one runs its code; "
            "get the model's safetensors"
        )
    return (
        f"{folder} is not a whole model folder, it lacks {', '.join(missing)}; "
        "give the folder of a finished training stage, or an export"
    )


def _digests(folder: Path) -> dict[str, str]:
    """Return what manifest.json says of the files: an artifact's list, or a plain name: digest."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    values = read_json_object(path)
    if isinstance(values.get("files"), list):
        return {entry["path"]: entry["sha256"] for entry in values["files"]}
    return {name: digest for name, digest in values.items() if isinstance(digest, str)}
