"""Tiny models with their discriminators, inputs made of nothing, and games between them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ganc import seeds
from ganc.data.images import to_uint8
from ganc.models import patchgan, resnet_translator, sngan
from ganc.models.model import Model
from ganc.models.network import LatentGenerator, Network, Translator
from ganc.models.translation import judges_pairs
from ganc.progress import silent
from ganc.scores import Scores
from ganc.scoring.density.game import Game
from ganc.scoring.density.gates import GatedNetwork
from ganc.scoring.density.inputs import InputBatch, TrainingInputs
from ganc.scoring.density.judge import Judge
from ganc.scoring.density.learner import Learner
from ganc.scoring.density.neighbours import Neighbourhoods, nearest
from ganc.scoring.density.recipe import DensityRecipe
from ganc.scoring.density.search import Search
from ganc.scoring.density.steplog import StepLog
from ganc.scoring.score import score
from ganc.stop import StopRequest
from tests.conftest import make_model, randomise
from tests.families import make_patchgan, make_resnet, make_sngan, make_stylegan3, make_unet

CPU = torch.device("cpu")


def outputs(network: Network, count: int = 3) -> Tensor:
    """Run a network on inputs of its own kind; the same every time."""
    labels = getattr(network, "c_dim", 0)
    c = torch.eye(labels)[torch.arange(count) % labels] if labels else None
    dtype = next(network.parameters()).dtype
    c = None if c is None else c.to(dtype)
    if isinstance(network, LatentGenerator):
        z = seeds.normal(0, "test z", range(count), (network.z_dim,)).to(dtype)
        return network(z, c, **({"noise_mode": "const"} if network.noise_shapes() else {}))
    if isinstance(network, Translator):
        return network(pictures(count, network.in_channels, network.img_resolution).to(dtype))
    channels = getattr(network, "in_channels", None) or network.img_channels
    return network(pictures(count, channels, network.img_resolution).to(dtype), c)


def pictures(count: int, channels: int, resolution: int) -> Tensor:
    """Draw blurred noise, [count, channels, resolution, resolution], in [-1, 1]."""
    coarse = seeds.normal(0, "test pictures", range(count), (channels, 4, 4))
    return torch.nn.functional.interpolate(coarse, resolution, mode="bilinear").clamp(-1, 1)


def make_sngan_pair() -> Model:
    """An SN-GAN of 32 px with its spectrally normalised discriminator."""
    widths = {name: 2 + i % 4 for i, name in enumerate(sngan.discriminator_widths(32))}
    torch.manual_seed(0)
    discriminator = sngan.Discriminator(32, 3, widths=widths)
    randomise(discriminator, 1)
    with torch.no_grad():
        for _ in range(5):  # power iterations, without which sigma is anything
            outputs(discriminator.train())
    return Model(make_sngan().generator, discriminator.eval())


def make_batch_norm_resnet() -> Model:
    """A ResNet translator of 16 px with batch norm, and a PatchGAN with instance norm."""
    torch.manual_seed(0)
    widths = {"stem": 5, "down1": 6, "trunk": 7, "block0.inner": 3, "up1": 4, "up0": 5}
    generator = resnet_translator.Generator(
        3, 3, img_resolution=16, num_blocks=1, widths=widths, norm="batch",
        norm_statistics="batch",
    )  # fmt: skip
    discriminator = patchgan.Discriminator(
        3, img_resolution=16, num_layers=1, base_width=5, norm="instance"
    )
    randomise(generator, 2)
    randomise(discriminator, 3)
    return Model(generator.eval(), discriminator.eval())


def make_resnet_pair() -> Model:
    """One direction of a CycleGAN of 16 px."""
    return Model(make_resnet().generator, make_patchgan().discriminator)


MODELS: dict[str, Callable[[], Model]] = {
    "stylegan2": make_model,
    "stylegan2 with labels": lambda: make_model(c_dim=3, architecture=("orig", "skip")),
    "stylegan3": make_stylegan3,
    "stylegan3-r": lambda: make_stylegan3(c_dim=2, is_rotation_equivariant=True),
    "sngan": make_sngan_pair,
    "resnet": make_resnet_pair,
    "resnet with batch norm": make_batch_norm_resnet,
    "unet": make_unet,
}
"""Every family, with a discriminator where it has one."""

NETWORKS = [
    *((name, "generator") for name in MODELS),
    *((name, "discriminator") for name in MODELS if "stylegan3" not in name),
]


def random_keep(network: Network, seed: int) -> dict[str, list[int]]:
    """Draw channels that stay, at least one, of every group that can be pruned."""
    random = seeds.generator(seed, "test keep")
    keep = {}
    for group in network.groups():
        if group.prunable:
            count = int(random.integers(1, group.width + 1))
            keep[group.name] = sorted(random.permutation(group.width)[:count].tolist())
    return keep


class Pictures(TrainingInputs):
    """Blurred noise for a translator."""

    def __init__(self, generator: Translator, count: int, *, is_shown: bool) -> None:
        self.generator, self.is_shown, self.count = generator, is_shown, count
        self.x = pictures(count, generator.in_channels, generator.img_resolution)
        self.content_hash, self.where = "pictures", "the pictures"

    def feed(self, indices: Sequence[int], device: torch.device) -> InputBatch:
        x = self.x[list(indices)].to(device)
        return InputBatch(lambda: self.generator(x), x if self.is_shown else None, None)


def make_search(
    model: Model,
    recipe: DensityRecipe,
    *,
    count: int = 8,
    state: Path | None = None,
    log: Path | None = None,
    batch: int = 4,
) -> Search:
    """Let the networks of a translator's model themselves play, on pictures."""
    generator, discriminator = GatedNetwork(model.generator), GatedNetwork(model.discriminator)
    for network in (model.generator, model.discriminator):
        network.requires_grad_(False)
    inputs = Pictures(
        model.generator, count, is_shown=judges_pairs(model.discriminator, model.generator)
    )
    features = seeds.normal(0, "test features", range(count), (6,))
    hoods = Neighbourhoods(*nearest(features, 3), features, {"metric": "euclidean"})
    judge = Judge(discriminator, 6, model.discriminator.out.conv.in_channels)
    others = {"projection": (judge.projection, recipe.condition_lr)}
    if recipe.discriminator_lr:
        model.discriminator.requires_grad_(True)
        others["discriminator"] = (model.discriminator, recipe.discriminator_lr)
    game = Game(generator, judge, inputs, hoods, recipe, "lsgan", 0, batch, CPU)
    learners = [
        Learner(
            name, network, recipe, target=0.5 * network.network.macs(), budget_weight=1.0,
            seed=0, device=CPU, others=own,
        )
        for name, network, own in (
            ("generator", generator, {}), ("discriminator", discriminator, others)
        )
    ]  # fmt: skip
    return Search(game, *learners, identity={"test": 1}, state=state, log=StepLog(log))


