"""How good the text is: what is left of the markup, and what is lost of the words.

    python benchmarks/text_quality.py --dumps DUMP... [--set extract.allow_truncated=true]
    python benchmarks/text_quality.py --parsertests parserTests.txt --scorer score_parsertests.py

The first extracts dumps with our own rooms into a temporary folder: pages seen, kept and dropped
by reason (each page once, or it stops), and what is left of markup per 1,000 documents outside
code and formulas, counted twice: by the house's linter (`count_residues`, which the bars are for)
and by another one here that shares nothing with it and looks for more.

The second takes MediaWiki's parser tests: recall and precision of the words of the expected HTML,
for us and for the peers that can be imported here. The tests and their judge (a module with
`cases(path)` and `score(cases, texts)`) are not part of this project. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq

from flows.extract_dump import extract_documents
from storage.formats.table import read_rows
from tasks.clean.languages import Site
from tasks.clean.tidy import count_residues
from tasks.clean.wikitext import parse_page

MAX_MARKUP, MAX_SPACES = 5.0, 5.0  # per 1,000 documents; of empty parentheses none
MIN_RECALL, MIN_PRECISION = 0.98, 0.98
NAMESPACES = {"6": "File", "14": "Category", "2": "User"}
NUM_EXAMPLES, EXAMPLE_CHARS = 2, 40

SECOND_LINTER = {
    name: re.compile(pattern, re.MULTILINE)
    for name, pattern in {
        "emptied parentheses": r"\(\s*\)(?<!\w\(\))|\([\s,;:/–-]+\)|（[\s,;，、；：]*）",
        "ragged parentheses": r"[(（]\s*[,;，、；]|[,;，、；]\s*[)）]",
        "double brackets": r"\[\[|\]\]|\{\{|\}\}",
        "double apostrophes": r"(?<!')''(?!')|'{3,}",
        "file options": r"\b(?:thumb|frameless|upright)\s*\||\b\d+px\b *\|",
        "namespaces": r"\b(?:File|Image|Category|Datei|Kategorie|Категорія|Thể loại|Categoria"
        r"|カテゴリ|Файл|Tập tin):(?=\S)",
        "table marks": r"^ *(?:\{\||\|\}|\|-)|\b(?:row|col)span *=|\bclass *= *[\"']?wikitable",
        "tags": r"</?[a-z][a-z1-6]*(?: [^<>\n]*)?/?>",
        "attributes": r"\b(?:style|align|bgcolor|valign) *= *\"[^\"\n]*\"",
        "entities": r"&(?:[a-z]{2,8}|#x?[0-9a-f]{2,6});",
        "variants": r"-\{|\}-",
        "magic words": r"__[A-Z]{3,}__",
        "comments": r"<!--|-->",
        "headings": r"^={2,}[^=\n]+={2,} *$",
        "external links": r"\[(?:https?:)?//\S+ [^\]\n]*\]",
        "signs of ours": r"[\x00-\x08\x0b-\x1f\x7f\ue000-\uf8ff]",
        "spaces before stops": r"(?<=\w) +(?:,(?= )|[.;](?=\s|\Z)|[，。、；])",
    }.items()
}
LIST_LINE = re.compile(r"^\s*(?:[-*•]|\d+\.) ", re.MULTILINE)
INLINE_CODE = re.compile(r"`[^`\n]*`|\$[^$\n]*\$")


def main() -> int:
    """Measure what was asked for; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dumps", type=Path, nargs="+", default=[])
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--examples", action="store_true", help="show some of what is left")
    parser.add_argument("--parsertests", type=Path)
    parser.add_argument("--scorer", type=Path, help="the judge of the parser tests")
    arguments = parser.parse_args()
    if bool(arguments.parsertests) != bool(arguments.scorer) or not (
        arguments.dumps or arguments.parsertests
    ):
        parser.error("give --dumps FILE..., or --parsertests FILE with --scorer FILE, or both")
    answer: dict[str, Any] = {}
    if arguments.dumps:
        dumps = [measure(dump, arguments.set, arguments.examples) for dump in arguments.dumps]
        answer["dumps"] = dict(zip(map(str, arguments.dumps), dumps, strict=True))
    if arguments.parsertests:
        answer["parsertests"] = retention(arguments.parsertests, load(arguments.scorer))
    passed = all(
        part["passed"]
        for part in [*answer.get("dumps", {}).values(), answer.get("parsertests")]
        if part
    )
    print(json.dumps(answer | {"passed": passed}, ensure_ascii=False))
    return 0 if passed else 1


# What is left of the markup


