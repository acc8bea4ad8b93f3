"""Translations against ground truth and labels: counted by hand, and matched by name."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ganc.data.images import BrokenImageError
from ganc.errors import DataError, InputError, UsageError
from ganc.evaluation.evaluate import evaluate
from ganc.evaluation.miou import confusion_matrix, intersection_over_union
from ganc.evaluation.segmentation import Segmenter, open_segmenter
from ganc.perceptual.distance import load_perceptual
from ganc.sampling import sample
from tests.conftest import Outcome, make_model
from tests.families import make_resnet

from .test_translators import random_images
from .witnesses import write_images

PIXELS = ["l1-target", "psnr-target"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(random_images(3), tmp_path / "photos")


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_images(random_images(3, seed=9), tmp_path / "truth")


# --- images -------------------------------------------------------------------------------------


def test_distances_are_to_the_partners(photos: Path, truth: Path) -> None:
    model = make_resnet()
    metrics = [*PIXELS, "perceptual-target"]
    result = evaluate(model, metrics, input=photos, target=truth)
    ours = sample(model, 3, input=photos).clamp(-1, 1)
    files = [np.asarray(Image.open(path)) for path in sorted(truth.iterdir())]
    theirs = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2) / 127.5 - 1
    mse = (ours - theirs).square().flatten(1).mean(dim=1)
    assert result["metrics"] == pytest.approx(
        {
            "l1-target": (ours - theirs).abs().mean().item(),
            "psnr-target": (10 * (4 / mse).log10()).mean().item(),
            "perceptual-target": load_perceptual("effnet-lite0")(ours, theirs).mean().item(),
        },
        rel=1e-5,
    )
    protocol = result["settings"]["protocols"]["l1-target"]
    assert (protocol["pairs"], len(protocol["target"])) == (3, 64)


def test_its_own_translations_are_a_perfect_target(tmp_path: Path, photos: Path) -> None:
    model = make_resnet()
    truth = write_images(sample(model, 3, input=photos).clamp(-1, 1), tmp_path / "own")
    values = evaluate(model, PIXELS, input=photos, target=truth)["metrics"]
    assert values["l1-target"] < 1 / 255
    assert values["psnr-target"] > 50  # what is left is 8-bit rounding


def test_names_decide_and_not_their_order(tmp_path: Path, photos: Path, truth: Path) -> None:
    expected = evaluate(make_resnet(), PIXELS, input=photos, target=truth)["metrics"]
    with zipfile.ZipFile(tmp_path / "truth.zip", "w") as archive:
        for path in sorted(truth.iterdir(), reverse=True):
            Image.open(path).save(tmp_path / "x.bmp")
            archive.write(tmp_path / "x.bmp", path.with_suffix(".bmp").name)
    zipped = tmp_path / "truth.zip"
    assert evaluate(make_resnet(), PIXELS, input=photos, target=zipped)["metrics"] == expected


def test_missing_partners_and_sizes_are_named(tmp_path: Path, photos: Path, truth: Path) -> None:
    model = make_resnet()
    (truth / "00001.png").rename(truth / "one.png")
    with pytest.raises(DataError, match=r"photos/00001\.png: no partner .* \(1 of 3 images"):
        evaluate(model, PIXELS, input=photos, target=truth)
    (photos / "00001.png").unlink()
    with pytest.raises(DataError, match=r"truth/one\.png: no partner of this name in .*photos"):
        evaluate(model, PIXELS, input=photos, target=truth)
    small = write_images(random_images(3, 8), tmp_path / "small")
    (small / "00001.png").unlink()
    with pytest.raises(DataError, match="size 8x8, the translations have 16x16"):
        evaluate(model, PIXELS, input=photos, target=small)
    evaluate(model, PIXELS, input=photos, target=small, resize=True)


def test_rectangles_have_targets_too(tmp_path: Path) -> None:
    pictures = random_images(2, 16)[..., :8]
    photos = write_images(pictures, tmp_path / "in")
    truth = write_images(pictures.flip(0), tmp_path / "out")
    assert evaluate(make_resnet(), ["l1-target"], input=photos, target=truth)["metrics"]


def test_what_is_missing_is_said(photos: Path, truth: Path) -> None:
    with pytest.raises(UsageError, match="l1-target: no ground truth to compare with"):
        evaluate(make_resnet(), ["l1-target"], input=photos)
    for model in (make_resnet(), make_model()):
        with pytest.raises(UsageError, match="--target belongs to the images of --input"):
            evaluate(model, ["l1-target"], target=truth)
    for given in ({"labels": truth}, {"segmenter": "a:b"}):
        with pytest.raises(UsageError, match=r"miou: no labels, or nothing that finds classes"):
            evaluate(make_resnet(), ["miou"], input=photos, **given)


# --- segments -----------------------------------------------------------------------------------


def test_a_confusion_matrix_counted_by_hand() -> None:
    labels = torch.tensor([[0, 0, 1], [1, 255, 2]], dtype=torch.uint8)
    predicted = torch.tensor([[0, 1, 1], [1, 1, 4]])
    confusion = confusion_matrix(labels, predicted)
    counts = {(0, 0): 1, (0, 1): 1, (1, 1): 2, (2, 4): 1}
    assert {tuple(at): int(confusion[*at]) for at in confusion.nonzero().tolist()} == counts
    # Class 0: 1 of 2; 1: 2 of 3; 2: 0 of 1; 4 was only predicted, wrongly: 0 of 1; 3 is nowhere.
    assert intersection_over_union(confusion).tolist() == pytest.approx([1 / 2, 2 / 3, 0, 0])


def write_labels(maps: Tensor, folder: Path, *, palette: bool) -> Path:
    folder.mkdir()
    for index, labels in enumerate(maps.byte().numpy()):
        image = Image.fromarray(labels)
        if palette:
            image.putpalette([value for label in range(256) for value in (label, 7, 255 - label)])
        image.save(folder / f"{index:05}.png")
    return folder


@pytest.fixture
def segmenters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's: bright red is class 1; logits, classes, and mistakes."""
    (tmp_path / "my_segments.py").write_text(
        "import torch\n"
        "def classes(images):\n    return (images[:, 0] > 0).int()\n"
        "def logits(images):\n    return torch.stack([0 * images[:, 0], images[:, 0]], dim=1)\n"
        "def probabilities(images):\n    return images[:, 0]\n"
        "def broken(images):\n    raise KeyError('weights')\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("function", ["classes", "logits"])
@pytest.mark.parametrize("palette", [False, True])
def test_miou_of_a_set(segmenters: Path, photos: Path, function: str, palette: bool) -> None:
    """The matrix is the whole set's; two of the maps differ from the segments in one row."""
    model = make_resnet()
    found = sample(model, 3, input=photos).clamp(-1, 1)[:, 0] > 0
    truth = found.clone()
    truth[:2, 5] = ~truth[:2, 5]
    maps = truth.byte()
    maps[2, :4] = 255
    labels = write_labels(maps, segmenters / "labels", palette=palette)
    result = evaluate(
        model, ["miou"], input=photos, labels=labels, segmenter=f"my_segments:{function}", batch=2
    )
    counted = maps != 255
    each = []
    for label in (0, 1):
        both = (counted & (maps == label) & (found == label)).sum().item()
        either = (counted & ((maps == label) | (found == label))).sum().item()
        each.append(both / either)
    values = result["metrics"]
    assert values["miou"] == pytest.approx(sum(each) / 2, rel=1e-12)
    assert values["miou-accuracy"] == pytest.approx(1 - 32 / (3 * 256 - 64), rel=1e-6)
    assert result["settings"]["protocols"]["miou"]["classes"] == 2


def test_labels_are_scaled_on_request(segmenters: Path, photos: Path) -> None:
    labels = write_labels(torch.zeros(3, 8, 8), segmenters / "labels", palette=False)
    arguments = {"input": photos, "labels": labels, "segmenter": "my_segments:classes"}
    with pytest.raises(DataError, match="size 8x8, the translations have 16x16"):
        evaluate(make_resnet(), ["miou"], **arguments)  # type: ignore[arg-type]
    values = evaluate(make_resnet(), ["miou"], resize=True, **arguments)["metrics"]  # type: ignore[arg-type]
    assert 0 < values["miou"] < 1


def test_maps_that_hold_no_class_numbers_are_refused(segmenters: Path, photos: Path) -> None:
    arguments = {"input": photos, "segmenter": "my_segments:logits"}
    colours = write_images(random_images(3), segmenters / "colours")
    with pytest.raises(DataError, match="pixel format `RGB`, a label map has one class number"):
        evaluate(make_resnet(), ["miou"], labels=colours, **arguments)  # type: ignore[arg-type]
    ids = write_labels(torch.full((3, 16, 16), 26), segmenters / "ids", palette=False)
    with pytest.raises(DataError, match=r"00000\.png: a class above 1, .* knows 2 classes"):
        evaluate(make_resnet(), ["miou"], labels=ids, **arguments)  # type: ignore[arg-type]
    (ids / "00000.png").write_bytes(b"no picture")
    with pytest.raises(BrokenImageError, match=r"00000\.png: no label map"):
        evaluate(make_resnet(), ["miou"], labels=ids, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "found"),
    [("broken", "raised KeyError: 'weights'"), ("probabilities", r"must return logits \[2, K, 4")],
)
def test_functions_that_return_no_segments(segmenters: Path, function: str, found: str) -> None:
    with pytest.raises(InputError, match=f"--segmenter my_segments:{function} {found}"):
        open_segmenter(f"my_segments:{function}")(torch.zeros(2, 3, 4, 4))


def test_functions_that_are_not_there(segmenters: Path) -> None:
    for text, found in [
        ("drn", "is not module:function"),
        ("nowhere:f", "no module nowhere"),
        ("my_segments:logit", "unknown function of module my_segments"),
    ]:
        with pytest.raises(UsageError, match=found):
            open_segmenter(text)
    with pytest.raises(InputError, match="got int64"):
        Segmenter("f", lambda images: images[:, 0].long() - 5)(torch.zeros(2, 3, 4, 4))


def test_a_mismatch_is_exit_3(
    ganc: Callable[..., Outcome], tmp_path: Path, photos: Path, truth: Path
) -> None:
    from ganc.checkpoints.store import save

    save(make_resnet(), tmp_path / "model.safetensors")
    command = ("eval", tmp_path / "model.safetensors", "--input", photos, "--target", truth)
    assert ganc(*command, "--metrics", "l1-target", "--json").code == 0
    (truth / "00002.png").unlink()
    outcome = ganc(*command, "--metrics", "l1-target")
    assert outcome.code == 3
    assert "00002.png: no partner" in outcome.err
    assert ganc("eval", "none", "--metrics", "l1-target", "--dry-run").code == 2