def learn(search: Search) -> None:
    """Take all steps."""
    search.learn(silent, "learning gates", StopRequest())


def write_pictures(folder: Path, count: int, channels: int = 3, *, side: int = 16) -> Path:
    """Write pictures as PNG files; which they are depends on the folder's name."""
    drawn = pictures(count, channels, side)
    own = seeds.normal(0, f"test {folder.name}", [0], (channels, side, side))
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(to_uint8((drawn + 0.2 * own).clamp(-1, 1))):
        pixels = image[0] if channels == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:03}.png")
    return folder


def write_pairs(folder: Path, count: int, channels: tuple[int, int] = (1, 3)) -> Path:
    """Write A/ and B/, pictures of the same names."""
    for name, depth in zip("AB", channels, strict=True):
        write_pictures(folder / name, count, depth)
    return folder


QUICK: dict[str, Any] = {
    "steps": 4,
    "encoder": "discriminator",
    "neighbours": 3,
    "speedup": 1.8,
    "centers": 1,
    "images": 2,
}
"""Settings of a search that takes no time, in which every part of it has its part."""
FLAGS = [word for name, value in QUICK.items() for word in ("--set", f"{name}={value}")]
"""The same on the command line."""
DEFAULTS = DensityRecipe().to_json()


def quick(model: Model, data: Path, **changes: Any) -> Scores:
    """Score a model by a short search; settings of the recipe come by their names."""
    own = {name: changes.pop(name) for name in list(changes) if name in DEFAULTS}
    return score(model, "density", data=data, density={**QUICK, **own}, device="cpu", **changes)


def assert_equal(found: Scores, expected: Scores) -> None:
    """Compare scores bit for bit."""
    assert list(found.values) == list(expected.values)
    for name, values in expected.values.items():
        assert torch.equal(found[name], values), name
    assert found.thresholds == expected.thresholds
