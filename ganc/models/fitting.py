"""What a family says of its layers, so that a pruned generator can be fitted to its teacher.

A layer is fitted where it is linear in its weights: in front of noise, norm and activation. Which
channel of the student's layer is which of the teacher's, the channel groups say.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganc.models.layers import FullyConnectedLayer
from ganc.ops.upfirdn2d import upfirdn2d, upsample2d


@dataclass(frozen=True)
class FitConv:
    """A convolution whose weight may move.

    Attributes:
        module: Name of the module whose first argument is convolved; of a modulated one the second
            argument is w.
        weight: Its weight, [C_out, C_in, K, K].
        prepare: What is done to features [N, C, H, W], each channel by itself, before the weight
            slides over them: borders, zeros in between, a low-pass filter.
        stride: Of the sliding.
        is_flipped: Whether the kernel is turned by 180 degrees for it.
        is_transposed: Whether the weight is stored as [C_in, C_out, K, K].
        gain: Factor on the weight at run time.
        affine: What makes the styles, that scale the input channels, of w; None without styles.
    """

    module: str
    weight: Tensor
    prepare: Callable[[Tensor], Tensor]
    stride: int = 1
    is_flipped: bool = False
    is_transposed: bool = False
    gain: float = 1.0
    affine: FullyConnectedLayer | None = None

    def matrix(self, keep: list[int] | None = None) -> Tensor:
        """Return the weight as it acts, [C_out, C_in · K²]; of the channels ``keep`` alone."""
        weight = self.weight.transpose(0, 1) if self.is_transposed else self.weight
        weight = weight if keep is None else weight[keep]
        return weight.flatten(1) * self.gain

    def set_matrix(self, matrix: Tensor) -> None:
        """Replace the weight; ``matrix`` as ``matrix()`` returns it."""
        shape = self.weight.transpose(0, 1).shape if self.is_transposed else self.weight.shape
        weight = (matrix / self.gain).reshape(shape)
        with torch.no_grad():
            self.weight.copy_(weight.transpose(0, 1) if self.is_transposed else weight)

    def size(self, prepared: Tensor) -> tuple[int, int]:
        """Return height and width of the output."""
        sides = zip(prepared.shape[2:], self.weight.shape[2:], strict=True)
        height, width = ((side - taps) // self.stride + 1 for side, taps in sides)
        return height, width

    def columns(self, prepared: Tensor, places: Tensor) -> Tensor:
        """Return what each weight is multiplied by at some pixels of the output.

        Args:
            prepared: What ``prepare`` made of the features, [N, C_in, H, W].
            places: Pixels of the output, [N, P], numbered row by row.
        Returns:
            [N, P, C_in · K²]: times ``matrix`` transposed the output there.
        """
        width, (high, wide) = prepared.shape[3], self.weight.shape[2:]
        out = self.size(prepared)[1]
        corner = (places // out * width + places % out) * self.stride
        taps = [row * width + column for row in range(high) for column in range(wide)]
        if self.is_flipped:
            taps.reverse()
        offsets = torch.tensor(taps, device=places.device)
        index = (corner[:, :, None] + offsets).flatten(1)  # [N, P · K²]
        found = prepared.flatten(2).gather(2, index[:, None].expand(-1, prepared.shape[1], -1))
        return found.unflatten(2, (-1, len(taps))).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class FitLayer:
    """Convolutions whose sum the teacher's is known for, channel by channel.

    Attributes:
        name: What reports call it.
        group: The channels that it makes, None for those of the image.
        convs: Usually one; a residual sum of two linear branches is fitted as one.
        bias: What is added behind, [C_out], or None.
        demodulates: Whether outputs are divided by the norm of their modulated filters, so that
            their scale is free and the ``bias`` follows it.
        noise_strength: Of noise that is added in front of the bias, or None.
        total: Where the teacher is compared instead: at a sum, of which this layer is one part and
            the student's other parts are what they are. Module, and which of its outputs; the
            output times ``scale`` is the sum.
        scale: See ``total``.
    """

    name: str
    group: str | None
    convs: tuple[FitConv, ...]
    bias: Tensor | None = None
    demodulates: bool = False
    noise_strength: Tensor | None = None
    total: tuple[str, int | None] | None = None
    scale: float = 1.0


def plain_conv(name: str, conv: nn.Conv2d | nn.ConvTranspose2d) -> FitConv:
    """Return torch's own convolution, plain or transposed, as one that may move."""
    if isinstance(conv, nn.ConvTranspose2d):
        return FitConv(
            name, conv.weight, lambda x: _zeros_between(x, conv), is_flipped=True,
            is_transposed=True,
        )  # fmt: skip
    high, wide = (int(n) for n in conv.padding)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode

    def prepare(x: Tensor) -> Tensor:
        return F.pad(x, (wide, wide, high, high), mode=mode)

    return FitConv(name, conv.weight, prepare, stride=conv.stride[0])


def _zeros_between(x: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """Return what a transposed convolution's turned kernel slides over, pixel by pixel."""
    stride, border = conv.stride[0], conv.kernel_size[0] - 1 - int(conv.padding[0])
    spread = x.new_zeros(*x.shape[:2], *((side - 1) * stride + 1 for side in x.shape[2:]))
    spread[:, :, ::stride, ::stride] = x
    behind = border + conv.output_padding[0]
    return F.pad(spread, (border, behind, border, behind))


def enlarged(x: Tensor, resample_filter: Tensor, taps: int) -> Tensor:
    """Return what the turned kernel of ``conv2d_up`` slides over: it filters first, we second.

    Both are linear and the transposed convolution is whole, so their order does not matter.

    Args:
        x: [N, C, H, W].
        resample_filter: [F, F].
        taps: The kernel's side.
    """
    if taps == 1:
        return upsample2d(x, resample_filter)
    size = len(resample_filter)
    before = (size - 1 - (taps - 2) + 1) // 2
    padding = (before + taps - 1, size - 1 - before)
    return upfirdn2d(x, resample_filter, up=2, padding=padding, gain=4.0)
