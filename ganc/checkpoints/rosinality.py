"""Reader for StyleGAN2 checkpoints in the layout of rosinality/stylegan2-pytorch.

Takes what its training and its converter save, and generators pruned by code that keeps its names.
Up-convolution kernels are stored the same way round as ours; noise maps and modulated weights have
extra leading dimensions.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ganc.checkpoints.foreign import (
    LR_MULTIPLIER,
    W_AVG_COMPUTED,
    Conversion,
    as_assumed,
    as_float,
    assumed_number,
    assumed_taps,
    check_square,
    fill_noise,
    fir_taps,
    mean_w,
)
from ganc.checkpoints.normalise import Found
from ganc.errors import CheckpointError
from ganc.models import stylegan2, stylegan2_discriminator
from ganc.models.model import build_network

# What sizes that no network can have raise where something is computed from them.
_MISFITS = (KeyError, ValueError, IndexError, TypeError, RuntimeError)

_Names = list[tuple[str, Callable[[re.Match[str]], str]]]


def recognises(found: Found) -> str | None:
    """Return the role of a network in this layout."""
    state = found.state
    if {"input.input", "convs.0.conv.weight"} & state.keys():
        return "generator"
    ends = {"final_conv.0.weight", "final_linear.0.weight", "final_linear.1.weight"}
    return "discriminator" if ends & state.keys() else None


def convert(found: Found, settings: Mapping[str, Any]) -> Conversion:
    """Build a recognised network.

    Raises:
        CheckpointError: A tensor's name or shape does not fit; the message names the first.
    """
    if recognises(found) == "discriminator":
        config, tensors = convert_discriminator(found.state)
        return Conversion(build_network("stylegan2", "discriminator", config, tensors), {})
    multiplier = assumed_number(settings, "lr_multiplier", LR_MULTIPLIER)
    config, tensors = convert_generator(found.state, multiplier)
    if not _blur_kernels(found.state):
        config["resample_filter"] = assumed_taps(settings)
    inferred: dict[str, Any] = {}
    _add_w_avg(tensors, config, found.beside.get("latent_avg"), inferred)
    fill_noise(tensors, config["img_resolution"], inferred)
    inferred |= {
        "img_resolution": config["img_resolution"],
        "z_dim": config["z_dim"],
        "w_dim": config["w_dim"],
        "mapping_layers": config["mapping_kwargs"]["num_layers"],
        "lr_multiplier": as_assumed(settings, "lr_multiplier", multiplier),
    }
    if not _blur_kernels(found.state):
        taps = config["resample_filter"]
        inferred["resample_filter"] = as_assumed(settings, "resample_filter", taps)
    assumed = {"lr_multiplier", *inferred.keys() & {"resample_filter"}}
    network = build_network("stylegan2", "generator", config, tensors)
    return Conversion(network, inferred, frozenset(assumed))


def _add_w_avg(
    tensors: dict[str, Tensor], config: Mapping[str, Any], stored: Any, inferred: dict[str, Any]
) -> None:
    """Take the file's mean of w, of which encoders keep a copy per layer; compute it without."""
    reason = ""
    if isinstance(stored, Tensor):
        rows = as_float("latent_avg", stored).reshape(-1, stored.shape[-1] if stored.ndim else 1)
        if bool(rows.isfinite().all() and (rows == rows[0]).all()):
            tensors["mapping.w_avg"] = rows[0]
            return
        is_finite = bool(rows.isfinite().all())
        reason = f", since {'the rows of latent_avg differ' if is_finite else 'latent_avg has NaN'}"
    tensors["mapping.w_avg"] = mean_w(tensors, config)
    inferred["w_avg"] = f"{W_AVG_COMPUTED}{reason}"


def _block(index: int) -> str:
    """Return the block that convolution ``index`` after the first belongs to, with its layer."""
    return f"synthesis.b{8 * 2 ** (index // 2)}.conv{index % 2}"


_LAYER_PARTS = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}
_PARTS = "|".join(map(re.escape, _LAYER_PARTS))

_GENERATOR_NAMES: _Names = [
    (r"style\.(\d+)\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}"),
    (r"input\.input", lambda m: "synthesis.b4.const"),
    (rf"conv1\.({_PARTS})", lambda m: f"synthesis.b4.conv1.{_LAYER_PARTS[m[1]]}"),
    (rf"convs\.(\d+)\.({_PARTS})", lambda m: f"{_block(int(m[1]))}.{_LAYER_PARTS[m[2]]}"),
    (rf"to_rgb1\.({_PARTS})", lambda m: f"synthesis.b4.torgb.{_LAYER_PARTS[m[1]]}"),
    (
        rf"to_rgbs\.(\d+)\.({_PARTS})",
        lambda m: f"synthesis.b{8 * 2 ** int(m[1])}.torgb.{_LAYER_PARTS[m[2]]}",
    ),
    (r"noises\.noise_0", lambda m: "synthesis.b4.conv1.noise_const"),
    (r"noises\.noise_(\d+)", lambda m: f"{_block(int(m[1]) - 1)}.noise_const"),
]  # fmt: skip


