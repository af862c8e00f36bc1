"""Which clusters are validation: those whose name hashes into the share.

A cluster is named by its oldest page (`enwiki:12`), the page of the smallest id. New pages have
larger ids, so a cluster keeps its name and its side when pages join it, and a page that has no
near-duplicate keeps them for ever, whatever is edited, in any order of the files. What moves:

- a page that joins or leaves a cluster goes to where its new cluster is;
- a page that is like two clusters joins them, and the younger one moves;
- when the oldest page of a cluster is deleted or edited out of it, the next oldest names the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from storage.hashing import stable_hash
from tasks.dedup.ngrams import Hashes

BUCKETS = 10_000


def split_hash(cluster: str, salt: str) -> int:
    """Return the hash that decides a cluster's side of the split."""
    return stable_hash(f"{salt}{cluster}")


def choose_validation(
    hashes: Hashes, languages: Mapping[str, NDArray[np.int64]], share: float
) -> NDArray[np.bool_]:
    """Tell of each cluster, given by its hash, whether it is on the side of validation.

    `languages` are the clusters that each language has pages in. A language of two clusters or
    more has both sides: where chance gives it no validation, the next in line is taken (the
    smallest bucket), what a slightly larger share would have chosen; likewise for training.
    """
    buckets = hashes % np.uint64(BUCKETS)
    chosen: NDArray[np.bool_] = buckets < share * BUCKETS
    for _, clusters in sorted(languages.items()):
        in_line = clusters[np.lexsort((hashes[clusters], buckets[clusters]))]
        if len(in_line) > 1 and not chosen[in_line].any():
            chosen[in_line[0]] = True
        elif len(in_line) > 1 and chosen[in_line].all():
            chosen[in_line[-1]] = False
    return chosen
