"""``ganc score --method content``: flags, the preview, exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganc.content.segmentation import CLASSES
from ganc.scores import Scores
from tests.conftest import Outcome

Ganc = Callable[..., Outcome]
FEW = ("--method", "content", "--samples", 4, "--batch", 2)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, off the network, with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GANC_OFFLINE", "1")
    return tmp_path


def test_scores_and_preview(ganc: Ganc, checkpoint: Path, folder: Path) -> None:
    done = ganc("score", checkpoint, *FEW, "--preview", "masks.png", "--noise-prob", 0.1, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["preview"] == "masks.png"
    assert result["samples"] == 4
    assert result["settings"]["noise_prob"] == 0.1
    assert Scores.load(folder / result["output"]).method == "content"
    picture = np.array(Image.open(folder / "masks.png"))
    assert picture.shape == (260, 260, 3)  # four tiles of 128 px, 4 px between them
    yellow = (picture == [255, 230, 0]).all(axis=2)
    assert yellow[:128, :128].any()
    assert yellow[132:, 132:].any()


def test_preview_shows_the_masks_that_are_scored(
    ganc: Ganc, checkpoint: Path, folder: Path
) -> None:
    masks = folder / "masks"
    masks.mkdir()
    for i in range(4):
        rows = np.zeros((2, 2), np.uint8)
        rows[i // 2, i % 2] = 255
        Image.fromarray(rows).save(masks / f"{i}.png")
    done = ganc("score", checkpoint, *FEW, "--content", f"masks:{masks}", "--preview", "p.png")
    assert done.code == 0, done.err
    picture = np.array(Image.open(folder / "p.png"))
    yellow = (picture == [255, 230, 0]).all(axis=2)
    for i in range(4):
        row, column = 132 * (i // 2), 132 * (i % 2)
        rows, columns = np.nonzero(yellow[row : row + 128, column : column + 128])
        assert (rows.mean() < 64) == (i // 2 == 0)
        assert (columns.mean() < 64) == (i % 2 == 0)


def test_existing_preview_is_kept(ganc: Ganc, checkpoint: Path, folder: Path) -> None:
    (folder / "masks.png").write_text("mine")
    done = ganc("score", checkpoint, *FEW, "--preview", "masks.png")
    assert done.code == 3
    assert "masks.png exists" in done.err
    assert (folder / "masks.png").read_text() == "mine"
    assert not list(folder.glob("*.scores.safetensors"))
    assert ganc("score", checkpoint, *FEW, "--preview", "masks.png", "--force").code == 0


def test_dry_run_shows_the_settings(ganc: Ganc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANC_OFFLINE")  # the weights could be fetched
    done = ganc("score", "nowhere.pt", "--method", "content", "--content", "torchvision:dog",
                "--dry-run", "--json")  # fmt: skip
    settings = json.loads(done.out)["settings"]
    assert settings["content"] == "torchvision:dog"
    assert settings["noise_prob"] == 0.05
    assert (settings["samples"], settings["batch"]) == (400, 10)


@pytest.mark.parametrize(
    ("flags", "code", "finding"),
    [
        (("--content", "torchvision:persn"), 2, "did you mean `person`?"),
        (("--content", "torchvision:person"), 3, "deeplabv3_resnet50"),
        (("--content", "bisenet:gone.pth"), 3, "gone.pth cannot be read"),
        (("--content", "masks:gone"), 3, "gone does not exist"),
        (("--content", "gone:function"), 2, "no module gone"),
        (("--content", "centre"), 2, "did you mean `center`?"),
        (("--content", "dark_masks:nothing"), 3, "finds nothing in any of 4 samples"),
        (("--noise-prob", 2), 2, "--noise-prob 2 is outside [0, 1]"),
        (("--noise-mode", "cosnt"), 2, "did you mean `const`?"),
        (("--preview", "x.png", "-o", "x.png"), 2, "is another output as well"),
        (("--preview", "nowhere/x.png"), 3, "folder nowhere does not exist"),
    ],
)
def test_errors_are_one_line_with_their_code(
    ganc: Ganc, checkpoint: Path, folder: Path, flags: tuple[Any, ...], code: int, finding: str
) -> None:
    (folder / "dark_masks.py").write_text("def nothing(images): return images[:, 0] > 9\n")
    done = ganc("score", checkpoint, *FEW, *flags, "--quiet")
    assert done.code == code, done.err
    assert finding in done.err
    assert done.err.count("\n") <= 2
    assert not done.out
    assert not list(folder.glob("*.scores.safetensors"))


@pytest.mark.parametrize("content", ["torchvision:person", "bisenet"])
def test_offline_option_is_as_good_as_the_variable(
    ganc: Ganc, checkpoint: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GANC_OFFLINE")
    done = ganc("score", checkpoint, *FEW, "--content", content, "--offline")
    assert done.code == 3
    assert "the network is off limits" in done.err


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("content", "code", "finding"),
    [
        ("torchvision:prson", 2, "did you mean `person`?"),
        ("torchvision:person", 3, "the network is off limits"),
        ("bisenet:gone.pth", 3, "there is no such file"),
        ("masks:gone", 3, "gone does not exist"),
        ("masks:two", 3, "two: 2 masks for 4 samples"),
        ("gone:function", 2, "no module gone"),
        ("a_module:functoin", 2, "did you mean `function`?"),
        ("torchvision:", 2, "is incomplete"),
    ],
)
def test_sources_are_checked_before_the_checkpoint_is_read(
    ganc: Ganc, folder: Path, content: str, code: int, finding: str, dry_run: tuple[str, ...]
) -> None:
    (folder / "a_module.py").write_text("def function(images): return images[:, 0] > 0\n")
    (folder / "two").mkdir()
    for name in ("0.png", "1.png"):
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "two" / name)
    done = ganc("score", "nowhere.pt", *FEW, "--content", content, *dry_run)
    assert done.code == code, done.err
    assert finding in done.err
    assert "nowhere.pt" not in done.err
    assert not done.out


def test_classes_are_those_of_torchvision() -> None:
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights as Published

    categories = Published.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    assert ["__background__", *CLASSES] == categories


def test_flags_of_content_go_with_content(ganc: Ganc, checkpoint: Path) -> None:
    for flags in (("--content", "torchvision:dog"), ("--noise-prob", 0.1), ("--preview", "x.png")):
        done = ganc("score", checkpoint, "--method", "l1-out", *flags)
        assert done.code == 2
        assert flags[0] in done.err
    mixed = ganc("score", checkpoint, "--method", "content,l1-out", *FEW[2:], "--preview", "x.png")
    assert mixed.code == 0, mixed.err
