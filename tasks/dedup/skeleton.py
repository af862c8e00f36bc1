"""A short page -> its skeleton: what is left when names and numbers are masked.

    Abbeville is a village in Allier, France.       _ is a village in _ It has _ inhabitants
    It has 1,204 inhabitants.
    大王村是[[河北省]][[新乐市]]的一个村，有1204人。     _是_的_个村有_人

Pages that a program wrote from a table share few n-grams (0.09 in a family of village stubs), so
MinHash never sees them; their skeletons are equal. Masked are numbers, capitalised words, and
wherever they stand the page's own title and its links. A run of masks is one mask, so a list of
two names is like one of five; punctuation and headings' marks do not count.

Equal means the whole page, so that ordinary articles never collapse: one sentence of their own is
enough. Pages over `STUB_CHARS` have no skeleton, nor have those with hardly a word outside masks
(lists of names).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from storage.hashing import stable_hash
from tasks.dedup.ngrams import WORD, is_unspaced

STUB_CHARS = 8_000
MIN_WORDS = 8
_MASK = "\0"
_QUALIFIER = re.compile(r"[\s(（),，、·）]+")
_PARTS = re.compile(r"\w+|\0")
_FOREIGN = re.compile(r"[0-9０-９〇零一二两兩三四五六七八九十百千万萬亿億A-Za-zÀ-ɏ]+")
_SIGNS = re.compile(r"[^\W_]|\0")


def skeleton_hash(text: str, *, title: str, links: Iterable[str], language: str) -> int:
    """Return the hash of a page's skeleton; 0 for a page that has none."""
    if len(text) > STUB_CHARS:
        return 0
    words = skeleton(text, title=title, links=links, language=language)
    if len(set(words) - {_MASK}) < MIN_WORDS:
        return 0
    return stable_hash(" ".join([language, *words])) or 1


def skeleton(text: str, *, title: str, links: Iterable[str], language: str) -> list[str]:
    """Return the page's words (characters, where there are no spaces) and masks, in order."""
    unspaced = is_unspaced(language)
    text = _mask_names(text, {title, *links}, unspaced=unspaced)
    if unspaced:
        masked = _SIGNS.findall(_FOREIGN.sub(_MASK, text))
    else:
        parts = _PARTS.findall(text)
        masked = [_MASK if part[0].isupper() or not part.isalpha() else part for part in parts]
    return [
        part for part, before in zip(masked, ["", *masked], strict=False) if part + before != "\0\0"
    ]


def _mask_names(text: str, titles: set[str], *, unspaced: bool) -> str:
    """Mask the titles where they stand, whole and without their qualifier, the longest first.

    Capitalised words are masked anyway, so where there are spaces only titles with a part in
    small letters need it (`Santiago de Compostela`); an ending may follow (`서울은`).
    """
    names = {title.split(" (")[0] for title in titles}
    if unspaced:
        names |= {part for title in titles for part in _QUALIFIER.split(title)}
    else:
        names = {
            name for name in names if any(not word[0].isupper() for word in WORD.findall(name))
        }
    for name in sorted((one for one in names if len(one) > 1), key=lambda one: (-len(one), one)):
        text = text.replace(name, f" {_MASK} ")
    return text
