"""What every test may use; nothing of a test run ever reaches the user's own home."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real dumps and data sets beside the checkout, where a developer has them."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not there: real dumps are not committed")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ETUDE_HOME of the test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("ETUDE_HOME", str(folder))
    return folder
