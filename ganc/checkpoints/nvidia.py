"""Reader for NVIDIA's StyleGAN2-ADA-PyTorch and StyleGAN3 pickles, read by ``pickles``.

They hold whole networks: their modules' attributes, parameters and buffers. What a network is, is
taken from there, since the arguments it was made from leave out defaults that changed between
releases. The arguments still show what a fork added: names this reader does not know are refused.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints.foreign import Conversion, as_float, check_square, fir_taps
from ganc.checkpoints.normalise import Found
from ganc.checkpoints.pickle_machine import Record
from ganc.checkpoints.refusals import printable
from ganc.errors import CheckpointError, nearest
from ganc.models import stylegan2, stylegan2_discriminator, stylegan3
from ganc.models.model import build_network
from ganc.models.network import Network

LICENCE = (
    "the layout is NVIDIA's: weights that NVIDIA published may be used for non-commercial purposes"
    " only, weights that others trained on what terms they say"
)

CLASSES = (
    "Generator", "MappingNetwork", "SynthesisNetwork", "SynthesisInput", "SynthesisBlock",
    "SynthesisLayer", "ToRGBLayer", "Conv2dLayer", "FullyConnectedLayer",
    "Discriminator", "DiscriminatorBlock", "DiscriminatorEpilogue", "MinibatchStdLayer",
)  # fmt: skip

# Arguments that decide what the networks compute; each is read off the modules or passed on.
_SHARED = {"z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "num_layers",
           "lr_multiplier", "channel_base", "channel_max", "conv_clamp"}  # fmt: skip
SAMPLING: dict[str, tuple[type, float, float]] = {
    "num_critical": (int, 0, 64),
    "first_cutoff": (float, 0.5, 100),
    "first_stopband": (float, 0.5, 1000),
    "last_stopband_rel": (float, 0.25, 16),
    "margin_size": (int, 0, 1000),
    "output_scale": (float, -100, 100),
    "conv_kernel": (int, 1, 7),
    "filter_size": (int, 1, 16),
    "lrelu_upsampling": (int, 1, 8),
    "use_radial_filters": (bool, 0, 1),
    "magnitude_ema_beta": (float, 0, 1),
}
"""What StyleGAN3's layers are designed from: kind and range, beyond which they would not fit into
memory."""
# Arguments that only concern speed and training.
DROPPED = {"num_fp16_res", "use_fp16", "fp16_channels_last", "fused_modconv_default", "w_avg_beta",
           "freeze_layers"}  # fmt: skip
KNOWN_ARGUMENTS = {
    "stylegan2": _SHARED | DROPPED | {
        "embed_features", "layer_features", "activation", "architecture", "resample_filter",
        "use_noise", "kernel_size", "cmap_dim", "mbstd_group_size", "mbstd_num_channels",
    },
    "stylegan3": _SHARED | DROPPED | SAMPLING.keys(),
}  # fmt: skip

# Buffers that are read, among the many that are only stored.
_KERNELS = r"(synthesis\.)?b\d+\.((conv0|skip)\.)?resample_filter"
_D_KERNELS = r"b\d+\.((conv1|skip)\.)?resample_filter"
# Layers that have a clamp and do not get the network's.
_UNUSED = re.compile(r".*\.skip|b4\.fromrgb")
_LINEAR = re.compile(r".*\.(affine|skip|embed|out)|affine")
_FILTER_TOLERANCE = 1e-5  # designed in float64 by other libraries, stored in float32
_DEEPEST = 8
_CLAMP = (int, float, type(None))


_ROLES = {"G_ema": "generator", "G": "generator", "D": "discriminator"}
"""Key in the file → role."""


class DesignError(CheckpointError):
    """StyleGAN3's layers are not those that its settings design."""


def recognises(found: Found) -> str | None:
    """Return the role of a pickled network, by its key or else by the name of its class.

    One that a file holds alone is taken for a generator, so that the error can name its class.
    """
    if not isinstance(found.content, Record):
        return None
    of_class = [r for r in _ROLES.values() if found.content.name.lower().endswith(r)]
    return _ROLES.get(found.key) or next(iter(of_class), None if found.key else "generator")