def measure(dump: Path, overrides: list[str], with_examples: bool) -> dict[str, Any]:
    """Extract one dump; print and return its ledger and what both linters find."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        counts = extract_documents(dump, out, overrides, progress=lambda *_: None)
        ledger = pq.read_table(out / "ledger.parquet", columns=["reason"])["reason"].to_pylist()
        kept = num_chars = num_lists = 0
        ours, second = Counter[str](), Counter[str]()
        examples: dict[str, list[str]] = {}
        for title, text in texts_of(out / "documents"):
            kept += 1
            num_chars += len(text)
            ours.update(count_residues(text))
            prose = without_code(text)
            num_lists += len(LIST_LINE.findall(prose))
            for name, pattern in SECOND_LINTER.items():
                found = list(pattern.finditer(prose))
                second[name] += len(found)
                for match in found[: NUM_EXAMPLES - len(examples.setdefault(name, []))]:
                    around = prose[max(match.start() - EXAMPLE_CHARS, 0) :][: 2 * EXAMPLE_CHARS]
                    examples[name].append(f"{title}: {around!r}")
    dropped = Counter(ledger)
    if (kept, dict(dropped)) != (counts.kept, dict(counts.dropped)):
        raise AssertionError(f"{dump}: the files hold {kept}, {dropped}; the counts are {counts}")
    if counts.seen != kept + dropped.total():
        raise AssertionError(f"{dump}: {counts.seen} seen, {kept} kept, {dropped.total()} dropped")
    rates = {name: rate(ours[name], kept) for name in sorted(ours)}
    markup = rate(ours.total() - ours["empty_parentheses"] - ours["space_before_punctuation"], kept)
    others = {name: rate(second[name], kept) for name in SECOND_LINTER}
    print(
        f"\n{dump.name}: {counts.seen:,} pages seen = {kept:,} kept + {dropped.total():,} dropped"
    )
    for reason, number in dropped.most_common():
        print(f"    {reason:<28}{number:>9,}")
    print(
        f"  {num_chars:,} characters; list lines per 1,000 documents {rate(num_lists, kept):,.0f}"
    )
    print(f"  residues per 1,000 documents; markup together {markup:.2f}")
    for name, value in rates.items():
        print(f"    {name:<28}{value:>9.2f}")
    print("  second linter")
    for name, value in others.items():
        print(f"    {name:<28}{value:>9.2f}")
        for line in examples.get(name, []) if with_examples else []:
            print(f"        {line}")
    return {
        "seen": counts.seen,
        "kept": kept,
        "dropped": dict(dropped),
        "characters": num_chars,
        "list_lines": rate(num_lists, kept),
        "markup_together": markup,
        "residues": rates,
        "second_linter": others,
        "passed": rates.get("empty_parentheses", 0.0) == 0
        and markup < MAX_MARKUP
        and rates.get("space_before_punctuation", 0.0) < MAX_SPACES,
    }


def texts_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield title and text of every document."""
    for row in read_rows(sorted(folder.iterdir()), ["title", "text"]):
        yield row["title"], row["text"]


def without_code(text: str) -> str:
    """Return the text without fenced blocks, displayed formulas, inline code and math."""
    lines = []
    fence = ""
    for line in text.split("\n"):
        mark = line.lstrip()[:3]
        if fence:
            fence = "" if mark == fence else fence
        elif mark == "```":
            fence = mark
        elif "$$" not in line:
            lines.append(INLINE_CODE.sub("x", line))
    return "\n".join(lines)


def rate(number: int, documents: int) -> float:
    """Return how many there are per 1,000 documents."""
    return round(1000 * number / max(documents, 1), 2)


# What is lost of the words


def retention(tests: Path, judge: ModuleType) -> dict[str, Any]:
    """Score us and the peers on MediaWiki's tests; print and return recall and precision."""
    cases = list({case[0]: case for case in reversed(list(judge.cases(tests)))}.values())
    tables = {}
    for name, render in renderers().items():
        try:
            texts = {case[0]: render(case[1]) for case in cases}
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        tables[name] = judge.score(cases, texts)
    groups = list(next(iter(tables.values())))
    width = max(len(name) for name in tables)
    print(f"\n{len(cases)} parser tests, recall / precision of words")
    print(" " * width + "".join(f"{group:>17}" for group in groups))
    for name, table in tables.items():
        cells = "".join(f"{table[one][0]:>9.4f} /{table[one][1]:.4f}" for one in groups)
        print(f"{name:<{width}}{cells}")
    recall, precision, _ = tables["etude"]["all"]
    lost = [
        f"{group}, {what}, {peer}"
        for peer, table in tables.items()
        for group in groups
        for what, place in (("recall", 0), ("precision", 1))
        if not peer.startswith("etude") and table[group][place] > tables["etude"][group][place]
    ]
    print(f"not first in: {'; '.join(lost) or 'none'}")
    return {
        "num_tests": len(cases),
        "recall_precision_words": tables,
        "not_first": lost,
        "passed": recall >= MIN_RECALL and precision >= MIN_PRECISION and not lost,
    }


def renderers() -> dict[str, Callable[[str], str]]:
    """Return, by name, what makes text of wikitext; a peer is imported at its first call."""
    everything = Site.of("en", NAMESPACES, stop_sections=[])
    usual = Site.of("en", NAMESPACES)

    def wikiextractor(wikitext: str) -> str:
        made = import_module("wikiextractor.extract").Extractor("1", "1", "", "", [])
        lines = made.clean_text(
            wikitext, mark_headers=True, expand_templates=False, html_safe=False
        )
        return "\n".join(lines)

    def mwparserfromhell(wikitext: str) -> str:
        return str(import_module("mwparserfromhell").parse(wikitext).strip_code())

    def wikitextparser(wikitext: str) -> str:
        return str(import_module("wikitextparser").remove_markup(wikitext))

    def gensim(wikitext: str) -> str:
        return str(import_module("gensim.corpora.wikicorpus").filter_wiki(wikitext))

    return {
        "etude": lambda wikitext: (
            parse_page(wikitext, title="", site=everything, keep_empty_sections=True).text
        ),
        "etude, as used": lambda wikitext: parse_page(wikitext, title="", site=usual).text,
        "WikiExtractor": wikiextractor,
        "mwparserfromhell": mwparserfromhell,
        "gensim": gensim,
        "wikitextparser": wikitextparser,
    }


def load(path: Path) -> ModuleType:
    """Import a Python file by its path."""
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
