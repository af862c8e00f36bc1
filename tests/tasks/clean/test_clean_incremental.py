"""A new dump with a known predecessor gives what a run from scratch gives, for less work."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.artifact import ArtifactRef, Counts, canonical_json
from storage.formats.table import read_rows
from storage.store import Store
from storage.workspace import Workspace
from tasks.clean import aliases as aliases_module
from tasks.clean import incremental as incremental_module
from tasks.clean import part as part_module
from tasks.clean.aliases import read_aliases, sort_aliases
from tasks.clean.config import CleanConfig
from tasks.clean.incremental import changed_templates, fingerprint
from tasks.clean.room import clean_parts
from tasks.clean.task import clean

Row = dict[str, Any]
MakePages = Callable[..., ArtifactRef]
FileBytes = Callable[[Path], dict[str, bytes]]
PROSE = "It is a long story about nothing in particular, told at length. "
TEMPLATES = [
    ("Wordy", "Nowrap", []),
    ("Never", None, ["Navigational boxes"]),
    ("Tall tale", None, []),
]


@pytest.fixture(scope="module", autouse=True)
def _steady_code() -> Iterator[None]:
    """Leave the code itself out of the fingerprint: who edits it during a test fails none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.clean.plan.fingerprint", lambda *values: canonical_json(values))
        yield


def text(number: int) -> str:
    """Return a page's wikitext: lists, links, templates, and now and then nothing much."""
    if number % 17 == 0:
        return "Short."
    if number % 29 == 0:
        return "{{disambig}}" + PROSE * 5
    extra = "{{Wordy|ninety nine}} " if number % 10 == 0 else "{{Unheard of|x=1}} "
    return f"'''Page {number}''' {extra}is [[one]]. {PROSE * (4 + number % 9)}\n* a\n* b {number}"


def dump_rows(make_page: Callable[..., Row], number: int) -> list[Row]:
    """Return the pages of the first dump."""
    return [make_page(one, f"Page {one}", text(one)) for one in range(1, number + 1)]


class Run:
    """One run of the stage: its files, its ledger, and the pages that were really cleaned."""

    def __init__(
        self, pages: ArtifactRef, folder: Path, before: Sequence[Path] = (), **options: Any
    ):
        self.folder = folder
        self.cleaned: list[int] = []
        self.lines: list[str] = []
        refs = [ArtifactRef("documents", path.name, "", path) for path in before]
        workspace = Workspace(folder, log=self.lines.append, predecessors=lambda: refs)
        genuine = part_module.clean_page

        def counting(page: Mapping[str, Any], **more: Any) -> Any:
            self.cleaned.append(page["page_id"])
            return genuine(page, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part_module, "clean_page", counting)
            config = CleanConfig(**{"workers": 1} | options)
            self.counts: Counts = clean.run(pages=pages, config=config, workspace=workspace)

    @property
    def documents(self) -> list[Row]:
        """Return the rows of the documents."""
        return list(read_rows(sorted(self.folder.glob("*/documents.parquet"))))

    def metric(self, name: str) -> float:
        """Return how many pages became what."""
        return self.counts.metrics[f"refresh/{name}"]


