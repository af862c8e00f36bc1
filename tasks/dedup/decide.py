"""index -> plan: which documents stay, why the others go, and on which side of the split.

In this order, each step looking at what the earlier ones left:

    older_revision       the page comes in a newer revision (two dumps of one wiki)
    few_letters, mostly_links          hardly text at all
    duplicate            equal text; the first by (wiki, page id) stays
    bot_stub             more than K pages of its skeleton; the K of the smallest hash stay
    near_duplicate       like a longer page that stays
    repeated_paragraphs  too little is left without the paragraphs that stand everywhere

Stubs are capped before near-duplicates are looked for: a hundred thousand villages would be a
hundred thousand neighbours. Pages of one skeleton and pages alike, those that go included, are one
cluster, and the split is by clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from storage.hashing import stable_hash
from tasks.dedup.config import DedupConfig
from tasks.dedup.index import BANDS, write_ngrams
from tasks.dedup.near import NgramFile, choose, propose_pairs
from tasks.dedup.ngrams import Hashes
from tasks.dedup.paragraphs import frequent
from tasks.dedup.plan import BATCH_ROWS, Plan, Reason, Rows
from tasks.dedup.split import choose_validation, split_hash

_FOUND = {"place": pl.Int64, "row": pl.Int64, "hash": pl.UInt64, "num_chars": pl.Int64}


def make_plan(
    paths: Sequence[Path], indexed: Sequence[Path], config: DedupConfig, scratch: Path
) -> Plan:
    """Return the plan of the documents in `paths`.

    `indexed` are the folders with their indexes; `scratch` is for what does not fit into memory.
    """
    plan = Plan.read([folder / "index.parquet" for folder in indexed])
    drop_older_revisions(plan)
    drop_noise(plan, config)
    drop_duplicates(plan)
    cap_skeletons(plan, config.max_per_skeleton)
    if config.min_jaccard is not None:
        drop_near_duplicates(plan, paths, indexed, config.min_jaccard, scratch)
    if config.max_paragraph_documents is not None:
        files = [folder / "paragraphs.parquet" for folder in indexed]
        limit, min_chars = config.max_paragraph_documents, config.min_chars_left
        drop_repeated_paragraphs(plan, files, limit, min_chars)
    split(plan, config.validation_share, config.salt)
    return plan


def drop_older_revisions(plan: Plan) -> None:
    """Keep the newest revision of each page."""
    ids = plan.documents.select("wiki", "page_id")  # sorted by them, so equal ones are neighbours
    is_older = (ids == ids.shift(1)).select(pl.all_horizontal("*").fill_null(False)).to_series()
    rows = np.arange(len(ids))
    newest = np.maximum.accumulate(np.where(is_older, 0, rows))
    older = np.flatnonzero(is_older)
    plan.drop(older, Reason.OLDER_REVISION, other=newest[older])


def drop_noise(plan: Plan, config: DedupConfig) -> None:
    """Drop what hardly is text."""
    for name, reason, is_bad in (
        ("alpha_ratio", Reason.FEW_LETTERS, np.less),
        ("link_density", Reason.MOSTLY_LINKS, np.greater),
    ):
        limit = config.min_alpha_ratio if is_bad is np.less else config.max_link_density
        rows, values = plan.staying(), plan.column(name)
        rows = rows[is_bad(values[rows], limit)]
        plan.drop(rows, reason, value=values[rows])


def drop_duplicates(plan: Plan) -> None:
    """Keep the first of the pages with equal text."""
    rows = plan.staying()
    content = plan.documents.select("content", "row")[rows]
    copies = content.filter(pl.col("content").is_duplicated())
    copies = copies.with_columns(first=pl.col("row").min().over("content"))
    copies = copies.filter(pl.col("row") != pl.col("first"))
    plan.drop(copies["row"].to_numpy(), Reason.DUPLICATE, other=copies["first"].to_numpy())


def cap_skeletons(plan: Plan, max_per_skeleton: int | None) -> None:
    """Make a cluster of each skeleton, and keep at most so many of its pages.

    Those of the smallest hash of the id stay: nearly the same ones when others come and go.
    """
    stubs = plan.documents.select("skeleton", "row")[plan.staying()]
    stubs = stubs.filter((pl.col("skeleton") != 0) & pl.col("skeleton").is_duplicated())
    groups = stubs.group_by("skeleton").agg("row")
    for group in groups["row"]:
        members = sorted(group.to_list())
        plan.clusters.join((members[0], other) for other in members[1:])
        if max_per_skeleton is None or len(members) <= max_per_skeleton:
            continue
        hashes = map(stable_hash, plan.ids(members))
        in_order = [row for _, row in sorted(zip(hashes, members, strict=True))]
        gone = in_order[max_per_skeleton:]
        plan.drop(gone, Reason.BOT_STUB, other=in_order[0], value=len(members))


def drop_near_duplicates(
    plan: Plan, paths: Sequence[Path], indexed: Sequence[Path], min_jaccard: float, scratch: Path
) -> None:
    """Make clusters of pages alike, and keep the longest of each."""
    rows = plan.staying()
    sizes = plan.column("num_ngrams")[rows].astype(np.int64)
    found: Rows = np.empty((0, 2), np.int64)
    for name in BANDS:
        columns = [pq.read_table(one / "index.parquet", columns=[name])[name] for one in indexed]
        if columns:
            band = pa.chunked_array(columns).to_numpy()[plan.places[rows]]
            found = _distinct(np.concatenate([found, propose_pairs(band, sizes, min_jaccard)]))
    pairs = rows[found]
    with NgramFile(scratch / "ngrams.bin") as ngrams:
        for path, wanted in zip(paths, _by_file(plan, np.unique(pairs)), strict=True):
            if wanted:
                write_ngrams(path, wanted, ngrams)
        alike, gone = choose(pairs, plan.column("num_chars"), ngrams, min_jaccard)
    plan.clusters.join(alike)
    for one in gone:
        plan.drop(one.row, Reason.NEAR_DUPLICATE, other=one.kept, value=one.jaccard)


def drop_repeated_paragraphs(plan: Plan, files: Sequence[Path], limit: int, min_chars: int) -> None:
    """Take paragraphs on more pages than the limit from all but the oldest; drop what is little."""
    stays = plan.by_place(plan.reason == Reason.STAYS)
    rows = plan.by_place(np.arange(len(stays)))
    repeated = frequent(
        lambda: (hashes[stays[places]] for places, hashes, _ in _paragraphs(plan, files)), limit
    )
    found = [pl.DataFrame(schema=_FOUND)]
    for places, hashes, sizes in _paragraphs(plan, files):
        hit = stays[places] & np.isin(hashes, repeated)
        columns = {"place": places, "row": rows[places], "hash": hashes, "num_chars": sizes}
        found.append(pl.DataFrame({name: one[hit] for name, one in columns.items()}, _FOUND))
    lost = pl.concat(found).filter(pl.col("row") != pl.col("row").min().over("hash"))
    plan.lost = lost.select("place", "hash").sort("place", "hash")
    removed = np.bincount(lost["row"], lost["num_chars"], len(stays)).astype(np.int64)
    left = plan.column("body_chars") - removed
    short = np.flatnonzero((removed > 0) & (left < min_chars))
    plan.drop(short, Reason.REPEATED_PARAGRAPHS, value=left[short])


def split(plan: Plan, validation_share: float, salt: str) -> None:
    """Put every cluster on its side."""
    rows = plan.staying()
    names = plan.clusters.names()
    clusters, members = np.unique(names[rows], return_inverse=True)
    hashes = np.fromiter((split_hash(name, salt) for name in plan.ids(clusters)), np.uint64)
    language = plan.documents["language"][rows]
    chosen = choose_validation(
        hashes,
        {one: np.unique(members[(language == one).to_numpy()]) for one in language.unique()},
        validation_share,
    )
    plan.is_validation[rows] = chosen[members]


def _by_file(plan: Plan, rows: Rows) -> Iterator[dict[int, int]]:
    """Yield for each file its rows of these, by their position in it."""
    rows = rows[np.argsort(plan.places[rows])]
    places = plan.places[rows]
    for start, end in plan.files():
        here = slice(*np.searchsorted(places, (start, end)))
        yield dict(zip((places[here] - start).tolist(), rows[here].tolist(), strict=True))


def _paragraphs(plan: Plan, files: Sequence[Path]) -> Iterator[tuple[Rows, Hashes, Rows]]:
    """Yield batches of paragraphs: the place of the document, the hash, the characters."""
    for path, (start, _) in zip(files, plan.files(), strict=True):
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                places = batch["position"].to_numpy().astype(np.int64) + start
                yield places, batch["hash"].to_numpy(), batch["num_chars"].to_numpy()


def _distinct(pairs: Rows) -> Rows:
    """Return the pairs in order, each once."""
    keys = np.unique(pairs[:, 0] << 32 | pairs[:, 1])
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1)
