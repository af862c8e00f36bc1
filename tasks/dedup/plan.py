"""The plan of the corpus: one row per document, what happens to it, and to whom it belongs.

Held in memory are about 100 bytes a document, 350 at the peak (measured with 800,000); texts,
sketches and paragraphs are not. Rows are in the order of (wiki, page id), so the smallest row of a
cluster is its oldest page. For those who write the corpus the plan is a small file beside each
file of documents, with the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.dedup.clusters import Clusters

PLAN = pa.schema(
    {
        "reason": pa.string(),
        "detail": pa.string(),
        "cluster": pa.string(),
        "split": pa.string(),
        "lost": pa.list_(pa.uint64()),
    }
)
BATCH_ROWS = 65_536
_SCHEMA = {
    "wiki": pl.String,
    "language": pl.String,
    "page_id": pl.Int64,
    "rev_id": pl.Int64,
    "content": pl.Binary,
    "skeleton": pl.UInt64,
    "num_ngrams": pl.Int32,
    "num_chars": pl.Int32,
    "body_chars": pl.Int32,
    "alpha_ratio": pl.Float32,
    "link_density": pl.Float32,
}
Rows = NDArray[np.integer[Any]]


class Reason(IntEnum):
    """Why a document goes; 0 = it stays."""

    STAYS = 0
    OLDER_REVISION = 1
    FEW_LETTERS = 2
    MOSTLY_LINKS = 3
    DUPLICATE = 4
    BOT_STUB = 5
    NEAR_DUPLICATE = 6
    REPEATED_PARAGRAPHS = 7


@dataclass(slots=True)
class Plan:
    """One row per document, of all files, in the order of (wiki, page id, newest revision)."""

    documents: pl.DataFrame
    places: Rows
    """Where each row lies, counting through all files."""
    ends: Rows
    """Where each file ends, in places."""
    reason: NDArray[np.int8]
    other: NDArray[np.int32]
    """The page that the reason speaks of."""
    value: NDArray[np.float32]
    """The number that the reason speaks of."""
    clusters: Clusters
    is_validation: NDArray[np.bool_]
    lost: pl.DataFrame
    """The places of pages that lose paragraphs, in order, and the paragraphs' hashes."""

    @classmethod
    def read(cls, indexes: Sequence[Path]) -> Plan:
        """Read the indexes of all files."""
        empty = pl.DataFrame(schema=_SCHEMA)
        frames = [pl.read_parquet(path, columns=list(_SCHEMA)) for path in indexes]
        ends = np.cumsum([len(frame) for frame in frames], dtype=np.int64)
        documents = pl.concat([empty, *frames]).with_row_index("place")
        del frames
        order = ["wiki", "page_id", "rev_id", "place"]
        documents = documents.sort(order, descending=[False, False, True, False])
        places = documents["place"].to_numpy().astype(np.int64)
        size = len(documents)
        return cls(
            documents.drop("place").with_row_index("row"),
            places,
            ends,
            np.zeros(size, np.int8),
            np.full(size, -1, np.int32),
            np.zeros(size, np.float32),
            Clusters(size),
            np.zeros(size, np.bool_),
            pl.DataFrame(schema={"place": pl.Int64, "hash": pl.UInt64}),
        )

    def staying(self) -> Rows:
        """Return the rows that no step has dropped yet."""
        return np.flatnonzero(self.reason == Reason.STAYS)

    def drop(self, rows: Any, reason: Reason, *, other: Any = -1, value: Any = 0.0) -> None:
        """Drop some rows, each for a page and a number that the reason speaks of."""
        self.reason[rows], self.other[rows], self.value[rows] = reason, other, value

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of numbers."""
        return self.documents[name].to_numpy()

    def ids(self, rows: Rows | Sequence[int]) -> Iterator[str]:
        """Yield documents' ids, `enwiki:12`."""
        pairs = self.documents.select("wiki", "page_id")[rows]
        return (f"{wiki}:{page_id}" for wiki, page_id in pairs.iter_rows())

    def files(self) -> Iterator[tuple[int, int]]:
        """Yield where each file starts and ends, in places."""
        yield from zip([0, *self.ends[:-1].tolist()], self.ends.tolist(), strict=True)

    def by_place(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of rows in the order of the files."""
        ordered = np.empty_like(values)
        ordered[self.places] = values
        return ordered


def write_plans(plan: Plan, paths: Sequence[Path]) -> None:
    """Write what the plan says of each file's documents, in their order."""
    names = plan.clusters.names()
    in_order = plan.by_place(np.arange(len(names)))
    for path, (start, end) in zip(paths, plan.files(), strict=True):
        with pq.ParquetWriter(path, PLAN) as writer:
            for at in range(start, end, BATCH_ROWS):
                rows = in_order[at : min(end, at + BATCH_ROWS)]
                lost = _lost(plan, at, at + len(rows))
                columns = {
                    "reason": [_reason(reason) for reason in plan.reason[rows].tolist()],
                    "detail": list(_details(plan, rows)),
                    "cluster": list(plan.ids(names[rows])),
                    "split": np.where(plan.is_validation[rows], "validation", "train").tolist(),
                    "lost": [lost.get(place) for place in range(at, at + len(rows))],
                }
                writer.write_table(pa.table(columns, schema=PLAN))


def _reason(reason: int) -> str | None:
    return Reason(reason).name.lower() if reason else None


def _lost(plan: Plan, start: int, end: int) -> dict[int, list[int]]:
    """Return the hashes of the paragraphs that pages lose, by place."""
    here = plan.lost.filter(pl.col("place").is_between(start, end, closed="left"))
    return dict(here.group_by("place").agg("hash").iter_rows())


def _details(plan: Plan, rows: Rows) -> Iterator[str | None]:
    """Yield what the ledger says about why each row went."""
    others = plan.ids(plan.other[rows].clip(0))
    values = plan.value[rows].tolist()
    for reason, other, value in zip(plan.reason[rows].tolist(), others, values, strict=True):
        match Reason(reason):
            case Reason.OLDER_REVISION | Reason.DUPLICATE:
                yield other
            case Reason.FEW_LETTERS:
                yield f"alpha_ratio {value:.2f}"
            case Reason.MOSTLY_LINKS:
                yield f"link_density {value:.0f}"
            case Reason.BOT_STUB:
                yield f"one of {value:.0f} like {other}"
            case Reason.NEAR_DUPLICATE:
                yield f"{other} {value:.3f}"
            case Reason.REPEATED_PARAGRAPHS:
                yield f"{value:.0f} characters left"
            case _:
                yield None