def _discriminator_names(img_resolution: int) -> _Names:
    def side(match: re.Match[str]) -> int:
        return img_resolution >> (int(match[1]) - 1)

    top = f"b{img_resolution}.fromrgb"
    return [
        (r"convs\.0\.0\.weight", lambda m: f"{top}.weight"),
        (r"convs\.0\.1\.bias", lambda m: f"{top}.bias"),
        (r"convs\.(\d+)\.conv1\.0\.weight", lambda m: f"b{side(m)}.conv0.weight"),
        (r"convs\.(\d+)\.conv1\.1\.bias", lambda m: f"b{side(m)}.conv0.bias"),
        (r"convs\.(\d+)\.conv2\.1\.weight", lambda m: f"b{side(m)}.conv1.weight"),
        (r"convs\.(\d+)\.conv2\.2\.bias", lambda m: f"b{side(m)}.conv1.bias"),
        (r"convs\.(\d+)\.skip\.1\.weight", lambda m: f"b{side(m)}.skip.weight"),
        (r"final_conv\.0\.weight", lambda m: "b4.conv.weight"),
        (r"final_conv\.1\.bias", lambda m: "b4.conv.bias"),
        (r"final_linear\.0\.(weight|bias)", lambda m: f"b4.fc.{m[1]}"),
        (r"final_linear\.1\.(weight|bias)", lambda m: f"b4.out.{m[1]}"),
    ]


def _rename(state: Mapping[str, Tensor], names: _Names, what: str) -> dict[str, Tensor]:
    """Translate every name; FIR kernels go into the config instead."""
    renamed = {}
    for name, tensor in state.items():
        if name.endswith(".kernel"):
            continue
        for pattern, translate in names:
            if match := re.fullmatch(pattern, name):
                renamed[translate(match)] = as_float(name, tensor)
                break
        else:
            raise CheckpointError(f"{what}: {name} does not fit rosinality's StyleGAN2 layout")
    return renamed


# Tensors with leading dimensions of 1 that ours lack: ending of the name → how many.
_LEADING = {
    "conv0.weight": 1, "conv1.weight": 1, "torgb.weight": 1, "b4.const": 1, "noise_const": 2,
    "noise_strength": 1,
}  # fmt: skip


def _drop_leading(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if name.endswith("torgb.bias"):
            tensors[name] = tensor.reshape(-1)
        for ending, count in _LEADING.items():
            if name.endswith(ending):
                if list(tensor.shape[:count]) != [1] * count:
                    raise CheckpointError(
                        f"generator: {name} has shape {list(tensor.shape)}, expected it to begin"
                        f" with {[1] * count}"
                    )
                tensors[name] = tensor.reshape(tensor.shape[count:])
    return tensors


def convert_generator(
    state: Mapping[str, Tensor], lr_multiplier: float = LR_MULTIPLIER
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and tensors of our generator, without what a file need not hold.

    That is ``mapping.w_avg``, and of old files the noise maps.

    Raises:
        CheckpointError: A name or size does not fit.
    """
    tensors = _drop_leading(_rename(state, _GENERATOR_NAMES, "generator"))
    _check_mapping(tensors)
    if "synthesis.b4.const" in tensors:
        check_square("generator: input.input", tensors["synthesis.b4.const"], 4)
    num_convs = sum(name.endswith(".noise_strength") for name in tensors)
    num_layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in tensors)
    img_resolution = 4 * 2 ** (num_convs // 2)
    try:
        names = stylegan2.generator_group_names(img_resolution)
        widths = {
            name: len(tensors[f"synthesis.{name}" + ("" if name.endswith("const") else ".bias")])
            for name in names
        }
        config = {
            "z_dim": tensors["mapping.fc0.weight"].shape[1],
            "c_dim": 0,
            "w_dim": tensors["mapping.fc0.weight"].shape[0],
            "img_resolution": img_resolution,
            "img_channels": len(tensors["synthesis.b4.torgb.bias"]),
            "mapping_kwargs": {"num_layers": num_layers, "lr_multiplier": lr_multiplier},
            "widths": widths,
            "resample_filter": fir_taps(_blur_kernels(state)),
            "conv_clamp": None,
        }
    except _MISFITS as error:
        raise CheckpointError(f"generator: its layers do not fit StyleGAN2: {error}") from error
    return config, tensors


def _check_mapping(tensors: Mapping[str, Tensor]) -> None:
    """Check that z has the size of w, and so every mapping layer: the code has one number for both.

    Raises:
        CheckpointError: A layer is not square.
    """
    for name, tensor in tensors.items():
        match = re.fullmatch(r"mapping\.fc(\d+)\.weight", name)
        if match and tensor.ndim == 2 and len(set(tensor.shape)) > 1:
            raise CheckpointError(
                f"generator: style.{int(match[1]) + 1}.weight is {list(tensor.shape)}, in this"
                " layout it is square: z has the size of w. Perhaps a conditional model whose label"
                " embedding was dropped",
                "import the original file instead, before it was converted",
            )


def convert_discriminator(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and tensors of our discriminator.

    Raises:
        CheckpointError: A name or size does not fit.
    """
    num_blocks = sum(
        re.fullmatch(r"convs\.\d+\.skip\.1\.weight", name) is not None for name in state
    )
    img_resolution = 4 * 2**num_blocks
    tensors = _rename(state, _discriminator_names(img_resolution), "discriminator")
    try:
        names = list(stylegan2_discriminator.group_resolutions(img_resolution))
        config = {
            "c_dim": 0,
            "img_resolution": img_resolution,
            "img_channels": tensors[f"b{img_resolution}.fromrgb.weight"].shape[1],
            "widths": {name: len(tensors[f"{name}.bias"]) for name in names},
            "resample_filter": fir_taps(_blur_kernels(state)),
        }
    except _MISFITS as error:
        raise CheckpointError(f"discriminator: its layers do not fit StyleGAN2: {error}") from error
    return config, tensors


def _blur_kernels(state: Mapping[str, Tensor]) -> list[Tensor]:
    return [as_float(name, t) for name, t in state.items() if name.endswith(".kernel")]
