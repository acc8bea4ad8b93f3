from pathlib import Path

import pytest
import torch

from ganc.perceptual.features import FeatureNetwork
from ganc.perceptual.frechet import FeatureStats
from ganc.perceptual.stats_cache import stats_for


def network(name: str = "net", sha256: str = "a" * 64, resize: str = "none") -> FeatureNetwork:
    return FeatureNetwork(
        name,
        sha256=sha256,
        dim=3,
        resolution=8,
        resize=resize,
        prepare=lambda images: images,
        network=torch.nn.Identity(),
    )


class Measured:
    """Counts how often the data set was measured, and keeps the warnings."""

    def __init__(self) -> None:
        self.times = 0
        self.warnings: list[str] = []

    def __call__(self) -> FeatureStats:
        self.times += 1
        stats = FeatureStats.empty(3)
        stats.update(torch.arange(12.0).reshape(4, 3).square())
        return stats

    def get(
        self, data: str = "d", net: FeatureNetwork | None = None, count: int = 4
    ) -> FeatureStats:
        return stats_for(data, net or network(), self, count=count, warn=self.warnings.append)


def test_measured_once_and_bit_identical() -> None:
    measured = Measured()
    first, second = measured.get(), measured.get()
    assert measured.times == 1
    assert first.count == second.count == 4
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.scatter, second.scatter)
    assert measured.warnings == []


@pytest.mark.parametrize(
    "other",
    [
        {"data": "e"},
        {"count": 5},
        {"net": network(sha256="b" * 64)},
        {"net": network(resize="another")},
        {"net": network("other")},
    ],
)
def test_everything_that_matters_is_in_the_key(other: dict[str, object]) -> None:
    measured = Measured()
    measured.get()
    measured.get(**other)  # type: ignore[arg-type]
    assert measured.times == 2
    assert measured.warnings == []


@pytest.mark.parametrize("damage", ["flipped", "truncated", "foreign", "text"])
def test_damaged_files_are_named_and_replaced(damage: str, cache: Path) -> None:
    measured = Measured()
    good = measured.get()
    (path,) = (cache / "statistics").iterdir()
    content = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "truncated":
        path.write_bytes(content[:-9])
    elif damage == "text":
        path.write_text("not safetensors")
    else:
        measured.get(data="e")
        (foreign,) = set((cache / "statistics").iterdir()) - {path}
        path.write_bytes(foreign.read_bytes())
    times = measured.times
    again = measured.get()
    assert measured.times == times + 1
    assert torch.equal(again.scatter, good.scatter)
    assert len(measured.warnings) == 1
    assert str(path) in measured.warnings[0]
    measured.get()
    assert measured.times == times + 1


def test_a_cache_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "file"))
    measured = Measured()
    assert measured.get().count == 4
    assert "not kept" in measured.warnings[0]
