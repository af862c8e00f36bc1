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
    }
)

CORPUS = pa.schema(
    [
        *DOCUMENTS,
        pa.field("content_hash", _text),
        pa.field("split", _text),
        pa.field("cluster", _text),
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
    }
)

MESSAGE = pa.struct({"role": _text, "content": _text})

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
