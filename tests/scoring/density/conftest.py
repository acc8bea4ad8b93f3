"""Data for tiny translators."""

from pathlib import Path

import pytest

from tests.scoring.density.cases import write_pairs, write_pictures


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Six pairs of a grey picture and one in colour, as A/ and B/."""
    return write_pairs(tmp_path / "pairs", 6)


@pytest.fixture
def unpaired(tmp_path: Path) -> Path:
    """Six pictures of side A and five of side B."""
    for name, count in (("trainA", 6), ("trainB", 5)):
        write_pictures(tmp_path / "unpaired" / name, count)
    return tmp_path / "unpaired"
