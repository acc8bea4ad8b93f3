from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache of its own, and no network but loopback."""
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GANC_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"