def convert(found: Found, settings: Mapping[str, Any]) -> Conversion:
    """Build a recognised network. Its file says everything: no setting is assumed.

    Raises:
        CheckpointError: A class, argument or tensor does not fit; the message names the first.
    """
    record, role = found.content, recognises(found)
    assert isinstance(record, Record)
    assert role is not None
    module = Modules.of_record(found.key or role.capitalize(), record)
    if record.name != role.capitalize():
        raise CheckpointError(f"{module.name} is a {record.name} where a {role} is expected")
    return Conversion(build(module, role), {}, settings={"licence": LICENCE})


def build(module: "Modules", role: str) -> Network:
    """Build the network that some modules make up.

    Raises:
        CheckpointError: An argument, layer or tensor does not fit; the message names the first.
    """
    architecture = "stylegan3" if "synthesis.input" in module.states else "stylegan2"
    module.check_arguments(KNOWN_ARGUMENTS[architecture])
    module.check_layers()
    convert_one = _discriminator if role == "discriminator" else _GENERATORS[architecture]
    name = module.name
    try:
        config, tensors = convert_one(module)
        network = build_network(architecture, role, config, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}", error.hint) from error
    except KeyError as error:
        raise CheckpointError(f"{name}: {error.args[0]} is missing") from error
    except (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError) as error:
        # Sizes that no network can have: they surface wherever something is computed from them.
        finding = printable(str(error).splitlines()[0])
        raise CheckpointError(
            f"{name}: its settings do not fit {architecture}: {finding}"
        ) from error
    if isinstance(network, stylegan3.Generator):
        _check_filters(name, module, network)
    return network


