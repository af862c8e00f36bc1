"""The Arrow schema of every kind of row; the one place where a column is named."""

from __future__ import annotations

import pyarrow as pa

_text, _int = pa.string(), pa.int64()


def _schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


PAGES = _schema(
    {
        "wiki": _text,
        "language": _text,
        "page_id": _int,
        "rev_id": _int,
        "timestamp": _text,
        "title": _text,
        "namespace": pa.int32(),
        "model": _text,
        "redirect": _text,
        "url": _text,
        "wikitext": pa.large_string(),
    }
)

REDIRECTS = _schema({"title": _text, "target": _text})

# What the dump says of its own templates (names without their namespace), and the pages with
# conversion rules between Chinese variants.
TEMPLATES = _schema({"name": _text, "redirect": _text, "categories": pa.list_(_text)})
MODULES = _schema({"title": _text, "text": _text})

SECTION = pa.struct({"level": pa.int32(), "title": _text, "start": _int, "end": _int})

DOCUMENTS = _schema(
    {
        "wiki": _text,
        "language": _text,
        "page_id": _int,
        "rev_id": _int,
        "timestamp": _text,
        "title": _text,
        "url": _text,
        "text": pa.large_string(),
        "sections": pa.list_(SECTION),
        "categories": pa.list_(_text),
        "links": pa.list_(_text),
        "redirects": pa.list_(_text),
        "facts": pa.map_(_text, _text),
        "kind": _text,
        "num_chars": _int,
        "flags": pa.list_(_text),
        "templates": pa.list_(_text),
        "num_refs": pa.int32(),
        "variant": _text,
    }
)

# Every page that was looked at: how the next dump's cleaning tells what is unchanged. `document` is
# its row number in documents.parquet, null where it was dropped.
SEEN = _schema(
    {
        "page_id": _int,
        "rev_id": _int,
        "title": _text,
        "digest": pa.binary(16),
        "document": _int,
        "residues": pa.map_(_text, pa.int32()),
    }
)

UNRESOLVED = _schema({"name": _text, "pages": _int, "example": _text})

CORPUS = pa.schema(
    [
        *DOCUMENTS,
        pa.field("content_hash", _text),
        pa.field("split", _text),
        pa.field("cluster", _text),
        # What tasks/dedup/quality.py measures; it says what each means.
        pa.field("alpha_ratio", pa.float32()),
        pa.field("digit_ratio", pa.float32()),
        pa.field("link_density", pa.float32()),
        pa.field("list_line_ratio", pa.float32()),
        pa.field("mean_line_length", pa.float32()),
        pa.field("unique_word_ratio", pa.float32()),
        pa.field("refs_per_kb", pa.float32()),
        pa.field("is_maintenance", pa.bool_()),
        pa.field("is_featured", pa.bool_()),
    ]
)

PASSAGES = _schema(
    {
        "wiki": _text,
        "language": _text,
        "page_id": _int,
        "title": _text,
        "split": _text,
        "index": pa.int32(),
        "heading": _text,
        "text": pa.large_string(),
    }
)

PAIRS = _schema(
    {
        "wiki": _text,
        "language": _text,
        "page_id": _int,
        "split": _text,
        "source": _text,
        "query": _text,
        "positive": _text,
        # The page that the query was found on; `page_id` is the one that the positive stands on.
        "query_page_id": _int,
    }
)

# `weight` is how much an answer counts in the loss; null means 1.
MESSAGE = pa.struct({"role": _text, "content": _text, "weight": pa.float32()})

DIALOGUES = _schema(
    {
        "id": _text,
        "messages": pa.list_(MESSAGE),
        "source": _text,
        "language": _text,
        "license": _text,
        "split": _text,
        "page_id": _int,
    }
)

LEDGER = _schema({"id": _text, "title": _text, "reason": _text, "detail": _text})
