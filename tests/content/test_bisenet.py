"""Face parsing: the published layout, and the numbers of the public code on random weights."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganc import seeds
from ganc.content.bisenet import BiSeNet, open_bisenet
from ganc.content.pixels import fit_masks
from ganc.content.request import MaskRequest
from ganc.content.sources import check_masks, open_masks
from ganc.errors import WeightsError
from tests.conftest import GOLDEN
from tests.content.weights import random_faces
from tests.weights.random_weights import install

CASE = "bisenet-faces"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the published layout."""
    path = tmp_path_factory.mktemp("weights") / "79999_iter.pth"
    torch.save(random_faces(BiSeNet()), path)
    return path


def test_names_and_shapes_are_the_published_ones() -> None:
    layout = json.loads((GOLDEN / CASE / "meta.json").read_text())["layout"]
    tensors = BiSeNet().state_dict()
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == layout


@torch.no_grad()
def test_recorded_logits(golden: Callable[[str], Mapping[str, Tensor]]) -> None:
    network = BiSeNet().eval()
    network.load_state_dict(random_faces(network))
    logits = network(seeds.normal(0, "bisenet input", range(2), (3, 64, 96)))
    assert logits.shape == (2, 19, 64, 96)
    expected = golden(CASE)["logits"]
    # Values reach 300: 1e-3 is float32's noise.
    torch.testing.assert_close(logits[:, :, ::4, ::4], expected, rtol=1e-5, atol=1e-3)


def test_recorded_mask(file: Path, golden: Callable[[str], Mapping[str, Tensor]]) -> None:
    io = golden(CASE)
    masks = open_masks(f"bisenet:{file}", MaskRequest(1))(io["image"], range(1))
    assert masks.shape == (1, 512, 512)
    parsing = io["parsing"]
    assert {0, 16} < set(parsing.unique().tolist())
    assert torch.equal(masks[0, ::8, ::8], (parsing != 0) & (parsing != 16))
    assert torch.equal(fit_masks(masks, 64, 64)[0], io["mask"])


def test_files_of_before_batches_were_counted(tmp_path: Path) -> None:
    tensors = {k: v for k, v in random_faces(BiSeNet()).items() if not k.endswith("tracked")}
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    masks = open_bisenet(str(tmp_path / "old.pth"), MaskRequest(1))
    assert not masks.network.training
    assert not any(p.requires_grad for p in masks.network.parameters())


def test_published_file_is_found_by_name(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=r"`bisenet` .*off limits") as caught:
        check_masks("bisenet", 1)
    assert "ganc weights fetch bisenet --from FILE" in str(caught.value.hint)
    monkeypatch.delenv("GANC_OFFLINE")
    check_masks("bisenet", 1)
    with pytest.raises(WeightsError, match="off limits"):
        check_masks("bisenet", 1, offline=True)
    with pytest.raises(WeightsError, match="off limits"):
        open_masks("bisenet", MaskRequest(1, offline=True))
    install(monkeypatch, "bisenet", lambda path: shutil.copyfile(file, path))
    images = seeds.normal(0, "faces", range(1), (3, 32, 32))
    found, expected = (
        open_masks(content, MaskRequest(1))(images, range(1))
        for content in ("bisenet", f"bisenet:{file}")
    )
    assert torch.equal(found, expected)


def test_file_that_answers_nothing_sensible_is_refused(tmp_path: Path) -> None:
    tensors = random_faces(BiSeNet())
    tensors["conv_out.conv_out.weight"].zero_()
    torch.save(tensors, tmp_path / "zero.pth")
    with pytest.raises(WeightsError, match=r"`bisenet` gives 0 .*expected finite answers"):
        open_bisenet(str(tmp_path / "zero.pth"), MaskRequest(1))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone.pth cannot be read") as caught:
        open_masks(f"bisenet:{tmp_path / 'gone.pth'}", MaskRequest(1))
    assert caught.value.exit_code == 3
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsError, match=r"text.pth is not a checkpoint"):
        open_bisenet(str(tmp_path / "text.pth"), MaskRequest(1))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"holds no face-parsing BiSeNet: \d+ of \d+ tensors"):
        open_bisenet(str(tmp_path / "other.pth"), MaskRequest(1))
    wrong = random_faces(BiSeNet())
    wrong["ffm.conv1.weight"] = torch.zeros(3, 3, 1, 1)
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError, match=r"does not fit the network.*ffm.conv1.weight"):
        open_bisenet(str(tmp_path / "wrong.pth"), MaskRequest(1))


def test_no_code_from_the_file_runs(tmp_path: Path) -> None:
    torch.save({"cp": Path}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match=r"code.pth refers to the global pathlib"):
        open_bisenet(str(tmp_path / "code.pth"), MaskRequest(1))
