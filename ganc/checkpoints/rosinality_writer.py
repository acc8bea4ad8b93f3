"""Writer of StyleGAN2 checkpoints in the layout of rosinality/stylegan2-pytorch.

The other way round than ``rosinality``, which reads it: the same tensors under that code's names,
with its leading dimensions and its stored blur kernels.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ganc.checkpoints.foreign import LR_MULTIPLIER, Layout, best_rule
from ganc.errors import InputError
from ganc.models.layers import RESAMPLE_FILTER
from ganc.models.model import Model
from ganc.models.network import Network
from ganc.models.stylegan2_discriminator import group_resolutions
from ganc.ops.upfirdn2d import setup_filter

_Names = list[tuple[str, Callable[[re.Match[str]], str]]]

_PARTS = {
    "weight": "conv.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "noise_strength": "noise.weight",
    "bias": "activate.bias",
}
_RGB_PARTS = _PARTS | {"bias": "bias"}


def _level(side: str) -> int:
    """Return how often 4 px is doubled to get a side."""
    return int(side).bit_length() - 3


def _conv(match: re.Match[str]) -> str:
    """Name a layer's part: conv1 at 4 px, convs.0 and convs.1 at 8 px, …"""
    level = _level(match[1])
    name = "conv1" if level == 0 else f"convs.{2 * (level - 1) + int(match[2])}"
    return f"{name}.{_PARTS[match[3]]}"


def _torgb(match: re.Match[str]) -> str:
    level = _level(match[1])
    return f"{'to_rgb1' if level == 0 else f'to_rgbs.{level - 1}'}.{_RGB_PARTS[match[2]]}"


def _noise(match: re.Match[str]) -> str:
    level = _level(match[1])
    return f"noises.noise_{0 if level == 0 else 2 * level - 1 + int(match[2])}"


_GENERATOR_NAMES: _Names = [
    (r"mapping\.fc(\d+)\.(weight|bias)", lambda m: f"style.{int(m[1]) + 1}.{m[2]}"),
    (r"synthesis\.b4\.const", lambda m: "input.input"),
    (r"synthesis\.b(\d+)\.conv([01])\.noise_const", _noise),
    (r"synthesis\.b(\d+)\.conv([01])\.(.+)", _conv),
    (r"synthesis\.b(\d+)\.torgb\.(.+)", _torgb),
]

_D_PARTS = {
    "conv0.weight": "conv1.0.weight", "conv0.bias": "conv1.1.bias",
    "conv1.weight": "conv2.1.weight", "conv1.bias": "conv2.2.bias", "skip.weight": "skip.1.weight",
}  # fmt: skip
_D_ENDS = {
    "conv.weight": "final_conv.0.weight", "conv.bias": "final_conv.1.bias",
    "fc.weight": "final_linear.0.weight", "fc.bias": "final_linear.0.bias",
    "out.weight": "final_linear.1.weight", "out.bias": "final_linear.1.bias",
}  # fmt: skip


def _discriminator_names(img_resolution: int) -> _Names:
    levels = _level(str(img_resolution)) + 1
    return [
        (r"b\d+\.fromrgb\.weight", lambda m: "convs.0.0.weight"),
        (r"b\d+\.fromrgb\.bias", lambda m: "convs.0.1.bias"),
        (r"b4\.(.+)", lambda m: _D_ENDS[m[1]]),
        (r"b(\d+)\.(.+)", lambda m: f"convs.{levels - _level(m[1])}.{_D_PARTS[m[2]]}"),
    ]


def _rename(tensors: Mapping[str, Tensor], names: _Names) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        matches = ((re.fullmatch(pattern, name), translate) for pattern, translate in names)
        renamed[next(to(match) for match, to in matches if match)] = tensor
    return renamed


def to_layout(model: Model) -> Layout:
    """Return a StyleGAN2 as that code's ``g_ema``, ``latent_avg`` and, where it fits, ``d``.

    Args:
        model: Holds a generator.
    Raises:
        InputError: The layout cannot express the generator.
    """
    if problems := _generator_problems(model.generator):
        raise InputError(
            f"the rosinality layout cannot hold the model: {', '.join(problems)}",
            "pass --format nvidia",
        )
    generator = model.generator
    tree: dict[str, Any] = {
        "g_ema": _generator(generator),
        "latent_avg": generator.w_avg.detach().clone(),
    }
    arguments, unfit = _arguments(generator)
    made = {"Generator": arguments}
    notes = []
    if generator.config["conv_clamp"] is not None:
        notes.append("the layout has no conv_clamp: activations are not clamped")
    if model.discriminator is not None:
        if problems := _discriminator_problems(model.discriminator):
            notes.append(f"the discriminator is left out: {', '.join(problems)}")
        else:
            tree["d"] = _discriminator(model.discriminator)
            made["Discriminator"], of_judge = _arguments_of_discriminator(model.discriminator)
            unfit = unfit | {f"discriminator.{name}": pair for name, pair in of_judge.items()}
    return Layout(tree, made, unfit, tuple(notes))


