"""Reader for StyleGAN2 under the names of XPixelGroup/BasicSR.

The networks are rosinality's in all but their tensors' names, which are translated here. GFPGAN's
decoders have nearly the same names and are other networks, so they are refused: the "clean" one
enlarges images bilinearly and has plain linear layers, the bilinear one differs in the missing FIR
kernels alone.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ganc.checkpoints import rosinality
from ganc.checkpoints.foreign import Conversion
from ganc.checkpoints.normalise import Found
from ganc.errors import CheckpointError

_NAMES = [
    (r"style_mlp\.", "style."),
    (r"constant_input\.weight$", "input.input"),
    (r"style_conv(1|s\.\d+)\.weight$", r"conv\1.noise.weight"),
    (r"style_conv(1|s\.\d+)\.", r"conv\1."),
    (r"noises\.noise(\d+)$", r"noises.noise_\1"),
    (r"conv_body\.", "convs."),
]
_PARTS = [(r"\.modulated_conv\.", ".conv."), (r"\.smooth\.kernel$", ".blur.kernel")]


def recognises(found: Found) -> str | None:
    """Return the role of a network in this layout, or in that of GFPGAN's decoders."""
    state = found.state
    if "constant_input.weight" in state or "style_mlp.1.weight" in state:
        return "generator"
    return "discriminator" if "conv_body.0.0.weight" in state else None


def convert(found: Found, settings: Mapping[str, Any]) -> Conversion:
    """Build a recognised network.

    Raises:
        CheckpointError: It is GFPGAN's clean decoder, or a tensor does not fit.
    """
    if _is_clean(found.state):
        raise CheckpointError(
            "it holds the clean decoder of GFPGAN, which is no StyleGAN2: it enlarges images"
            " bilinearly and has plain linear layers",
            "import the StyleGAN2 that it was made from",
        )
    has_kernels = any(name.endswith(".kernel") for name in found.state)
    if recognises(found) == "generator" and not has_kernels and "resample_filter" not in settings:
        raise CheckpointError(
            "it stores no FIR kernels: GFPGAN's bilinear decoder, which is no StyleGAN2, or a"
            " StyleGAN2 that was saved without its buffers",
            "import the StyleGAN2 that it was made from; if it is one, pass"
            " --set resample_filter=[1,3,3,1]",
        )
    renamed = {_translated(name): tensor for name, tensor in found.state.items()}
    return rosinality.convert(replace(found, content=renamed), settings)


def _is_clean(state: Mapping[str, Tensor]) -> bool:
    """Whether a generator is GFPGAN's: biases beside the activations, a layer between the linears.

    Any of the signs will do, so that one that lost a tensor is not taken for a StyleGAN2.
    """
    has_bias = any(re.fullmatch(r"style_conv(1|s\.\d+)\.bias", name) for name in state)
    linears = [int(m[1]) for name in state if (m := re.match(r"style_mlp\.(\d+)\.", name))]
    return has_bias or (max(linears, default=0) > 1 and all(index % 2 for index in linears))


def _translated(name: str) -> str:
    """Return rosinality's name of a tensor."""
    for pattern, template in _NAMES:
        changed, count = re.subn(f"^{pattern}", template, name)
        if count:
            name = changed
            break
    for pattern, template in _PARTS:
        name = re.sub(pattern, template, name)
    return name