class Modules:
    """A network's modules as plain data: attributes and tensors.

    Attributes:
        name: What messages call the network.
        states: Each module's attributes, by its path ("" for the network itself).
        tensors: Parameters and buffers by path, float32.
        filter_tolerance: Largest difference between a stored filter and a designed one.
    """

    def __init__(
        self, name: str, states: dict[str, Mapping[str, Any]], tensors: dict[str, Tensor]
    ) -> None:
        self.name, self.states, self.tensors = name, states, tensors
        self.filter_tolerance = _FILTER_TOLERANCE

    @classmethod
    def of_record(cls, name: str, record: Record) -> "Modules":
        """Walk a pickled network.

        Raises:
            CheckpointError: A class is not known, or a part is not what its place says.
        """
        module = cls(name, {}, {})
        waiting, seen = [("", record)], set()
        while waiting:
            path, part = waiting.pop()
            module._check(path, part, is_new=id(part) not in seen)
            seen.add(id(part))
            module.states[path] = part.state
            for kind in ("_parameters", "_buffers"):
                for key, tensor in module._entries(path, kind, Tensor):
                    module.tensors[key] = as_float(key, tensor)
            waiting += module._entries(path, "_modules", Record)
        return module

    def _check(self, path: str, module: Record, *, is_new: bool) -> None:
        at = f"{self.name}.{path}".rstrip(".")
        if module.name not in CLASSES:
            raise CheckpointError(
                f"{at} is of the class {printable(module.name)}, which is not known",
                f"known: {', '.join(CLASSES)}",
            )
        if not is_new or path.count(".") > _DEEPEST or not isinstance(module.state, Mapping):
            raise CheckpointError(f"{at} is no module of its own")

    def _entries(self, path: str, part: str, kind: type) -> Iterator[tuple[str, Any]]:
        entries = self.states[path].get(part, {})
        entries = entries if isinstance(entries, Mapping) else {part: entries}
        for key, value in entries.items():
            at = f"{path}.{key}" if path else str(key)
            if not re.fullmatch(r"[A-Za-z0-9_.]{1,200}", at):
                raise CheckpointError(f"{self.name} has a part with the name {printable(at)}")
            if value is None:
                continue
            if not isinstance(value, kind):
                found = type(value).__name__
                raise CheckpointError(f"{self.name}.{at} is a {found} in {part}")
            yield at, value

    def check_arguments(self, known: Collection[str]) -> None:
        """Refuse arguments of the constructor that this reader has no meaning for."""
        waiting = [self.states[""].get("_init_kwargs", {})]
        for _ in range(3):  # the deepest are synthesis_kwargs' own
            groups = {id(group): group for group in waiting if isinstance(group, Mapping)}
            waiting = []
            for key, value in (item for group in groups.values() for item in group.items()):
                if str(key).endswith("_kwargs"):
                    waiting.append(value)
                elif key not in known:
                    near = nearest(str(key), known)
                    raise CheckpointError(
                        f"{self.name} was made with the argument {printable(str(key))},"
                        " which is not known",
                        f"the nearest is `{near}`" if near else None,
                    )

    def attribute(self, path: str, key: str, *kinds: type) -> Any:
        """Return a module's attribute, which must be of one of these kinds.

        Raises:
            CheckpointError: It is of another.
            KeyError: There is no such module or attribute.
        """
        value = self.states[path][key]
        if type(value) not in kinds:
            found = type(value).__name__
            raise CheckpointError(f"{path or 'the network'} has a {key} that is a {found}")
        return value

    def common(self, key: str, *kinds: type) -> Any:
        """Return the one value of an attribute in all layers that use it.

        Raises:
            CheckpointError: Two differ, or are of another kind.
            KeyError: No layer has it.
        """
        paths = [p for p, state in self.states.items() if key in state and not _UNUSED.fullmatch(p)]
        if not paths:
            raise KeyError(key)
        values = [self.attribute(path, key, *kinds) for path in paths]
        for path, value in zip(paths, values, strict=True):
            if value != values[0]:
                raise CheckpointError(f"{path} and {paths[0]} differ in their {key}")
        return values[0]

    def matching(self, pattern: str) -> list[Tensor]:
        """Return the tensors whose whole path matches."""
        return [tensor for path, tensor in self.tensors.items() if re.fullmatch(pattern, path)]

    def without(self, ending: str) -> dict[str, Tensor]:
        """Return the tensors whose path does not end in a name."""
        return {path: t for path, t in self.tensors.items() if not path.endswith(ending)}

    def sizes(self, *keys: str) -> dict[str, int]:
        """Return the network's own sizes, by their names."""
        return {key: self.attribute("", key, int) for key in keys}

    def check_layers(self) -> None:
        """Refuse layers with other activations than StyleGAN's, or without its noise.

        Raises:
            CheckpointError: The first layer, named.
        """
        for path, state in self.states.items():
            usual = "linear" if _LINEAR.fullmatch(path) else "lrelu"
            if state.get("activation", usual) != usual:
                raise CheckpointError(f"{self.name}.{path} has an activation other than {usual}")
            if state.get("use_noise", True) is not True:
                raise CheckpointError(f"{self.name}.{path} adds no noise, as StyleGAN2's layers do")


def mapping_kwargs(module: Modules) -> dict[str, Any]:
    """Return the mapping network's arguments, those of the usual sizes left out."""
    layers = module.matching(r"mapping\.fc\d+\.weight")
    if not layers:
        return {"num_layers": 0}  # a label's embedding as it is
    first, last = module.tensors["mapping.fc0.weight"], f"mapping.fc{len(layers) - 1}.weight"
    chosen = {
        "num_layers": len(layers),
        "lr_multiplier": float(module.attribute("mapping.fc0", "bias_gain", int, float)),
    }
    w_dim = len(module.tensors[last])
    if len(layers) > 1 and len(first) != w_dim:
        chosen["layer_features"] = len(first)
    embed = module.tensors.get("mapping.embed.weight")
    if embed is not None and len(embed) != w_dim:
        chosen["embed_features"] = len(embed)
    return chosen