def data(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what differs from run to run and is no part of an artifact's digest."""
    return {name: content for name, content in files.items() if not name.startswith("logs/")}


def test_a_refresh_equals_a_run_from_scratch(
    tmp_path: Path,
    make_page: Callable[..., Row],
    make_pages: MakePages,
    file_bytes: FileBytes,
) -> None:
    """Catches a stale, lost or doubled row, and work done again for pages that are the same.

    Dump B is dump A with 1% changed: revisions, new pages, deletions, moves, another target of a
    template redirect, other aliases; and its parts are cut elsewhere.
    """
    rng = random.Random(7)
    first = dump_rows(make_page, 600)
    aliases = [(f"Alias {n}", f"page {n % 50 + 1}") for n in range(90)]
    a = make_pages(tmp_path / "a", first, parts=3, redirects=aliases, templates=TEMPLATES)
    changed, gone, moved, emptied = ({*sample} for sample in _groups(rng, 4, 4))
    second = []
    for row in first:
        number = row["page_id"]
        if number in gone:
            continue
        if number in changed:
            row = make_page(number, row["title"], text(number) + " More.", rev_id=99_000 + number)
        if number in moved:
            row = make_page(number, f"Moved {number}", row["wikitext"])
        if number in emptied:
            row = make_page(number, row["title"], "Now short.", rev_id=99_000 + number)
        second.append(row)
    second += [make_page(700 + number, f"New {number}", text(3) * 2) for number in range(3)]
    templates = [("Wordy", "Blockquote", []), *TEMPLATES[1:]]
    b = make_pages(tmp_path / "b", second, parts=4, redirects=aliases[5:], templates=templates)

    old = Run(a, tmp_path / "old")
    assert len(old.cleaned) == 600
    scratch = Run(b, tmp_path / "scratch")
    refresh = Run(b, tmp_path / "refresh", [old.folder])

    assert refresh.documents == scratch.documents
    assert data(file_bytes(refresh.folder)) == data(file_bytes(scratch.folder))
    dropped_before = {number for number in range(1, 601) if number % 17 == 0 or number % 29 == 0}
    by_template = {number for number in range(10, 601, 10)}
    new = {700, 701, 702}
    expected = (changed | moved | emptied | dropped_before | by_template | new) - gone
    assert sorted(refresh.cleaned) == sorted(expected)
    assert refresh.metric("new") == 3
    assert refresh.metric("deleted") == 4
    assert refresh.metric("moved") == 4
    assert refresh.metric("changed") == 8
    assert refresh.metric("reused") == len(second) - len(expected)
    assert "Since the last dump" in (refresh.folder / "logs" / "report.md").read_text()


def _groups(rng: random.Random, number: int, size: int) -> list[list[int]]:
    """Return disjoint groups of ordinary pages."""
    ordinary = [n for n in range(1, 601) if n % 17 and n % 29 and n % 10]
    chosen = rng.sample(ordinary, number * size)
    return [chosen[start : start + size] for start in range(0, len(chosen), size)]


def test_nothing_changed_means_nothing_cleaned(
    tmp_path: Path, make_page: Callable[..., Row], make_pages: MakePages, file_bytes: FileBytes
) -> None:
    """Catches reuse that silently never happens, also from a run that copied its own rows."""
    rows = [make_page(n, f"P{n}", text(1)) for n in range(1, 40)]
    pages = make_pages(tmp_path / "in", rows, parts=2, templates=TEMPLATES)
    before = Run(pages, tmp_path / "1")
    for name in ("2", "3"):
        again = Run(pages, tmp_path / name, [before.folder])
        assert again.cleaned == []
        assert data(file_bytes(again.folder)) == data(file_bytes(before.folder))
        before = again


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"wikitext": PROSE * 9}, 1),  # the same revision with another text: a wiki set up anew
        ({"rev_id": 77}, 1),
        ({"title": "Elsewhere"}, 1),
        ({"timestamp": "2031-01-01T00:00:00Z", "url": "https://other.example"}, 0),
    ],
)
def test_what_makes_a_page_another(
    tmp_path: Path,
    make_page: Callable[..., Row],
    make_pages: MakePages,
    file_bytes: FileBytes,
    change: dict[str, Any],
    number: int,
) -> None:
    """Catches a key that trusts revision numbers alone, and columns that are the old dump's."""
    rows = [make_page(n, f"P{n}", text(1)) for n in range(1, 9)]
    old = Run(make_pages(tmp_path / "a", rows), tmp_path / "old")
    rows[3] = rows[3] | change
    b = make_pages(tmp_path / "b", rows)
    refresh, scratch = Run(b, tmp_path / "new", [old.folder]), Run(b, tmp_path / "scratch")
    assert len(refresh.cleaned) == number
    assert data(file_bytes(refresh.folder)) == data(file_bytes(scratch.folder))
    assert {one["page_id"]: one["url"] for one in refresh.documents}[4] == rows[3]["url"]


