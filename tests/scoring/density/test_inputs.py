"""Training inputs: every layout of data that distill takes, and what cannot serve."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ganc.checkpoints.store import save
from ganc.data.images import to_float
from ganc.errors import DataError, InputError, UsageError
from ganc.models.model import Model
from ganc.scores import Scores
from ganc.scoring.density.inputs import InputBatch, TrainingInputs, open_training_inputs
from ganc.scoring.request import ScoreRequest
from ganc.scoring.score import score
from tests.conftest import Outcome, make_model
from tests.families import make_cyclegan, make_resnet, make_unet
from tests.scoring.density.cases import (
    CPU,
    FLAGS,
    QUICK,
    make_sngan_pair,
    write_pairs,
    write_pictures,
)

Ganc = Callable[..., Outcome]
MODEL = make_cyclegan()


def opened(
    generator: Any, data: Path | None, network: str = "generator", *, judges_pairs: bool = False,
    **settings: Any,
) -> TrainingInputs:  # fmt: skip
    request = ScoreRequest(data=data, **settings)
    return open_training_inputs(network, generator, request, judges_pairs=judges_pairs)


def read(folder: Path) -> Tensor:
    """Return a folder's pictures in [-1, 1], as anybody reads them."""
    rows = []
    for path in sorted(folder.iterdir()):
        pixels = torch.tensor(list(Image.open(path).tobytes()), dtype=torch.uint8)
        rows.append(pixels.reshape(16, 16, -1).permute(2, 0, 1))
    return to_float(torch.stack(rows))


