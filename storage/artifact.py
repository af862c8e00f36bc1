"""What an artifact is: a kind, a key, files with digests, and a manifest that says whence.

The key is decided before any work (stage, version, config, digests of the inputs); the digest is
known after it (the files' contents). Because inputs enter by digest, equal bytes out of a stage
mean that nothing below it runs again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

KINDS = (
    "dump",
    "pages",
    "documents",
    "corpus",
    "passages",
    "pairs",
    "dialogues",
    "tokenizer",
    "shards",
    "checkpoint",
    "report",
    "release",
)
MANIFEST = "manifest.json"
LOGS = "logs"  # pictures, logs and events: kept beside the data, never part of the digest
FORMAT = 1


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A finished artifact: where it lies and the digest of its contents."""

    kind: str
    key: str
    digest: str
    path: Path

    def files(self, name: str) -> list[Path]:
        """Return the artifact's files called `name`, over all its parts, in order of part."""
        return sorted(self.path.rglob(name))

    def __str__(self) -> str:
        """Return `kind:key` with the key cut to the ten characters people read."""
        return f"{self.kind}:{self.key[:10]}"


@dataclass(frozen=True, slots=True)
class Counts:
    """The ledger of a piece of work: every row seen is a row kept or a counted reason.

    `rows` is the number of rows written where it differs from `kept` (one document gives several
    passages). `metrics` are further sums (characters, tokens); they add up over parts.
    """

    seen: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    rows: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a ledger that does not add up: a lost row is a bug."""
        lost = self.seen - self.kept - sum(self.dropped.values())
        if lost:
            raise AssertionError(
                f"the ledger does not add up: seen={self.seen} kept={self.kept} "
                f"dropped={dict(self.dropped)}, {lost} rows unaccounted for"
            )

    @property
    def rows_out(self) -> int:
        """Return the number of rows written."""
        return self.kept if self.rows is None else self.rows

    @staticmethod
    def total(parts: Iterable[Counts]) -> Counts:
        """Return the sum of the parts' ledgers."""
        seen = kept = rows = 0
        dropped: dict[str, int] = {}
        metrics: dict[str, float] = {}
        for part in parts:
            seen, kept, rows = seen + part.seen, kept + part.kept, rows + part.rows_out
            for reason, number in part.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + number
            for name, value in part.metrics.items():
                metrics[name] = metrics.get(name, 0) + value
        return Counts(seen, kept, dropped, rows, metrics)

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as plain JSON values, reasons sorted."""
        return {
            "seen": self.seen,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "rows": self.rows_out,
            "metrics": dict(sorted(self.metrics.items())),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Counts:
        """Read back what `to_json` wrote."""
        return Counts(
            values["seen"], values["kept"], values["dropped"], values["rows"], values["metrics"]
        )


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact. `mtime_ns` only tells whether it must be hashed again."""

    path: str
    size: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is known of a finished artifact; written last, so its presence means finished."""

    kind: str
    key: str
    digest: str
    stage: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    files: tuple[FileEntry, ...]
    counts: Counts
    created: str
    seconds: float
    links: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def num_bytes(self) -> int:
        """Return the size of all files."""
        return sum(entry.size for entry in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values."""
        return asdict(self) | {"counts": self.counts.to_json()}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Manifest:
        """Read back what `to_json` wrote."""
        files = tuple(FileEntry(**entry) for entry in values["files"])
        counts = Counts.from_json(values["counts"])
        return Manifest(**(values | {"files": files, "counts": counts}))


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def artifact_key(
    stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> str:
    """Return the key of what a stage will write: 20 hex digits of a SHA-256.

    `inputs` maps an input's name to its content digest, never to its key: that is the early
    cut-off.
    """
    identity = {"stage": stage, "version": version, "config": config, "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:20]


def content_digest(files: Iterable[FileEntry]) -> str:
    """Return the digest of an artifact: of the names and contents of all files outside `logs/`."""
    lines = sorted(
        f"{entry.path}\0{entry.sha256}" for entry in files if not entry.path.startswith(f"{LOGS}/")
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