def test_another_cleaner_copies_nothing(
    tmp_path: Path,
    make_page: Callable[..., Row],
    make_pages: MakePages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches rows of an older cleaner, of other settings or of another wiki in a new artifact."""
    rows = [make_page(n, f"P{n}", text(1)) for n in range(1, 9)]
    pages = make_pages(tmp_path / "a", rows)
    old = Run(pages, tmp_path / "old")
    assert len(Run(pages, tmp_path / "1", [old.folder], min_chars=100).cleaned) == 8
    german = [make_page(n, f"P{n}", text(1), wiki="dewiki") for n in range(1, 9)]
    other = Run(make_pages(tmp_path / "de", german), tmp_path / "2", [old.folder])
    assert len(other.cleaned) == 8 and "refresh/new" not in other.counts.metrics
    later = Run(pages, tmp_path / "3", [other.folder, old.folder])
    assert later.cleaned == [], "the newest of the same wiki was not looked for"
    monkeypatch.setattr("tasks.clean.plan.fingerprint", lambda *_: "edited")
    edited = Run(pages, tmp_path / "4", [old.folder])
    assert len(edited.cleaned) == 8 and edited.metric("new") == 0
    assert any("every page is cleaned" in line for line in edited.lines)


@pytest.mark.parametrize("name", ["documents.parquet", "seen.parquet", "templates.parquet", "logs"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_predecessor_is_no_harm(
    tmp_path: Path,
    make_page: Callable[..., Row],
    make_pages: MakePages,
    file_bytes: FileBytes,
    name: str,
    damage: str,
) -> None:
    """Catches a refresh that fails, or copies garbage, because an old file was cut or deleted."""
    rows = [make_page(n, f"P{n}", text(1)) for n in range(1, 40)]
    pages = make_pages(tmp_path / "in", rows)
    old = Run(pages, tmp_path / "old")
    expected = data(file_bytes(old.folder))
    where = {"templates.parquet": "templates.parquet", "logs": "logs/parts/part-00000.json"}
    victim = old.folder / where.get(name, f"part-00000/{name}")
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    refresh = Run(pages, tmp_path / "new", [old.folder])
    assert data(file_bytes(refresh.folder)) == expected
    assert len(refresh.cleaned) == 39
    assert any("copied from it" in line or "every page" in line for line in refresh.lines) or (
        name in ("seen.parquet", "logs") and damage == "gone"  # it is no artifact of ours, then
    )


def test_a_page_over_its_budget_is_tried_again(
    tmp_path: Path,
    make_page: Callable[..., Row],
    make_pages: MakePages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a busy minute's rough text that every later refresh copies, and says nothing of."""
    pages = make_pages(tmp_path / "in", [make_page(n, f"P{n}", text(1)) for n in range(1, 9)])
    with monkeypatch.context() as patch:
        patch.setattr("tasks.clean.wikitext.MAX_CHARS", 10)
        old = Run(pages, tmp_path / "old")
    assert all("rough" in one["flags"] for one in old.documents)
    assert old.counts.metrics["over_budget"] == 8
    assert "## Pages over their budget" in (old.folder / "logs" / "report.md").read_text()
    again = Run(pages, tmp_path / "new", [old.folder])
    assert len(again.cleaned) == 8 and again.metric("new") == again.metric("changed") == 0
    assert again.counts.metrics["over_budget"] == 0


def test_the_store_knows_the_predecessor(
    tmp_path: Path, make_page: Callable[..., Row], make_pages: MakePages
) -> None:
    """Catches settings that are no longer equal once they were written down, and a dead end."""
    store = Store(tmp_path / "home")
    config = CleanConfig(workers=1, drop_sections=("See also",))
    lines: list[str] = []

    def refresh(number: int) -> Counts:
        rows = [make_page(n, f"P{n}", text(1)) for n in range(number, number + 9)]
        pages = make_pages(tmp_path / str(number), rows)
        same: dict[str, Any] = {"stage": "clean", "version": 2, "config": config.key_dict()}
        look = partial(store.predecessors, "documents", **same, log=lines.append)
        with store.building("documents", f"key{number}", predecessors=look) as workspace:
            counts = clean.run(pages=pages, config=config, workspace=workspace)
            store.commit(workspace, **same, inputs={}, counts=counts, seconds=1)
        return counts

    assert "refresh/reused" not in refresh(1).metrics
    assert refresh(2).metrics["refresh/reused"] == 8
    (store.root / "documents" / "key2" / "part-00000" / "documents.parquet").unlink()
    counts = refresh(4)
    assert counts.metrics["refresh/reused"] == 6, "the one before it is whole"
    assert counts.metrics["refresh/deleted"] == 3
    assert lines == ["documents:key2 is damaged: nothing is copied from it"]


def test_groups_of_conversion_rules_reach_only_the_pages_that_ask_for_them(
    tmp_path: Path, make_page: Callable[..., Row], make_pages: MakePages, file_bytes: FileBytes
) -> None:
    """Catches stale conversions after an edit of a group, and a whole wiki cleaned for it."""
    body = "'''計算機'''是一種機器，用於計算。" * 20
    rows = [
        make_page(n, f"頁{n}", ("{{NoteTA|G1=IT}}" if n == 3 else "") + body, wiki="zhwiki")
        for n in range(1, 9)
    ]
    rule = "return {content = {{type = 'item', original = 'x', rule = 'zh-cn:%s;zh-tw:計算機;'}}}"
    a = make_pages(tmp_path / "a", rows, modules=[("Module:CGroup/IT", rule % "计算机")])
    b = make_pages(tmp_path / "b", rows, modules=[("Module:CGroup/IT", rule % "电脑")])
    old, scratch = Run(a, tmp_path / "old"), Run(b, tmp_path / "scratch")
    refresh = Run(b, tmp_path / "new", [old.folder])
    assert refresh.cleaned == [3]
    assert data(file_bytes(refresh.folder)) == data(file_bytes(scratch.folder))


WORDS = st.sampled_from([PROSE, PROSE * 4, PROSE * 5, "{{Wordy|x}}" + PROSE * 4, "{{disambig}}"])
PAGES = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from(["A", "B"]), WORDS, st.integers(1, 2)),
    max_size=14,
).map(lambda rows: [*rows, (99, "Kept", PROSE * 4, 1)])
QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(PAGES, PAGES, st.integers(1, 3), st.sampled_from(["Nowrap", "Blockquote", "Nothing"]))
def test_any_dump_after_any_other(
    tmp_path_factory: pytest.TempPathFactory,
    make_page: Callable[..., Row],
    make_pages: MakePages,
    file_bytes: FileBytes,
    before: list[tuple[int, str, str, int]],
    after: list[tuple[int, str, str, int]],
    parts: int,
    target: str,
) -> None:
    """Catches a difference from a scratch run in odd dumps: ids in disorder, or met twice."""
    folder = tmp_path_factory.mktemp("dumps")

    def run(name: str, pages: ArtifactRef, *known: str) -> dict[str, bytes]:
        refs = [ArtifactRef("documents", one, "", folder / one) for one in known]
        workspace = Workspace(folder / name, predecessors=lambda: refs)
        parts = [file.parent for file in pages.files("pages.parquet")]
        clean_parts(parts, CleanConfig(workers=1), workspace)
        return data(file_bytes(folder / name))

    old = make_pages(folder / "a", [make_page(*one) for one in before], templates=TEMPLATES)
    rows = [make_page(*one) for one in after]
    templates = [("Wordy", target, []), *TEMPLATES[1:]]
    new = make_pages(folder / "b", rows, parts=parts, templates=templates)
    run("old", old)
    assert run("refresh", new, "old") == run("scratch", new)


