"""Neighbourhoods: who is near whom, and the file that keeps it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc import seeds
from ganc.errors import InputError, OutputError
from ganc.scoring.density import neighbours
from ganc.scoring.density.neighbours import (
    Neighbourhoods,
    build,
    check_count,
    check_identity,
    default_neighbours,
    load,
    nearest,
    save,
)

IDENTITY = {"teacher": "t" * 64, "inputs": "i" * 64, "metric": "cosine", "neighbours": 3}


def features(count: int, dim: int = 5, seed: int = 0) -> Tensor:
    return seeds.normal(seed, "test features", range(count), (dim,)).half().float()


def make(count: int = 12, **changes: Any) -> Neighbourhoods:
    own = features(count)
    identity = {**IDENTITY, **changes}
    return build(lambda indices: own[indices.start : indices.stop], count, identity, batch=5)


def brute_force(rows: Tensor, k: int) -> tuple[list[list[int]], list[float]]:
    """Compare all pairs, in float64, which holds squares of float16 differences exactly."""
    found, radii = [], []
    for i, own in enumerate(rows.double()):
        squares = (rows.double() - own).square().sum(dim=1).tolist()
        order = sorted((d, j) for j, d in enumerate(squares) if j != i)[:k]
        found.append([j for _, j in order])
        radii.append(order[-1][0] ** 0.5)
    return found, radii


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(3, 40), dim=st.integers(1, 4), seed=st.integers(0, 99), data=st.data(),
    grid=st.sampled_from([1.0, 0.5, 0.01]),
)  # fmt: skip
def test_nearest_is_brute_force_with_ties_and_duplicates(
    count: int, dim: int, seed: int, grid: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, count - 1))
    block = data.draw(st.sampled_from([1, 3, 7, 1024]))
    rows = ((features(count, dim, seed) / grid).round() * grid).half().float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", block)
        found, radii = nearest(rows, k)
    expected, distances = brute_force(rows, k)
    assert found.tolist() == expected
    assert radii.tolist() == pytest.approx(distances, rel=1e-6)


@pytest.mark.parametrize("k", [2, 5])
def test_many_equal_images_come_in_their_order(k: int) -> None:
    # As a collapsed generator makes them: more of them than anybody asks for.
    rows = torch.cat([torch.ones(90, 3), torch.zeros(60, 3)])
    found, radii = nearest(rows, k)
    assert found[0].tolist() == list(range(1, k + 1))
    assert found[50].tolist() == list(range(k))
    assert found[149].tolist() == list(range(90, 90 + k))
    assert not radii.any()


def test_planted_clusters_are_found() -> None:
    centers = torch.eye(8)[:5] * 10
    labels = torch.tensor(seeds.generator(0, "test labels").permutation(5 * 7) % 5)
    rows = centers[labels] + 0.1 * features(35, 8)
    found, radii = nearest(rows, 6)
    for i in range(35):
        assert i not in found[i].tolist()
        assert labels[found[i]].tolist() == [labels[i]] * 6
        members = Neighbourhoods(found, radii, rows, {}).members(i).tolist()
        assert members[0] == i
        assert sorted(members) == torch.nonzero(labels == labels[i]).flatten().tolist()
    assert (radii < 2).all()


def test_blocks_are_told_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = features(50, 16)
    whole = nearest(rows, 7)
    monkeypatch.setattr(neighbours, "BLOCK", 8)
    seen: list[tuple[str, int, int]] = []
    found = nearest(rows, 7, lambda *state: seen.append(state))
    assert torch.equal(found[0], whole[0])
    assert torch.equal(found[1], whole[1])
    assert seen[-1] == ("finding neighbours", 50, 50)
    assert [done for _, done, _ in seen] == [8, 16, 24, 32, 40, 48, 50]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_metrics(metric: str) -> None:
    # Two directions, far along each: by angle 0 is near 1, by distance near 2.
    own = torch.tensor([[1.0, 0.1], [20, 2], [0.1, 1], [2, 20]])
    hoods = build(lambda r: own[r.start : r.stop], 4, {"metric": metric, "neighbours": 1}, batch=4)
    assert hoods.neighbours[0].item() == (1 if metric == "cosine" else 2)
    lengths = hoods.features.norm(dim=1)
    if metric == "cosine":
        torch.testing.assert_close(lengths, torch.ones(4), atol=1e-3, rtol=0)
        assert hoods.radii[0] < 0.01
    else:
        assert torch.equal(hoods.features, own.half().float())
        expected = ((own[0] - own[2]).square().sum().sqrt()).item()
        assert hoods.radii[0].item() == pytest.approx(expected, rel=1e-3)


def test_descriptions_come_in_batches() -> None:
    asked: list[range] = []
    own = features(12)

    def encode(indices: range) -> Tensor:
        asked.append(indices)
        return own[indices.start : indices.stop]

    build(encode, 12, IDENTITY, batch=5)
    assert asked == [range(5), range(5, 10), range(10, 12)]


def test_default_number_of_neighbours() -> None:
    counts = {6: 5, 1000: 5, 1067: 5, 1400: 7, 3000: 15, 50_000: 50, 1_000_000: 50}
    assert {count: default_neighbours(count) for count in counts} == counts


def test_too_few_images() -> None:
    check_count(9, 8, "photos")
    with pytest.raises(InputError, match=r"photos holds 8 images.*need 9 at least") as caught:
        check_count(8, 8, "photos")
    assert "neighbours=N" in str(caught.value.hint)


# The file.


def test_file_and_back(tmp_path: Path) -> None:
    sides = {"generator": make(), "generator_b": make(20, neighbours=5, metric="euclidean")}
    save(tmp_path / "n.safetensors", sides)
    found = load(tmp_path / "n.safetensors")
    assert list(found) == list(sides)
    for name, own in sides.items():
        assert torch.equal(found[name].neighbours, own.neighbours)
        assert torch.equal(found[name].radii, own.radii)
        assert torch.equal(found[name].features, own.features)
        assert found[name].identity == own.identity
        assert found[name].neighbours.dtype == torch.int64


def test_file_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name, {"generator": make()})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(OutputError, match="exists"):
        save(tmp_path / "a", {"generator": make()})


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"teacher": "u" * 64}, "of another teacher"),
        ({"inputs": "j" * 64}, "of other inputs"),
        ({"neighbours": 4}, "of neighbours 3 instead of 4"),
        ({"metric": "euclidean"}, "of metric cosine instead of euclidean"),
        ({"encoder_name": "trained"}, "of encoder_name None instead of trained"),
        ({"teacher": "u" * 64, "neighbours": 4}, "another teacher, neighbours 3 instead of 4"),
    ],
)
def test_neighbourhoods_of_something_else(changes: dict[str, Any], finding: str) -> None:
    check_identity(Path("n.safetensors"), {**IDENTITY, "encoder": {"sha256": "…"}}, IDENTITY)
    with pytest.raises(InputError) as caught:
        check_identity(Path("n.safetensors"), IDENTITY, {**IDENTITY, **changes})
    assert str(caught.value).startswith("n.safetensors holds neighbourhoods of ")
    assert finding in str(caught.value)
    assert "--neighbourhoods" in str(caught.value.hint)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def text(path: Path) -> None:
    path.write_text("neighbours: everybody\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_tensors(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)


def with_metadata(**changes: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
        safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata | changes)

    damage.__name__ = "-".join(changes.values())
    return damage


def without_radii(path: Path) -> None:
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    del tensors["generator.radii"]
    safetensors.torch.save_file(tensors, path, metadata)


DAMAGES = [
    (truncated, "not a file of neighbourhoods, or damaged"),
    (text, "not a file of neighbourhoods, or damaged"),
    (empty, "not a file of neighbourhoods, or damaged"),
    (folder, "not a file of neighbourhoods, or damaged"),
    (other_tensors, "holds no neighbourhoods"),
    (with_metadata(ganc_neighbourhoods="two"), "is no whole number"),
    (with_metadata(ganc_neighbourhoods="2", ganc_version="9.1"), "has format 2"),
    (with_metadata(sides="{"), "is damaged"),
    (with_metadata(sides="[]"), "is damaged"),
    (with_metadata(sides='{"generator": 3}'), "is damaged"),
    (without_radii, "is damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "finding"), DAMAGES, ids=lambda x: getattr(x, "__name__", None))
def test_files_that_are_none(tmp_path: Path, damage: Callable[[Path], None], finding: str) -> None:
    path = tmp_path / "n.safetensors"
    save(path, {"generator": make()})
    damage(path)
    with pytest.raises(InputError) as caught:
        load(path)
    assert f"{path} " in str(caught.value)
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    if "format" in finding:
        assert caught.value.hint == "pip install 'ganc>=9.1'"
