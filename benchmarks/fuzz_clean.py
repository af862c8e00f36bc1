"""The cleaner under a fuzzer that coverage leads: which text breaks it, stalls it, leaves a mark?

    pip install atheris
    python benchmarks/fuzz_clean.py CORPUS --dumps DUMP... --seconds 3600

Pieces of the dumps' pages are put into the folder CORPUS, and what reaches new code is kept there,
so the next run goes on from it. Each text is read as a page of enwiki and of zhwiki; what must hold
of the result is `check` of tests/tasks/clean/test_clean_fuzz.py. A text that breaks it, or takes
more than 10 s, is written to CORPUS-finds and ends the run with exit code 1: mend the cleaner and
put the text, shortened, into FOUND of that file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha1
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from storage.formats.table import read_rows
from tasks.extract.config import ExtractConfig
from tasks.extract.pages import extract_dump

RULES = Path(__file__).resolve().parents[1] / "tests" / "tasks" / "clean" / "test_clean_fuzz.py"
SEED_CHARS = 1_500
MAX_BYTES = 6_000
MAX_SECONDS_EACH = 10
WORDS = [
    "{{", "}}", "{{{", "}}}", "[[", "]]", "{|", "|}", "|-", "||", "!!", "-{", "}-", "-{H|", "'''",
    "==", "<ref>", "</ref>", "<ref/>", "<!--", "-->", "<nowiki>", "</nowiki>", "<math>", "</math>",
    "<pre>", "</pre>", "<table>", "<tr>", "<td>", "<br>", "<sup>", "</sup>", "<poem>", "<gallery>",
    "{{#if:", "{{#expr:", "{{convert|", "{{lang|", "{{NoteTA|", "[[File:", "[[Category:", "[http://",
    "__TOC__", "&nbsp;", "&#x", "zh-cn:", "=>", "（", "）", "，", "、", "( )", ";", ":", "*", "#",
]  # fmt: skip


def main() -> int:
    """Run the fuzzer; it ends the process itself."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--dumps", type=Path, nargs="*", default=[])
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=0, help="0 is another one every time")
    arguments = parser.parse_args()
    try:
        atheris = import_module("atheris")
    except ImportError:
        parser.error("atheris is not installed: pip install atheris")
    finds = arguments.corpus.with_name(f"{arguments.corpus.name}-finds")
    for folder in (arguments.corpus, finds):
        folder.mkdir(parents=True, exist_ok=True)
    for text in pieces(arguments.dumps):
        (arguments.corpus / sha1(text).hexdigest()).write_bytes(text)
    words = finds / "words.dict"
    lines = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in WORDS)
    words.write_text("".join(f'"{line}"\n' for line in lines))
    with atheris.instrument_imports(include=["tasks.clean"]):
        rules = load(RULES)

    def once(data: bytes) -> None:
        rules.check(data.decode("utf-8", errors="replace"))

    options = {
        "max_total_time": arguments.seconds,
        "timeout": MAX_SECONDS_EACH,
        "max_len": MAX_BYTES,
        "seed": arguments.seed,
        "dict": words,
        "artifact_prefix": f"{finds}/",
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(arguments.corpus)], once)
    atheris.Fuzz()
    return 0


def pieces(dumps: list[Path]) -> Iterator[bytes]:
    """Yield the beginning and the middle of every page."""
    for dump in dumps:
        with tempfile.TemporaryDirectory() as folder:
            extract_dump(dump, Path(folder), ExtractConfig(allow_truncated=True))
            for row in read_rows([Path(folder, "pages.parquet")], ["wikitext"]):
                text = row["wikitext"]
                for start in {0, len(text) // 2}:
                    yield text[start : start + SEED_CHARS].encode()


def load(path: Path) -> ModuleType:
    """Import a Python file by its path."""
    spec = spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
