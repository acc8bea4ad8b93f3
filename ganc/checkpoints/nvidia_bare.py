"""Reader for bare state dicts of NVIDIA's StyleGAN2-ADA-PyTorch and StyleGAN3.

``torch.save(G.state_dict())`` loses the modules' attributes. Most of them show in the tensors'
names and shapes, and StyleGAN3's stored filters check what they were designed from; the few that
nothing shows are assumed, and said to be. From there on it is the pickles' reader.
"""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints.foreign import (
    LR_MULTIPLIER,
    W_AVG_COMPUTED,
    Conversion,
    as_assumed,
    as_float,
    assumed_number,
    check_square,
    fill_noise,
    mean_w,
)
from ganc.checkpoints.normalise import Found
from ganc.checkpoints.nvidia import (
    LICENCE,
    SAMPLING,
    DesignError,
    Modules,
    build,
    mapping_kwargs,
)
from ganc.errors import CheckpointError, GancError
from ganc.models import stylegan2_discriminator, stylegan3
from ganc.models.network import Network

_SHOWN_BY_TENSORS = ("conv_kernel", "use_radial_filters")
_NO_TRACE = ("output_scale", "magnitude_ema_beta")
_DESIGN = [name for name in SAMPLING if name not in (*_SHOWN_BY_TENSORS, *_NO_TRACE)]
"""What StyleGAN3's filters and sizes are designed from, and are checked against."""


def recognises(found: Found) -> str | None:
    """Return the role of a network in this layout."""
    state = found.state
    if {"synthesis.b4.const", "synthesis.input.weight", "synthesis.input.freqs"} & state.keys():
        return "generator"
    return "discriminator" if {"b4.out.weight", "b4.fc.weight"} & state.keys() else None


def convert(found: Found, settings: Mapping[str, Any]) -> Conversion:
    """Build a recognised network.

    Args:
        found: Its tensors.
        settings: What the tensors do not show: "lr_multiplier", "conv_clamp",
            "mbstd_group_size", and of StyleGAN3 everything that its filters are designed from.
    Raises:
        CheckpointError: A tensor does not fit; or StyleGAN3's filters are not those of the usual
            settings, which are then asked for by name.
    """
    tensors = {name: as_float(name, tensor) for name, tensor in found.state.items()}
    role = recognises(found)
    if role == "discriminator":
        bare: _Bare = _Discriminator(tensors, settings)
    elif any(name.startswith("synthesis.input.") for name in tensors):
        bare = _Generator3(tensors, settings)
    else:
        bare = _Generator2(tensors, settings)
    steps = [torch.finfo(found.state[n].dtype).eps for n in tensors if n.endswith("_filter")]
    bare.filter_step = max(steps, default=0.0)
    name = found.key or str(role)
    try:
        bare.read()
    except GancError:  # which is a ValueError, too
        raise
    except (KeyError, IndexError, ValueError) as error:
        missing = error.args[0] if isinstance(error, KeyError) else error
        raise CheckpointError(f"{name}: its layers do not fit {bare.kind}: {missing}") from error
    network = bare.build(name, str(role))
    assumed = {"z_dim", *bare.assumed} if role == "generator" else bare.assumed
    return Conversion(network, bare.inferred, frozenset(assumed), {"licence": LICENCE})