def _generator2(module: Modules) -> tuple[dict[str, Any], dict[str, Tensor]]:
    sizes = module.sizes("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    tensors = module.without("resample_filter")
    check_square("synthesis.b4.const", tensors["synthesis.b4.const"], 4)
    names = stylegan2.generator_group_names(sizes["img_resolution"])
    config = {
        **sizes,
        "mapping_kwargs": mapping_kwargs(module),
        "architecture": module.common("architecture", str),
        "widths": {
            name: len(tensors[f"synthesis.{name}" + ("" if name.endswith("const") else ".weight")])
            for name in names
        },
        "resample_filter": fir_taps(_square(module.matching(_KERNELS))),
        "conv_clamp": module.common("conv_clamp", *_CLAMP),
    }
    return config, tensors


def _discriminator(module: Modules) -> tuple[dict[str, Any], dict[str, Tensor]]:
    sizes = module.sizes("c_dim", "img_resolution", "img_channels")
    tensors = module.without("resample_filter")
    names = stylegan2_discriminator.group_resolutions(sizes["img_resolution"])
    config = {
        **sizes,
        "architecture": module.common("architecture", str),
        "widths": {name: len(tensors[f"{name}.weight"]) for name in names},
        **_minibatch_std(module),
        "resample_filter": fir_taps(_square(module.matching(_D_KERNELS))),
        "conv_clamp": module.common("conv_clamp", *_CLAMP),
    }
    if sizes["c_dim"]:
        config["cmap_dim"] = module.attribute("b4", "cmap_dim", int)
        config["mapping_kwargs"] = mapping_kwargs(module)
    return config, tensors


def _minibatch_std(module: Modules) -> dict[str, Any]:
    if "b4.mbstd" not in module.states:
        return {"mbstd_num_channels": 0}
    return {
        "mbstd_group_size": module.attribute("b4.mbstd", "group_size", int, type(None)),
        "mbstd_num_channels": module.attribute("b4.mbstd", "num_channels", int),
    }


def _square(kernels: list[Tensor]) -> list[Tensor]:
    """Return FIR kernels as [K, K]; long separable ones are stored as their taps."""
    return [kernel.outer(kernel) if kernel.ndim == 1 else kernel for kernel in kernels]


def _generator3(module: Modules) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    for path, tensor in module.tensors.items():
        if not path.endswith(("up_filter", "down_filter")):
            name = _canonical(path)
            if name in tensors:
                raise CheckpointError(f"{path} and another tensor are both {name}")
            tensors[name] = tensor
    num_layers = module.attribute("synthesis", "num_layers", int)
    config = {
        **module.sizes("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"),
        "mapping_kwargs": mapping_kwargs(module),
        "num_layers": num_layers,
        **_sampling(module.states[""].get("_init_kwargs")),
        "conv_clamp": module.common("conv_clamp", *_CLAMP),
        "fourier_channels": tensors["synthesis.input.weight"].shape[1],
        "widths": {
            name: len(tensors[f"synthesis.{name}.weight"])
            for name in itertools.chain(["input"], (f"L{index}" for index in range(num_layers)))
        },
    }
    return config, tensors


_GENERATORS = {"stylegan2": _generator2, "stylegan3": _generator3}


def _canonical(path: str) -> str:
    """Drop the sizes that NVIDIA writes into a layer's name: L0_36_24 → L0."""
    return re.sub(r"^synthesis\.(L\d+)_\d+_\d+\.", r"synthesis.\1.", path)


def _sampling(given: Any) -> dict[str, Any]:
    """Return the settings of the sampling grids and filters that were given.

    Raises:
        CheckpointError: One is of another kind or out of range.
    """
    chosen = {key: given[key] for key in SAMPLING if isinstance(given, Mapping) and key in given}
    for key, value in chosen.items():
        kind, low, high = SAMPLING[key]
        is_kind = type(value) is kind or (kind is float and type(value) is int)
        if not is_kind or not low <= value <= high:
            raise CheckpointError(f"its {key} is no {kind.__name__} from {low} to {high}")
    return chosen


def _check_filters(name: str, module: Modules, network: stylegan3.Generator) -> None:
    """Compare the stored filters with those that the settings design.

    Raises:
        DesignError: They differ: the file was made by code that designs others.
    """
    ours = dict(network.named_buffers())
    for path, stored in module.tensors.items():
        if not path.endswith(("up_filter", "down_filter")):
            continue
        own = ours.get(_canonical(path))
        if own is None or own.shape != stored.shape or not torch.allclose(
            own, stored, rtol=0, atol=module.filter_tolerance
        ):  # fmt: skip
            raise DesignError(
                f"{name}: {printable(path)} is not the filter that its settings design"
            )
