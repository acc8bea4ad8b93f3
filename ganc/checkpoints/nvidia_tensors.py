"""NVIDIA's tensor names without its pickles: plain state dicts and a JSON config, both ways.

``Generator(**arguments)`` of NVlabs/stylegan3 (``networks_stylegan2`` or ``networks_stylegan3``)
loads such a state dict strictly where the widths follow that code's rule.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ganc import strict_json
from ganc.checkpoints.foreign import Conversion, Layout, as_float, best_rule
from ganc.checkpoints.header import network_configs
from ganc.checkpoints.normalise import Found
from ganc.checkpoints.nvidia import LICENCE
from ganc.checkpoints.nvidia_bare import stylegan3_layer_names
from ganc.checkpoints.refusals import printable
from ganc.errors import CheckpointError, InputError, UsageError
from ganc.models import stylegan2, stylegan2_discriminator, stylegan3
from ganc.models.layers import RESAMPLE_FILTER, Conv2dLayer
from ganc.models.model import Model, build_network
from ganc.ops.upfirdn2d import setup_filter

# What configs that no network can have raise where something is computed from them.
_MISFITS = (KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError,
            RuntimeError)  # fmt: skip

_NETWORKS = {"G_ema": "generator", "D": "discriminator"}
_DESCRIBED = ("architecture", "config")
_BUFFERS = ("resample_filter", "up_filter", "down_filter")  # follow from the config
_USUAL_BASES = [2**power for power in range(16, 6, -1)]
_SEPARABLE_TAPS = 8  # filters as long as this are stored as their taps


def recognises(found: Found) -> str | None:
    """Return the role of a network in this layout, which its key and the config beside it tell."""
    text = found.beside.get("config")
    # Other programs keep texts of that name too: the path of a file, settings of a training run.
    is_ours = isinstance(text, str) and all(f'"{key}"' in text for key in _DESCRIBED)
    return _NETWORKS.get(found.key) if is_ours and found.state else None


def convert(found: Found, settings: Mapping[str, Any]) -> Conversion:
    """Rebuild a recognised network. Its config says everything: no setting is assumed.

    Raises:
        CheckpointError: The config is not what ``to_layout`` writes, or tensors do not fit it.
    """
    role = _NETWORKS[found.key]
    architecture, config = _described(found.beside["config"])
    tensors = _own_names(found.state)
    try:
        own = network_configs(config)[role]
        family = architecture if role == "generator" else config[role]["architecture"]
        network = build_network(family, role, own, tensors)
    except (CheckpointError, UsageError):
        raise
    except _MISFITS as error:
        finding = printable(str(error).splitlines()[0]) if str(error) else type(error).__name__
        raise CheckpointError(
            f"its config does not fit {printable(architecture)}: {finding}"
        ) from error
    return Conversion(network, {}, settings={"licence": LICENCE})


@dataclass
class _Described:
    architecture: str
    config: dict[str, Any]


def _described(text: str) -> tuple[str, dict[str, Any]]:
    """Return the architecture and our own config, which the JSON text holds."""
    found = strict_json.read(text, _Described, "its config", CheckpointError)
    return found.architecture, found.config


def _own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the filters, and the sizes in StyleGAN3's layer names: L0_36_24 → L0."""
    return {
        re.sub(r"^synthesis\.(L\d+)_\d+_\d+\.", r"synthesis.\1.", name): as_float(name, tensor)
        for name, tensor in state.items()
        if not name.endswith(_BUFFERS)
    }


def to_layout(model: Model) -> Layout:
    """Return a StyleGAN's networks under NVIDIA's names: ``G_ema`` and, where there is one, ``D``.

    Args:
        model: Holds a generator.
    Raises:
        InputError: It is no StyleGAN.
    """
    generator = model.generator
    if isinstance(generator, stylegan2.Generator):
        state, (arguments, unfit) = _with_filters(generator), _arguments2(generator)
    elif isinstance(generator, stylegan3.Generator):
        state, (arguments, unfit) = _generator3(generator), _arguments3(generator)
    else:
        raise InputError(
            f"the nvidia layout is for stylegan2 and stylegan3, not {generator.architecture}",
            "pass --format onnx or torch",
        )
    tree: dict[str, Any] = {"G_ema": state}
    made: dict[str, Any] = {"G_ema": arguments}
    if model.discriminator is not None:
        tree["D"] = _with_filters(model.discriminator)
        made["D"], of_judge = _arguments_of_discriminator(model.discriminator)
        unfit = unfit | {f"discriminator.{name}": pair for name, pair in of_judge.items()}
    return Layout(tree, made, unfit, ())


_FILTERED = (Conv2dLayer, stylegan2.SynthesisLayer, stylegan2.SynthesisBlock,
             stylegan2_discriminator.DiscriminatorBlock)  # fmt: skip


