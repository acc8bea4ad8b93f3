from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache of its own, and no network."""
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GANC_OFFLINE", "1")
    return tmp_path / "cache"