class _Bare(ABC):
    """The attributes of a network's modules, as far as its tensors and the user say.

    Attributes:
        kind: What messages call the network.
        tensors: Names as they stand in the file → tensors, float32.
        filter_step: Relative step of the type that filters are stored in.
        states: Module's path → attributes, as a pickle has them.
        inferred: What was found and assumed, for the user.
        assumed: Names of what was assumed.
    """

    kind: str

    def __init__(self, tensors: dict[str, Tensor], settings: Mapping[str, Any]) -> None:
        self.tensors, self.settings = tensors, settings
        self.filter_step = 0.0
        self.states: dict[str, dict[str, Any]] = {"": {}}
        self.inferred: dict[str, Any] = {}
        self.assumed: set[str] = set()

    @abstractmethod
    def read(self) -> None:
        """Fill ``states`` and ``inferred``.

        Raises:
            CheckpointError: Sizes do not agree as they do in the public code.
            KeyError, IndexError, ValueError: A tensor is missing or has other dimensions.
        """

    def build(self, name: str, role: str) -> Network:
        """Build the network; raises as the pickles' reader does."""
        module = Modules(name, dict(self.states), self.tensors)
        module.filter_tolerance = max(module.filter_tolerance, self.filter_step)
        return build(module, role)

    def found(self, **sizes: Any) -> None:
        """Take what the tensors show: attributes of the network itself."""
        self.states[""] |= sizes
        self.inferred |= sizes

    def assume(self, path: str, key: str, usual: Any, shown_as: str | None = None) -> None:
        """Take what they do not show: an attribute of a module, the user's or the usual."""
        name = shown_as or key
        value = self.settings.get(name, usual)
        self.states.setdefault(path, {})[key] = value
        self.inferred[name] = as_assumed(self.settings, name, value)
        self.assumed.add(name)

    def mapping(self) -> None:
        """Take the mapping network's sizes, and assume its learning-rate multiplier."""
        multiplier = assumed_number(self.settings, "lr_multiplier", LR_MULTIPLIER)
        self.states["mapping.fc0"] = {"bias_gain": multiplier}
        self.inferred["mapping_layers"] = len(self.numbers(r"mapping\.fc(\d+)\.weight"))
        self.inferred["lr_multiplier"] = as_assumed(self.settings, "lr_multiplier", multiplier)
        self.assumed.add("lr_multiplier")

    def mean_of_w(self) -> None:
        """Compute the mean of w where the file does not hold it, and w depends on z alone."""
        sizes = self.states[""]
        if "mapping.w_avg" not in self.tensors and sizes["c_dim"] == 0:
            kwargs = mapping_kwargs(Modules("", dict(self.states), self.tensors))
            config = {**sizes, "mapping_kwargs": kwargs}
            self.tensors["mapping.w_avg"] = mean_w(self.tensors, config)
            self.inferred["w_avg"] = W_AVG_COMPUTED

    def sizes_of_latents(self) -> dict[str, int]:
        """Return z_dim, c_dim and w_dim.

        Raises:
            CheckpointError: The first mapping layer takes more than w has, as it does for z and a
                label's embedding together, and there is no embedding.
        """
        last = self.numbers(r"mapping\.fc(\d+)\.weight")[-1]
        w_dim = len(self.tensors[f"mapping.fc{last}.weight"])
        label = self.tensors.get("mapping.embed.weight")
        embed_dim, c_dim = (0, 0) if label is None else tuple(label.shape)
        taken = self.tensors["mapping.fc0.weight"].shape[1]
        z_dim = taken - embed_dim
        if c_dim == 0 and taken > w_dim and self.settings.get("z_dim") != taken:
            raise CheckpointError(
                f"mapping.fc0.weight takes {taken} numbers, w has {w_dim}: a conditional"
                " model whose label embedding (mapping.embed) was dropped",
                "import the file it was taken from; if z really has this size, say so:"
                f" --set z_dim={taken}",
            )
        return {"z_dim": z_dim, "c_dim": c_dim, "w_dim": w_dim}

    def numbers(self, pattern: str) -> list[int]:
        """Return the numbers that names show, ascending, each once."""
        matches = (re.fullmatch(pattern, name) for name in self.tensors)
        return sorted({int(match[1]) for match in matches if match})

    def blocks(self, prefix: str = "") -> list[int]:
        """Return the sides of StyleGAN2's blocks, ascending."""
        return self.numbers(rf"{prefix}b(\d{{1,5}})\..*")

    def architecture(self, image_layer: str, sides: list[int], prefix: str = "") -> str:
        """Return how the blocks reach the image: "resnet", "skip" or "orig"."""
        if any(f"{prefix}b{side}.skip.weight" in self.tensors for side in sides):
            return "resnet"
        reached = [s for s in sides if f"{prefix}b{s}.{image_layer}.weight" in self.tensors]
        return "skip" if len(reached) > 1 else "orig"


class _Generator2(_Bare):
    kind = "StyleGAN2"

    def read(self) -> None:
        sides = self.blocks(r"synthesis\.")
        top = f"synthesis.b{sides[-1]}"
        check_square("synthesis.b4.const", self.tensors["synthesis.b4.const"], 4)
        self.found(
            **self.sizes_of_latents(),
            img_resolution=sides[-1],
            img_channels=len(self.tensors[f"{top}.torgb.weight"]),
        )
        architecture = self.architecture("torgb", sides, "synthesis.")
        self.states["synthesis"] = {"architecture": architecture}
        self.inferred["architecture"] = architecture
        self.mapping()
        self.mean_of_w()
        self.assume(f"{top}.conv1", "conv_clamp", None)
        fill_noise(self.tensors, sides[-1], self.inferred)


class _Discriminator(_Bare):
    kind = "StyleGAN2's discriminator"

    def read(self) -> None:
        sides = self.blocks()
        label = self.tensors.get("mapping.embed.weight")
        self.found(
            c_dim=0 if label is None else label.shape[1],
            img_resolution=sides[-1],
            img_channels=self.tensors[f"b{sides[-1]}.fromrgb.weight"].shape[1],
        )
        self.states["b4"] = {"architecture": self.architecture("fromrgb", sides)}
        rows = len(self.tensors["b4.out.weight"])
        if label is None and rows > 1:
            raise CheckpointError(
                f"b4.out.weight has {rows} rows: a conditional discriminator whose label mapping"
                " (mapping.embed) was dropped",
                "import the file it was taken from",
            )
        if label is not None:
            self.states["b4"]["cmap_dim"] = len(self.tensors["b4.out.weight"])
            self.mapping()
        deviations = self.tensors["b4.conv.weight"].shape[1] - len(self.tensors["b8.conv1.weight"])
        if deviations:
            self.states["b4.mbstd"] = {"num_channels": deviations}
            usual = _usual(stylegan2_discriminator.Discriminator, "mbstd_group_size")
            self.assume("b4.mbstd", "group_size", usual, "mbstd_group_size")
        self.assume("b4.conv", "conv_clamp", None)