def test_an_edit_of_the_cleaner_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches rows of yesterday's code or language data, and a report that costs a refresh."""
    monkeypatch.setattr(incremental_module, "__file__", str(tmp_path / "incremental.py"))
    (tmp_path / "languages").mkdir()
    seen = {fingerprint({"language": "en"}, {}), fingerprint({"language": "de"}, {})}
    seen.add(fingerprint({"language": "en"}, {"min_chars": 5}))
    for name in ("scanner.py", "languages/en.yaml"):
        for words in ("one", "two"):
            (tmp_path / name).write_text(words)
            seen.add(fingerprint({"language": "en"}, {}))
    assert len(seen) == 7
    (tmp_path / "report.py").write_text("words")
    assert fingerprint({"language": "en"}, {}) in seen


def test_a_template_counts_as_changed_only_if_its_rule_is(
    tmp_path: Path, make_pages: MakePages, make_page: Callable[..., Row]
) -> None:
    """Catches a wiki cleaned anew because a template's documentation moved to another category."""
    rows = [make_page(1, "P", text(1))]
    tables = []
    for number, templates in enumerate(
        (
            [("A", "Nowrap", []), ("B", None, ["Templates for dates"]), ("C", None, []),
             ("D", "Blockquote", []), ("E", "B", [])],
            [("A", "Nowrap", []), ("B", None, ["Templates for days"]), ("D", "Small", []),
             ("E", "B", []), ("F", "Nowrap", [])],
        )
    ):  # fmt: skip
        run = Run(
            make_pages(tmp_path / f"in{number}", rows, templates=templates), tmp_path / f"{number}"
        )
        tables.append(run.folder / "templates.parquet")
    assert changed_templates(*tables, "en") == {"d", "blockquote", "small", "f", "nowrap"}
    assert changed_templates(tables[0], tables[0], "en") == frozenset()


