"""One tiny model of every family, seeded random weights, odd widths."""

from collections.abc import Callable

import torch

from ganc.checkpoints.native import build_model
from ganc.models import patchgan, resnet_translator, sngan, stylegan3, unet_translator
from ganc.models.model import Model
from ganc.models.network import Network
from tests.conftest import make_model, randomise


def _random(build: Callable[[], Network], seed: int) -> Network:
    torch.manual_seed(seed)
    network = build()
    randomise(network, seed)
    return network.eval()


def make_resnet(seed: int = 0, *, in_channels: int = 3, img_channels: int = 3) -> Model:
    """A ResNet translator of 16 px that takes any multiple of 4, instance norm."""
    widths = {"stem": 5, "down1": 6, "trunk": 7, "block0.inner": 3, "up1": 4, "up0": 5}
    return Model(
        generator=_random(
            lambda: resnet_translator.Generator(
                in_channels, img_channels, img_resolution=16, num_blocks=1, widths=widths
            ),
            seed,
        )
    )


def make_unet(seed: int = 0, *, statistics: str = "running") -> Model:
    """A pix2pix of 16 px: grey to colour, batch norm, dropout; with its PatchGAN."""
    return Model(
        generator=_random(
            lambda: unet_translator.Generator(
                1, 3, num_downs=3, base_width=5, use_dropout=True, norm_statistics=statistics,
                img_resolution=16,
            ),
            seed,
        ),
        discriminator=make_patchgan(seed, in_channels=4).discriminator,
    )  # fmt: skip


def make_patchgan(seed: int = 0, *, in_channels: int = 3) -> Model:
    """A patch discriminator alone."""
    return Model(
        discriminator=_random(
            lambda: patchgan.Discriminator(
                in_channels, img_resolution=16, num_layers=1, base_width=6
            ),
            seed + 100,
        )
    )


def make_cyclegan() -> Model:
    """Both directions of a CycleGAN with their discriminators."""
    there, back = make_resnet(0), make_resnet(1)
    return Model(
        there.generator, make_patchgan(0).discriminator,
        back.generator, make_patchgan(1).discriminator,
    )  # fmt: skip


def make_sngan(seed: int = 0) -> Model:
    """An SN-GAN of 32 px."""
    widths = {
        "stem": 5, "block2.conv1": 4, "block2.conv2": 6, "block3.conv1": 3, "block3.conv2": 5,
        "block4.conv1": 4, "block4.conv2": 3,
    }  # fmt: skip
    return Model(generator=_random(lambda: sngan.Generator(6, 32, 3, widths=widths), seed))


def make_stylegan3(
    seed: int = 0, *, c_dim: int = 0, is_rotation_equivariant: bool = False, num_layers: int = 4
) -> Model:
    """A StyleGAN3-T (or -R) of 16 px with four layers; two are one of each kind."""
    return Model(
        generator=_random(
            lambda: stylegan3.Generator(
                6, c_dim, 8, 16, 3, num_layers=num_layers, num_critical=num_layers // 2,
                channel_base=128, channel_max=7, margin_size=4, mapping_kwargs={"num_layers": 2},
                conv_kernel=1 if is_rotation_equivariant else 3,
                use_radial_filters=is_rotation_equivariant,
            ),
            seed,
        )
    )  # fmt: skip


def in_colour(grey: Model) -> Model:
    """Return the model of three channels whose toRGB layers are a grey model's, three times."""
    tensors = {
        name: torch.cat([tensor] * 3) if name.endswith(("torgb.weight", "torgb.bias")) else tensor
        for name, tensor in Model(grey.generator).tensors().items()
    }
    config = Model(grey.generator).config | {"img_channels": 3}
    return build_model("stylegan2", config, tensors, [])


FAMILIES: dict[str, Callable[[], Model]] = {
    "stylegan2": make_model,
    "stylegan3": make_stylegan3,
    "sngan": make_sngan,
    "resnet_translator": make_resnet,
    "unet_translator": make_unet,
}