class _Generator3(_Bare):
    kind = "StyleGAN3"

    def read(self) -> None:
        layers = self._layers()
        num_layers = len(layers) - 1
        last = layers[num_layers]
        self.found(
            **self.sizes_of_latents(),
            img_resolution=int(last.split("_")[1]),
            img_channels=len(self.tensors[f"synthesis.{last}.weight"]),
        )
        self.states["synthesis"] = {"num_layers": num_layers}
        self.states["synthesis.input"] = {}  # by which the family is known
        self.inferred["num_layers"] = num_layers
        self.states[""]["_init_kwargs"] = self._design(layers[0])
        self.mapping()
        self.mean_of_w()
        usual = _usual(stylegan3.Generator, "output_scale")
        scale = assumed_number(self.settings, "output_scale", usual)
        self.inferred["output_scale"] = as_assumed(self.settings, "output_scale", scale)
        usual = _usual(stylegan3.Generator, "conv_clamp")
        self.assume(f"synthesis.{layers[0]}", "conv_clamp", usual)

    def _design(self, first: str) -> dict[str, Any]:
        """Return what the layers are designed from: shown, the user's, or assumed."""
        conv_kernel = self.tensors[f"synthesis.{first}.weight"].shape[-1]
        filters = [t for name, t in self.tensors.items() if name.endswith("down_filter")]
        is_radial = any(t.ndim == 2 for t in filters)
        self.inferred |= {"conv_kernel": conv_kernel, "use_radial_filters": is_radial}
        given = {name: self.settings[name] for name in SAMPLING if name in self.settings}
        self.assumed |= set(_DESIGN) | set(_NO_TRACE)
        self.inferred |= {name: as_assumed(given, name, value) for name, value in given.items()}
        if not filters:  # nothing checks the design; 1x1 kernels go with radial filters
            self.assumed.add("use_radial_filters")
            is_radial = given.get("use_radial_filters", conv_kernel == 1)
            usual = {name: _usual(stylegan3.Generator, name) for name in _DESIGN}
            for name, value in {"use_radial_filters": is_radial, **usual}.items():
                self.inferred[name] = as_assumed(given, name, given.get(name, value))
        return {"conv_kernel": conv_kernel, "use_radial_filters": is_radial, **given}

    def _layers(self) -> list[str]:
        """Return the layers' names, L0_36_512 and so on, in order.

        Raises:
            CheckpointError: One is missing, or there are two of one number.
        """
        matches = (re.match(r"synthesis\.(L(\d{1,3})_\d{1,5}_\d{1,5})\.", n) for n in self.tensors)
        names = dict.fromkeys((int(match[2]), match[1]) for match in matches if match)
        if not names:
            raise CheckpointError(
                "its layers' names carry no sizes: expected L0_36_512 as NVIDIA writes it, not L0",
                "of a model loaded in ganc, save the whole with ganc.save",
            )
        numbers = [number for number, _ in sorted(names)]
        if numbers != list(range(len(numbers))) or len(numbers) < 2:
            raise CheckpointError(f"its layers are numbered {numbers}, expected 0, 1, 2, …")
        return [name for _, name in sorted(names)]

    def build(self, name: str, role: str) -> Network:
        try:
            network = super().build(name, role)
            assert isinstance(network, stylegan3.Generator)
            self._check_sizes(network)
        except DesignError as error:
            usual = {setting: _usual(stylegan3.Generator, setting) for setting in _DESIGN}
            raise CheckpointError(
                error.message,
                "tensors alone do not say what StyleGAN3's layers are designed from; if it was"
                " trained with other values than these, say which: "
                + " ".join(f"--set {setting}={value:.6g}" for setting, value in usual.items()),
            ) from error
        return network

    def _check_sizes(self, network: stylegan3.Generator) -> None:
        """Compare the sizes in the layers' names with those of the designed grids.

        Raises:
            DesignError: The first that differs.
        """
        ours = stylegan3_layer_names(network)
        for ours_name, theirs in zip(ours.values(), self._layers(), strict=True):
            if ours_name != theirs:
                raise DesignError(f"its layer {theirs} would be {ours_name} with these settings")


def stylegan3_layer_names(generator: stylegan3.Generator) -> dict[str, str]:
    """Return our name of each layer → NVIDIA's, with its output's size and channels: L0_36_512."""
    layers = generator.synthesis.layers()
    sizes = [layer.in_size for _, layer in layers if isinstance(layer, stylegan3.SynthesisLayer)]
    side = generator.img_resolution
    return {
        name: f"{name}_{size}_{len(layer.weight)}"
        for (name, layer), size in zip(layers, [*sizes[1:], side, side], strict=True)
    }


def _usual(network_class: type[Network], name: str) -> Any:
    """Return an argument's default: the published class's."""
    return inspect.signature(network_class).parameters[name].default
