"""Local sources, their identities, and the room as a whole."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from storage.errors import BadInput
from storage.workspace import Workspace
from tasks.fetch.config import (
    FetchConfig,
    FileSource,
    PackageSource,
    UrlSource,
)
from tasks.fetch.sources import file_name, identity, local_path, packing
from tasks.fetch.task import fetch

DEMO = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


def test_kind_tells_the_sources_apart() -> None:
    """Catches a union that guesses, and a typo that passes."""
    source = TypeAdapter(FetchConfig).validate_python({"kind": "url", "url": "https://x.org/d"})
    assert isinstance(source, UrlSource)
    with pytest.raises(ValidationError):
        TypeAdapter(FetchConfig).validate_python({"kind": "file", "pth": "x"})
    assert "contact" not in UrlSource(url="https://x.org/d", contact="a@b.c").key_dict()
    for contact in ("a@b.c\r\nHost: evil", "é@b.c"):
        with pytest.raises(ValidationError):
            UrlSource(url="https://x.org/d", contact=contact)


def test_prefects_form_shows_every_kind() -> None:
    """Catches a source that the form cannot offer, or a field that it cannot explain."""
    schema = TypeAdapter(FetchConfig).json_schema()
    assert set(schema["discriminator"]["mapping"]) == {"wiki", "url", "file", "package"}
    for definition in schema["$defs"].values():
        for name, field in definition["properties"].items():
            assert "position" in field and (name == "kind" or field["description"])


def test_a_files_identity_is_its_contents(tmp_path: Path) -> None:
    """Catches a key that trusts a path: the same name, another dump."""
    path = tmp_path / "my.xml"
    path.write_text("<mediawiki/>")
    first = identity(FileSource(path=path))
    path.write_text("<mediawiki />")
    assert identity(FileSource(path=path)) != first
    assert identity(UrlSource(url="https://x.org/d", sha1="0" * 40)) == "sha1:" + "0" * 40


def test_bad_files_name_themselves(tmp_path: Path) -> None:
    """Catches a traceback where a line would do."""
    empty = tmp_path / "empty.xml"
    empty.touch()
    for path, word in (
        (tmp_path / "no.xml", "is not there"),
        (empty, "empty"),
        (tmp_path, "not a"),
    ):
        with pytest.raises(BadInput, match=word) as caught:
            local_path(FileSource(path=path))
        assert str(path) in str(caught.value)


def test_a_missing_package_says_what_to_install() -> None:
    """Catches an ImportError in the demo's first minute."""
    with pytest.raises(BadInput, match="pip install no-such-package-at-all"):
        local_path(PackageSource(distribution="no-such-package-at-all", path="x"))
    with pytest.raises(BadInput, match="is not there"):
        local_path(PackageSource(distribution="pytest", path="no/such/file"))


def test_a_missing_gensim_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches advice that leaves the rest of the demo uninstalled."""
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("tasks.fetch.sources.distribution", missing)
    with pytest.raises(BadInput, match=r"pip install 'etude\[demo\]'"):
        local_path(PackageSource(path="x"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xywiki-20260101-pages-articles.xml.bz2", ".bz2"),
        ("enwiki-1.xml-p10p30302-shortened.bz2", ".bz2"),
        ("enwiki-20260101-pages-articles-multistream1.xml-p1p41242.bz2", ".bz2"),
        ("dump.xml", ""),
        ("x.XML.GZ", ".gz"),
        ("noending", ""),
    ],
)
def test_names_in_the_artifact(name: str, expected: str) -> None:
    """Catches an artifact whose file name depends on where the dump came from."""
    assert packing(name) == expected
    assert file_name(UrlSource(url=f"https://x.org/a%20b/{name}?q=1")) == name


def test_the_room_copies_and_notes_the_source(tmp_path: Path) -> None:
    """Catches a workspace with anything else in it, or a note with a path of this machine."""
    path = tmp_path / "xywiki.xml"
    path.write_text("<mediawiki/>")
    workspace = Workspace.scratch(tmp_path / "out")
    source = FileSource(path=path, wiki="xywiki")
    counts = fetch.run(config=source, workspace=workspace)
    assert (counts.seen, counts.kept, counts.metrics["bytes"]) == (1, 1, 12)
    assert sorted(file.name for file in workspace.path.iterdir()) == ["dump.xml", "source.json"]
    assert json.loads((workspace.path / "source.json").read_text()) == {
        "wiki": "xywiki",
        "language": None,
        "name": "xywiki.xml",
        "date": None,
        "files": [{"path": "dump.xml", "name": "xywiki.xml"}],
    }


def test_an_index_beside_a_file_stays_there(tmp_path: Path) -> None:
    """Catches a copy, and a key, of hundreds of megabytes that no room reads."""
    (tmp_path / "x-multistream3.xml-p7p9.bz2").write_bytes(b"dump")
    source = FileSource(path=tmp_path / "x-multistream3.xml-p7p9.bz2")
    alone = identity(source)
    (tmp_path / "x-multistream-index3.txt-p7p9.bz2").write_bytes(b"index")
    assert identity(source) == alone
    workspace = Workspace.scratch(tmp_path / "out")
    fetch.run(config=source, workspace=workspace)
    assert {path.name for path in workspace.path.iterdir()} == {"dump.xml.bz2", "source.json"}


def test_a_copy_that_does_not_fit_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a disk filled up to the last byte by a file of this machine."""
    path = tmp_path / "x.xml"
    path.write_text("<mediawiki/>")
    usage = type("Usage", (), {"free": 5})
    monkeypatch.setattr("tasks.fetch.download.shutil.disk_usage", lambda folder: usage)
    workspace = Workspace.scratch(tmp_path / "out")
    with pytest.raises(BadInput, match="ETUDE_HOME on a larger disk"):
        fetch.run(config=FileSource(path=path), workspace=workspace)
    assert list(workspace.path.iterdir()) == []


def test_the_demo_dump_is_found_without_importing_gensim() -> None:
    """Catches an import that costs seconds, or a moved file in gensim's wheel."""
    import sys

    try:
        distribution("gensim")
    except Exception:
        pytest.skip("gensim is not installed: pip install 'etude[demo]'")
    before = "gensim" in sys.modules
    assert local_path(PackageSource(path=DEMO)).stat().st_size > 1_000_000
    assert ("gensim" in sys.modules) == before
