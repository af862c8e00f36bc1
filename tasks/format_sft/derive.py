"""A page -> a question and its answer, without a teacher model.

A lead whose first sentence has every word of the title and a copula ("X is a ...", "X是...")
answers the question "What is X?". The way of asking and the choice of pages are hashes of the
page's id.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from storage.hashing import stable_hash
from tasks.cut.sentences import first_sentences, sentences
from tasks.pair.texts import bare_title, lead_text

COPULAS = {
    "en": re.compile(r"\b(is|are|was|were)\b", re.IGNORECASE),
    "zh": re.compile(r"[是为為]"),
}
ALIASES = {"simple": "en"}  # Simple English calls its language `simple` in some dumps
LICENSE = "CC BY-SA 4.0"
SOURCE = "wiki"


def derive_dialogue(
    page: Mapping[str, Any], *, patterns: Mapping[str, Sequence[str]], max_answer_chars: int
) -> dict[str, Any] | str:
    """Return a row of the dialogues made from a row of the corpus, or why there is none."""
    language = page["language"].split("-")[0].lower()
    language = ALIASES.get(language, language)
    if language not in patterns or language not in COPULAS:
        return "no_pattern_for_language"
    title = bare_title(page["title"])
    lead = lead_text(page["text"], page["sections"] or [])
    lead = first_sentences(lead, max_answer_chars)
    first = (sentences(lead) or [""])[0]
    names_title = all(word in first.casefold() for word in title.casefold().split())
    if not names_title or not COPULAS[language].search(first):
        return "lead_is_no_definition"
    id = f"{page['wiki']}:{page['page_id']}"
    texts = patterns[language]
    question = texts[stable_hash(f"pattern:{id}") % len(texts)].replace("{title}", title)
    return {
        "id": f"{SOURCE}:{id}",
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": lead},
        ],
        "source": SOURCE,
        "language": page["language"],
        "license": LICENSE,
        "split": page["split"],
        "page_id": page["page_id"],
    }


def choose(rows: Iterable[dict[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    """Yield at most `limit` rows, those of the smallest hash, in order of that hash."""
    yield from heapq.nsmallest(limit, rows, key=lambda row: (stable_hash(row["id"]), row["id"]))