titles = st.sampled_from([f"{a}{b}" for a in "ABC" for b in "xyz"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(titles, unique=True, min_size=1),
    st.lists(
        st.tuples(titles.map(lambda one: f"R{one}"), titles | titles.map(lambda one: f"R{one}"))
    ),
    st.integers(1, 5),
)
def test_aliases_are_those_of_a_plain_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    pages: list[str],
    redirects: list[tuple[str, str]],
    number: int,
) -> None:
    """Catches aliases lost between parts, and chains of redirects that are not followed once."""
    redirects = list(dict(redirects).items())
    target_of = dict(redirects)
    expected: dict[str, set[str]] = {}
    for title, target in redirects:
        end = target if target in pages else target_of.get(target, "")
        if end in pages:
            expected.setdefault(end, set()).add(title)
    folder = tmp_path_factory.mktemp("aliases")
    parts = []
    for index in range(number):
        part = folder / f"part-{index}"
        part.mkdir()
        parts.append(part)
        _write(part / "pages.parquet", {"title": pages[index::number]})
        own = redirects[index::number]
        spelt = [target.replace("x", "x#section") for _, target in own]
        columns = {"title": [title for title, _ in own], "target": spelt}
        _write(part / "redirects.parquet", columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aliases_module, "MAX_BUCKETS", 3)
        files = sort_aliases(parts, folder)
    found: dict[str, list[str]] = {}
    for part, file in zip(parts, files, strict=True):
        found |= read_aliases(file, pq.read_table(part / "pages.parquet").column("title"))
    assert found == {title: sorted(names) for title, names in expected.items()}


def _write(path: Path, columns: dict[str, list[str]]) -> None:
    import pyarrow as pa

    pq.write_table(
        pa.table({name: pa.array(one, pa.string()) for name, one in columns.items()}), path
    )


def test_aliases_obey_the_wikis_rule_of_capitals(tmp_path: Path) -> None:
    """Catches `iPod` and `IPod` taken for one where the wiki keeps them apart."""
    _write(tmp_path / "pages.parquet", {"title": ["ab", "Ab"]})
    _write(tmp_path / "redirects.parquet", {"title": ["R"], "target": ["ab"]})
    for is_first_upper, title in ((True, "Ab"), (False, "ab")):
        (file,) = sort_aliases([tmp_path], tmp_path, is_first_upper=is_first_upper)
        assert read_aliases(file, pq.read_table(tmp_path / "pages.parquet").column(0)) == {
            title: ["R"]
        }