def seen_by(inputs: TrainingInputs, generator: Any) -> Tensor:
    """Return what the generator is given of each input."""
    caught: list[Tensor] = []
    hook = generator.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    with torch.no_grad():
        inputs.feed(range(inputs.count), CPU).run()
    hook.remove()
    return torch.cat(caught)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of pictures in colour, of 6 and 5."""
    return write_pictures(tmp_path / "first", 6), write_pictures(tmp_path / "second", 5)


def in_one(tmp_path: Path, sides: tuple[Path, Path], names: tuple[str, str]) -> Path:
    for side, name in zip(sides, names, strict=True):
        shutil.copytree(side, tmp_path / "both" / name)
    return tmp_path / "both"


@pytest.mark.parametrize("names", [("A", "B"), ("trainA", "trainB")], ids=str)
def test_two_sides_in_one_set(
    tmp_path: Path, sides: tuple[Path, Path], names: tuple[str, str]
) -> None:
    data = in_one(tmp_path, sides, names)
    for network, generator, side in (
        ("generator", MODEL.generator, sides[0]), ("generator_b", MODEL.generator_b, sides[1])
    ):  # fmt: skip
        inputs = opened(generator, data, network)
        assert inputs.count == len(list(side.iterdir()))
        assert torch.equal(seen_by(inputs, generator), read(side))
        swapped = opened(generator, data, network, swap=True)
        other = sides[1] if side is sides[0] else sides[0]
        assert torch.equal(seen_by(swapped, generator), read(other))


def test_a_folder_for_each_side(sides: tuple[Path, Path]) -> None:
    given = {"data": sides[0], "data_b": sides[1]}
    there = opened(MODEL.generator, **given)
    back = opened(MODEL.generator_b, network="generator_b", **given)
    assert torch.equal(seen_by(there, MODEL.generator), read(sides[0]))
    assert torch.equal(seen_by(back, MODEL.generator_b), read(sides[1]))


def test_a_plain_folder_of_inputs(sides: tuple[Path, Path]) -> None:
    inputs = opened(MODEL.generator, sides[0])
    assert torch.equal(seen_by(inputs, MODEL.generator), read(sides[0]))
    feed = inputs.feed([4, 1, 4], CPU)
    assert (feed.condition, feed.labels) == (None, None)
    with torch.no_grad():
        expected = MODEL.generator(read(sides[0])[[4, 1, 4]])
    torch.testing.assert_close(feed.run(), expected)


@pytest.fixture
def side_by_side(tmp_path: Path) -> Path:
    """Pictures of 32x16: A, a drawing, on the left, and B on the right."""
    for name, folder in (("A", tmp_path / "A"), ("B", tmp_path / "B")):
        write_pictures(folder, 5)
        assert name
    (tmp_path / "double").mkdir()
    for path in sorted((tmp_path / "A").iterdir()):
        picture = Image.new("RGB", (32, 16))
        picture.paste(Image.open(path), (0, 0))
        picture.paste(Image.open(tmp_path / "B" / path.name), (16, 0))
        picture.save(tmp_path / "double" / path.name)
    return tmp_path / "double"


@pytest.mark.parametrize("swap", [False, True])
def test_pairs_side_by_side(side_by_side: Path, swap: bool) -> None:
    generator = make_resnet().generator
    inputs = opened(generator, side_by_side, swap=swap, judges_pairs=True)
    expected = read(side_by_side.parent / ("B" if swap else "A"))
    assert torch.equal(seen_by(inputs, generator), expected)
    # A discriminator of pairs sees the input in front of the image.
    assert torch.equal(inputs.feed(range(5), CPU).condition, expected)


def test_pairs_of_a_drawing_and_a_photo(tmp_path: Path) -> None:
    data, generator = write_pairs(tmp_path / "pairs", 4), make_unet().generator
    inputs = opened(generator, data, judges_pairs=True)
    assert torch.equal(seen_by(inputs, generator), read(data / "A"))
    assert inputs.feed([2], CPU).condition.shape == (1, 1, 16, 16)


def test_inputs_have_a_name_of_their_own(sides: tuple[Path, Path], tmp_path: Path) -> None:
    first, again, other = (opened(MODEL.generator, data) for data in (sides[0], sides[0], sides[1]))
    assert first.content_hash == again.content_hash != other.content_hash
    moved = shutil.copytree(sides[0], tmp_path / "elsewhere")
    assert opened(MODEL.generator, moved).content_hash == first.content_hash
    Image.new("RGB", (16, 16)).save(moved / "003.png")
    assert opened(MODEL.generator, moved).content_hash != first.content_hash


def test_latents_are_drawn_by_their_number() -> None:
    generator = make_model().generator
    request = ScoreRequest(samples=9, seed=3, noise_mode="random")
    inputs = open_training_inputs("generator", generator, request, judges_pairs=False)
    assert inputs.count == 9

    def images(feed: InputBatch) -> Tensor:
        with torch.no_grad():
            return feed.run()

    whole = images(inputs.feed(range(4), CPU))
    torch.testing.assert_close(images(inputs.feed([2, 0], CPU)), whole[[2, 0]])
    other = open_training_inputs(
        "generator", generator, ScoreRequest(samples=9, seed=4), judges_pairs=False
    )
    assert other.content_hash != inputs.content_hash
    assert (images(other.feed(range(4), CPU)) - whole).abs().max() > 0.01
    labelled = make_model(c_dim=3).generator
    feed = open_training_inputs(
        "generator", labelled, ScoreRequest(samples=9), judges_pairs=False
    ).feed(range(5), CPU)
    assert feed.labels.shape == (5, 3)
    assert feed.labels.sum(dim=1).tolist() == [1] * 5


# What cannot serve: through the command, with its exit code.


def without_discriminator() -> Model:
    return Model(make_resnet().generator)


def scored(ganc: Ganc, tmp_path: Path, model: Model, *options: object) -> Outcome:
    save(model, tmp_path / "m.safetensors")
    return ganc(
        "score", tmp_path / "m.safetensors", "--method", "density", *FLAGS, "--quiet",
        "-o", tmp_path / "s", "--neighbourhoods", tmp_path / "n", "--device", "cpu", *options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "options", "code", "finding"),
    [
        (make_unet, (), 2, "needs the images that the translator was trained on"),
        (make_model, ("--data", "first"), 2, "--data goes with translators"),
        (make_sngan_pair, ("--data", "first"), 2, "--data goes with translators"),
        (without_discriminator, ("--data", "first"), 3, "the model does not hold"),
        (make_cyclegan, ("--data", "nowhere"), 3, "nowhere"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set", "neighbours=5"), 3,
         "second holds 5 images, neighbourhoods of 5 neighbours need 6"),
        (make_cyclegan, ("--data", "first", "--network", "generator", "--set", "neighbours=6"), 3,
         "first holds 6 images, neighbourhoods of 6 neighbours need 7"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set", "speedup=1e6"), 3,
         "no mask leaves the generator"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set",
         "discriminator_macs=0.001"), 3, "no mask leaves the discriminator"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set", "keep_groups=stm"), 3,
         "keep_groups names stm"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set", "encoder=swav"), 2,
         "unknown encoder `swav`"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set", "encoder=resnet50:x"), 3,
         "there is no file x"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set", "stps=4"), 2,
         "unknown density setting `stps`"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set", "gate=open"), 2, "gate"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set", "centers=2", "--set",
         "condition=batch"), 2, "one neighbourhood at a time"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--set", "centers"), 2,
         "centers"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--resume"), 3, "there is no"),
        (make_cyclegan, ("--data", "first", "--data-b", "second", "--samples", "auto"), 2, "auto"),
    ],
)  # fmt: skip
def test_what_cannot_serve(
    make: Callable[[], Model], options: tuple[str, ...], code: int, finding: str,
    ganc: Ganc, sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()} | {"m.safetensors"}
    done = scored(ganc, tmp_path, make(), *options)
    assert (done.code, done.out) == (code, ""), done.err
    line, *hint = done.err.splitlines()
    assert line.startswith("error: ")
    assert finding in line
    assert len(hint) <= 1
    assert {path.name for path in tmp_path.iterdir()} == before  # nothing was begun


def test_images_of_another_size(sides: tuple[Path, Path], tmp_path: Path) -> None:
    large = write_pictures(tmp_path / "large", 5, side=20)
    with pytest.raises(DataError, match="20"):
        score(MODEL, "density", data=large, data_b=sides[1], density=QUICK, device="cpu")
    found = score(
        MODEL, "density", data=large, data_b=sides[1], density=QUICK, resize=True, device="cpu"
    )
    assert found.settings["resize"] is True


def test_a_discriminator_of_something_else(sides: tuple[Path, Path]) -> None:
    model = Model(make_resnet().generator, make_unet().discriminator)  # that sees 4 channels
    with pytest.raises(InputError, match="does not fit the generator"):
        score(model, "density", data=sides[0], density=QUICK, device="cpu")


def test_settings_of_density_go_with_density(sides: tuple[Path, Path]) -> None:
    for name, value in (("density", {"steps": 2}), ("log", "x"), ("resume", True), ("swap", True),
                        ("neighbourhoods", "n")):  # fmt: skip
        with pytest.raises(UsageError, match="takes no"):
            score(MODEL, "l1-in", **{name: value})


# The file of neighbourhoods, through the command.


def test_neighbourhoods_are_reused_or_refused(
    ganc: Ganc, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    data = ("--data", sides[0], "--data-b", sides[1])
    path = tmp_path / "n"
    first = scored(ganc, tmp_path, MODEL, *data)
    assert first.code == 0, first.err
    built, scores = path.read_bytes(), (tmp_path / "s").read_bytes()
    (tmp_path / "m.safetensors").unlink()
    again = scored(ganc, tmp_path, MODEL, *data, "--force")
    assert again.code == 0, again.err
    assert (path.read_bytes(), (tmp_path / "s").read_bytes()) == (built, scores)
    changes: list[tuple[tuple[object, ...], str]] = [
        (("--data", sides[1], "--data-b", sides[0]), "of other inputs"),
        ((*data, "--set", "neighbours=2"), "of neighbours 3 instead of 2"),
        ((*data, "--set", "metric=euclidean"), "of metric cosine instead of euclidean"),
        ((*data, "--set", "encoder=trained"), "instead of trained"),
    ]
    for options, finding in changes:
        (tmp_path / "m.safetensors").unlink()
        refused = scored(ganc, tmp_path, MODEL, "--force", *options)
        assert refused.code == 3
        line, hint = refused.err.splitlines()
        assert line.startswith(f"error: {path} holds neighbourhoods of ")
        assert finding in line
        assert hint.startswith("hint: name another file with --neighbourhoods")
    (tmp_path / "m.safetensors").unlink()
    swapped = Model(MODEL.generator_b, MODEL.discriminator_b, MODEL.generator, MODEL.discriminator)
    refused = scored(ganc, tmp_path, swapped, "--force", *data)
    assert (refused.code, "of another teacher" in refused.err) == (3, True)
    for content in (b"text", built[:-5]):
        path.write_bytes(content)
        (tmp_path / "m.safetensors").unlink()
        refused = scored(ganc, tmp_path, MODEL, "--force", *data)
        assert refused.code == 3
        assert refused.err.startswith(f"error: {path} is not a file of neighbourhoods")
    assert Scores.load(tmp_path / "s").to_bytes() == scores


def test_neighbourhoods_of_one_direction_are_added(
    ganc: Ganc, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    from ganc.scoring.density.neighbours import load

    one = scored(ganc, tmp_path, MODEL, "--data", sides[0], "--network", "generator")
    assert one.code == 0, one.err
    there = load(tmp_path / "n")
    assert list(there) == ["generator"]
    (tmp_path / "m.safetensors").unlink()
    both = scored(ganc, tmp_path, MODEL, "--data", sides[0], "--data-b", sides[1], "--force")
    assert both.code == 0, both.err
    found = load(tmp_path / "n")
    assert list(found) == ["generator", "generator_b"]
    assert torch.equal(found["generator"].neighbours, there["generator"].neighbours)