def _generator_problems(generator: Network) -> list[str]:
    if generator.architecture != "stylegan2":
        return [f"it is for stylegan2, not {generator.architecture}"]
    config = generator.config
    mapping, taps = config["mapping_kwargs"], len(config["resample_filter"])
    checks = {
        f"it has labels (c_dim {config['c_dim']})": config["c_dim"] != 0,
        f"its blocks are `{config.get('architecture')}`": "architecture" in config,
        f"{config['img_channels']} image channels instead of 3": config["img_channels"] != 3,
        f"z_dim {config['z_dim']} is not w_dim {config['w_dim']}": (
            config["z_dim"] != config["w_dim"]
        ),
        "its mapping network has inner sizes of its own": (
            mapping.get("layer_features", config["w_dim"]) != config["w_dim"]
        ),
        # That code enlarges images with four taps, whatever it is told for the features.
        f"its resample_filter has {taps} taps instead of 4": taps != len(RESAMPLE_FILTER),
    }
    return [problem for problem, is_there in checks.items() if is_there]


def _discriminator_problems(discriminator: Network) -> list[str]:
    if discriminator.architecture != "stylegan2":
        return [f"it is a {discriminator.architecture}"]
    config = discriminator.config
    usual = {"c_dim": 0, "architecture": "resnet", "img_channels": 3, "mbstd_group_size": 4,
             "mbstd_num_channels": 1, "conv_clamp": None}  # fmt: skip
    found = {"architecture": "resnet"} | config
    return [
        f"{key} {found[key]} instead of {value}"
        for key, value in usual.items()
        if found[key] != value
    ]


# Leading dimensions of 1 that ours lack: ending of our name → how many.
_LEADING = {
    "conv0.weight": 1, "conv1.weight": 1, "torgb.weight": 1, "b4.const": 1, "noise_const": 2,
    "noise_strength": 1,
}  # fmt: skip


def _generator(generator: Any) -> dict[str, Tensor]:
    gain = generator.config["mapping_kwargs"]["lr_multiplier"] / LR_MULTIPLIER
    tensors = {}
    for name, tensor in generator.state_dict().items():
        if name == "mapping.w_avg":
            continue
        if name.startswith("mapping."):  # that code's multiplier is fixed: keep what acts
            tensor = tensor * gain
        if name.endswith("torgb.bias"):
            tensor = tensor[:, None, None]
        count = next((n for ending, n in _LEADING.items() if name.endswith(ending)), 0)
        count += name.endswith("torgb.bias")
        tensors[name] = tensor.reshape([1] * count + list(tensor.shape)).clone()
    state = _rename(tensors, _GENERATOR_NAMES)
    # That code folds the gain of 2 x 2 zeros between the pixels into its kernels.
    kernel = setup_filter(generator.config["resample_filter"]) * 4
    for level in range(len(generator.synthesis.resolutions) - 1):
        state[f"convs.{2 * level}.conv.blur.kernel"] = kernel.clone()
        state[f"to_rgbs.{level}.upsample.kernel"] = kernel.clone()
    return state


def _discriminator(discriminator: Any) -> dict[str, Tensor]:
    config = discriminator.config
    tensors = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    state = _rename(tensors, _discriminator_names(config["img_resolution"]))
    kernel = setup_filter(config["resample_filter"])
    for block in range(1, _level(str(config["img_resolution"])) + 1):
        state[f"convs.{block}.conv2.0.kernel"] = kernel.clone()
        state[f"convs.{block}.skip.0.kernel"] = kernel.clone()
    return state


def _arguments(generator: Any) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """Return the arguments that come closest, and the groups whose widths they do not give."""
    config = generator.config
    sides = {name: int(name.split(".")[0][1:]) for name in config["widths"]}
    multiplier, unfit = _fit(config["widths"], sides)
    return {
        "size": config["img_resolution"],
        "style_dim": config["w_dim"],
        "n_mlp": config["mapping_kwargs"]["num_layers"],
        "channel_multiplier": multiplier,
        "blur_kernel": config["resample_filter"],
    }, unfit


def _arguments_of_discriminator(
    discriminator: Any,
) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    config = discriminator.config
    multiplier, unfit = _fit(config["widths"], group_resolutions(config["img_resolution"]))
    return {
        "size": config["img_resolution"],
        "channel_multiplier": multiplier,
        "blur_kernel": config["resample_filter"],
    }, unfit


def _fit(
    widths: Mapping[str, int], sides: Mapping[str, int]
) -> tuple[int, dict[str, tuple[int, int]]]:
    """Return the channel multiplier that gives the most of some widths, and those it does not."""

    def rule(multiplier: int) -> dict[str, int]:
        return {name: 512 if s <= 32 else 16384 * multiplier // s for name, s in sides.items()}

    return best_rule(widths, {m: rule(m) for m in (2, 1)})