def _with_filters(network: Any) -> dict[str, Tensor]:
    """Return a StyleGAN2 network's tensors with the filter that every module stores."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    given, usual = (_stored(t) for t in (network.config["resample_filter"], RESAMPLE_FILTER))
    for name, module in network.named_modules():
        if isinstance(module, _FILTERED):
            kernel = given if _resamples(module) else usual
            state[f"{name}.resample_filter"] = kernel.clone()
    return state


def _stored(taps: Sequence[float]) -> Tensor:
    kernel = setup_filter(taps)
    return kernel.sum(dim=0) if len(taps) >= _SEPARABLE_TAPS else kernel


def _resamples(module: nn.Module) -> bool:
    """Whether a module's filter is read; that code gives the usual one to the other layers."""
    if isinstance(module, Conv2dLayer):
        return module.up > 1 or module.down > 1
    return not isinstance(module, stylegan2.SynthesisLayer) or module.up > 1


def _generator3(generator: stylegan3.Generator) -> dict[str, Tensor]:
    """Return the tensors, each layer's sizes in its name again, with its designed filters."""
    names = stylegan3_layer_names(generator)
    tensors = dict(generator.state_dict())
    tensors |= {
        name: buffer
        for name, buffer in generator.named_buffers()
        if name.endswith(("up_filter", "down_filter")) and _is_stored(generator, name)
    }
    return {
        re.sub(r"^synthesis\.(L\d+)\.", lambda m: f"synthesis.{names[m[1]]}.", name): t.clone()
        for name, t in tensors.items()
    }


def _is_stored(generator: nn.Module, name: str) -> bool:
    """Whether that code keeps a filter: one of a single tap is none."""
    return generator.get_buffer(name).numel() > 1


def _arguments2(generator: stylegan2.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    config = generator.config
    sides = {name: int(name.split(".")[0][1:]) for name in config["widths"]}
    chosen, unfit = _fit2(config["widths"], sides)
    kept = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs",
            "resample_filter", "conv_clamp")  # fmt: skip
    arguments = {key: config[key] for key in kept} | chosen
    return arguments | {"architecture": config.get("architecture", "skip"),
                        "num_fp16_res": 0}, unfit  # fmt: skip


def _arguments_of_discriminator(
    discriminator: stylegan2_discriminator.Discriminator,
) -> tuple[dict[str, Any], dict[str, Any]]:
    config = discriminator.config
    sides = stylegan2_discriminator.group_resolutions(config["img_resolution"])
    chosen, unfit = _fit2(config["widths"], sides)
    kept = ("c_dim", "img_resolution", "img_channels", "mapping_kwargs", "conv_clamp")
    epilogue = {key: config[key] for key in ("mbstd_group_size", "mbstd_num_channels")}
    arguments = {key: config[key] for key in kept} | chosen
    return arguments | {
        "architecture": config.get("architecture", "resnet"),
        "cmap_dim": config["cmap_dim"] or None,
        "num_fp16_res": 0,
        "block_kwargs": {"resample_filter": config["resample_filter"]},
        "epilogue_kwargs": epilogue,
    }, unfit


def _fit2(
    widths: Mapping[str, int], sides: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    bases = [widths[name] * side for name, side in sides.items()]
    rules = {
        (base, most): {name: min(base // side, most) for name, side in sides.items()}
        for base in (32768, *_USUAL_BASES, *sorted(set(bases), reverse=True))
        for most in sorted(set(widths.values()), reverse=True)
    }
    (base, most), unfit = best_rule(widths, rules)
    return {"channel_base": base, "channel_max": most}, unfit


_SAMPLING = ("num_layers", "num_critical", "first_cutoff", "first_stopband", "last_stopband_rel",
             "margin_size")  # fmt: skip


def _arguments3(generator: stylegan3.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    config = generator.config
    chosen, unfit = _fit3(config)
    if config["fourier_channels"] != config["widths"]["input"]:  # that code's matrix is square
        unfit = {"input": (config["widths"]["input"], config["fourier_channels"])} | unfit
    dropped = ("widths", "fourier_channels")
    arguments = {key: value for key, value in config.items() if key not in dropped} | chosen
    return arguments | {"num_fp16_res": 0}, unfit


def _fit3(config: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    widths = config["widths"]
    sampling = {key: config[key] for key in _SAMPLING}
    grids = stylegan3.layer_grids(
        config["img_resolution"], channel_base=1, channel_max=1, **sampling
    )
    cutoffs = dict(zip(widths, [g.cutoff for g in (grids[0], *grids)], strict=False))
    # The smallest base that rounds to a width: if any base gives all widths, one of these does.
    lowest = {int(2 * cutoffs[name] * (width - 0.5)) + 1 for name, width in widths.items()}
    rules = {
        (base, most): {name: round(min(base / 2 / cut, most)) for name, cut in cutoffs.items()}
        for base in (32768, *_USUAL_BASES, *sorted(lowest, reverse=True))
        for most in sorted(set(widths.values()), reverse=True)
    }
    (base, most), unfit = best_rule(widths, rules)
    return {"channel_base": base, "channel_max": most}, unfit
