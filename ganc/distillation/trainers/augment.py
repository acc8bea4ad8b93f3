"""Adaptive discriminator augmentation: what lets a discriminator learn from few images.

Every image that the discriminator sees, real or made, is moved and recoloured at random; each
operation happens to a sample with probability p. As long as p is well below 1 the generator still
has to make plain images: what it makes is judged after the same operations as the real images. p
follows how sure the discriminator is of these, since it grows sure of images that it remembers.

Source: Karras et al. 2020 (ADA), Sections 2 and 3, Appendix B: pixel operations, geometry, colour.
The published code resamples between filters, at twice the resolution; this one bilinearly.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from ganc import collectives
from ganc.adversarial import FORMS
from ganc.distillation.draws import Draws
from ganc.distillation.recipes import Recipe
from ganc.ops.affine_warp import affine_warp

OPERATIONS = (
    "flip", "quarter_turn", "shift", "scale", "first_turn", "stretch", "last_turn", "slide",
    "brightness", "contrast", "invert", "hue", "saturation",
)  # fmt: skip
"""What may happen to a sample, in this order, each for itself."""

FREE_TURNS = ("first_turn", "last_turn")
"""Of these at least one happens with probability p."""

SHIFT = 0.125
"""Of the side: the largest shift by whole pixels, and the standard deviation of a slide."""

# Standard deviations of the normal and, in octaves, log-normal changes.
LOG2_SCALE, LOG2_STRETCH = 0.2, 0.2
BRIGHTNESS, LOG2_CONTRAST, LOG2_SATURATION = 0.2, 0.5, 1.0


class Geometry(NamedTuple):
    """How the content of images moves, in this order; a number per sample each, [N].

    Attributes:
        flip: 1 mirrors left and right, 0 does not.
        quarter_turns: 0 to 3, counterclockwise.
        shift_x, shift_y: Whole pixels, right and down.
        log2_scale: 1 doubles the size.
        first_turn: Radians, counterclockwise.
        log2_stretch: 1 doubles the width and halves the height.
        last_turn: Radians, counterclockwise.
        slide_x, slide_y: Pixels, right and down.
    """

    flip: Tensor
    quarter_turns: Tensor
    shift_x: Tensor
    shift_y: Tensor
    log2_scale: Tensor
    first_turn: Tensor
    log2_stretch: Tensor
    last_turn: Tensor
    slide_x: Tensor
    slide_y: Tensor

    def maps(self) -> Tensor:
        """Return where each pixel of the result comes from, as ``affine_warp`` takes it: [N, 3, 3].

        Each factor undoes its operation; the last operation is undone first.
        """
        one, turns = torch.ones_like(self.flip), self.quarter_turns
        shrink, squeeze = torch.exp2(-self.log2_scale), torch.exp2(-self.log2_stretch)
        factors = (
            _scaling(1 - 2 * self.flip, one),
            _turn((turns - 2).abs() - 1, 1 - (turns - 1).abs()),  # cosine and sine, exactly
            _translation(-self.shift_x, -self.shift_y),
            _scaling(shrink, shrink),
            _turn(self.first_turn.cos(), self.first_turn.sin()),
            _scaling(squeeze, 1 / squeeze),
            _turn(self.last_turn.cos(), self.last_turn.sin()),
            _translation(-self.slide_x, -self.slide_y),
        )
        return reduce(_product, factors)


class Colour(NamedTuple):
    """How the colours of images change, in this order; a number per sample each, [N].

    Attributes:
        brightness: Added to every channel; black to white is 2.
        log2_contrast: 1 doubles every channel.
        invert: 1 mirrors the lightness around the middle grey and keeps the hue, 0 does not.
        hue: Radians around the grey axis.
        log2_saturation: 1 doubles the distance to the grey axis.
    """

    brightness: Tensor
    log2_contrast: Tensor
    invert: Tensor
    hue: Tensor
    log2_saturation: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Recolour images, [N, C, H, W] in [-1, 1]: grey, RGB, or RGB with an alpha that stays.

        All operations keep the grey axis and turn or scale around it: what lies along the axis is
        multiplied by ``luma``, what lies across it by ``chroma`` and turned. Grey images have
        nothing across it.
        """
        contrast = torch.exp2(self.log2_contrast)
        luma = contrast * (1 - 2 * self.invert)
        chroma = contrast * torch.exp2(self.log2_saturation)
        offset = (luma * self.brightness)[:, None, None, None]
        if images.shape[1] == 1:
            return images * luma[:, None, None, None] + offset
        matrix = _around_grey(luma, chroma * self.hue.cos(), chroma * self.hue.sin())
        # Written out: a matrix product may round to ten bits of mantissa.
        colours = (matrix[..., None, None] * images[:, None, :3]).sum(dim=2) + offset
        return torch.cat([colours, images[:, 3:]], dim=1)


class Augmentation:
    """What the discriminator sees, and how much of it is changed.

    Args:
        recipe: Its ``augment`` is not "none".
        draws: Source of random numbers.

    Attributes:
        p: Probability of each operation, on the device.
        signs: Sum of the mean signs of real logits since p last moved.
    """

    def __init__(self, recipe: Recipe, draws: Draws) -> None:
        self.draws = draws
        self.target, self.interval = recipe.ada_target, recipe.ada_interval
        self.boundary = FORMS[recipe.adversarial].boundary
        images = recipe.batch * recipe.ada_interval
        self.rate = images / recipe.ada_nimg if recipe.augment == "ada" else 0.0
        self.is_free_turn = torch.tensor(
            [name in FREE_TURNS for name in OPERATIONS], device=draws.device
        )
        self.p = torch.tensor(recipe.augment_p, device=draws.device)
        self.signs = torch.zeros([], device=draws.device)

    def __call__(self, images: Tensor, phase: str, index: int) -> Tensor:
        """Return images as the discriminator sees them.

        Args:
            images: This process's share of a batch, [N, C, R, R] in [-1, 1].
            phase: Phases, and real and made images in them, share no random numbers.
            index: Of the batch.
        Guarantees: where p is 0, the images, bit for bit; twice differentiable in them.
        """
        geometry, colour = self.draw(phase, index, images.shape[-1])
        return colour.apply(affine_warp(images, geometry.maps()))

    def draw(self, phase: str, index: int, resolution: int) -> tuple[Geometry, Colour]:
        """Draw what happens to a batch of images of ``resolution`` px.

        What does not happen to a sample has its neutral number, 0.
        """
        stream, count = f"distill.augment.{phase}", len(OPERATIONS)
        coins, places = self.draws.uniform(stream, index, count + 8).split([count, 8], dim=1)
        normal = self.draws.normal(f"{stream}.normal", index, 7)
        chances = torch.where(self.is_free_turn, 1 - (1 - self.p).sqrt(), self.p)
        happens = (coins < chances).to(coins.dtype).unbind(dim=1)
        on = dict(zip(OPERATIONS, happens, strict=True))
        even, bell = places.unbind(dim=1), normal.unbind(dim=1)
        return _geometry(on, even[:6], bell[:4], resolution), _colour(on, even[6:], bell[4:])

    @torch.no_grad()
    def look(self, real_logits: Tensor) -> Tensor:
        """Note how sure the discriminator is of real images.

        Args:
            real_logits: Of this process's real images.
        Returns:
            The mean sign of the global batch's: 1 where all are taken for real, 0 where half are.
        """
        sign = (real_logits.float() - self.boundary).sign().mean()
        collectives.average([sign])
        self.signs += sign
        return sign

    @torch.no_grad()
    def follow(self, turn: int) -> Tensor:
        """Let p follow what was noted since it last moved, where its interval is over.

        The mean sign of the real logits is compared with the target.

        Args:
            turn: Steps of the discriminator before the last one.
        Returns:
            p from now on.
        """
        if (turn + 1) % self.interval == 0:
            excess = self.signs / self.interval - self.target
            self.p.copy_((self.p + excess.sign() * self.rate).clamp(0, 1))
            self.signs.zero_()
        return self.p.clone()

    def state(self) -> dict[str, Tensor]:
        """Return what the next step reads."""
        return {"augment_p": self.p, "augment_signs": self.signs}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` returned."""
        self.p.copy_(state["augment_p"])
        self.signs.copy_(state["augment_signs"])


def _geometry(
    on: Mapping[str, Tensor], even: Sequence[Tensor], bell: Sequence[Tensor], resolution: int
) -> Geometry:
    """Turn numbers from [0, 1) and standard normal ones into movements."""
    side, quarter, x, y, first, last = even
    scale, stretch, slide_x, slide_y = bell
    reach = SHIFT * resolution
    return Geometry(
        flip=on["flip"] * (side < 0.5),
        quarter_turns=on["quarter_turn"] * (4 * quarter).floor(),
        shift_x=on["shift"] * (reach * (2 * x - 1)).round(),
        shift_y=on["shift"] * (reach * (2 * y - 1)).round(),
        log2_scale=on["scale"] * LOG2_SCALE * scale,
        first_turn=on["first_turn"] * _angle(first),
        log2_stretch=on["stretch"] * LOG2_STRETCH * stretch,
        last_turn=on["last_turn"] * _angle(last),
        slide_x=on["slide"] * reach * slide_x,
        slide_y=on["slide"] * reach * slide_y,
    )


def _colour(on: Mapping[str, Tensor], even: Sequence[Tensor], bell: Sequence[Tensor]) -> Colour:
    """Turn numbers from [0, 1) and standard normal ones into changes of colour."""
    tone, hue = even
    brightness, contrast, saturation = bell
    return Colour(
        brightness=on["brightness"] * BRIGHTNESS * brightness,
        log2_contrast=on["contrast"] * LOG2_CONTRAST * contrast,
        invert=on["invert"] * (tone < 0.5),
        hue=on["hue"] * _angle(hue),
        log2_saturation=on["saturation"] * LOG2_SATURATION * saturation,
    )


def _angle(place: Tensor) -> Tensor:
    """Return an angle in [-pi, pi) from a number in [0, 1)."""
    return (2 * place - 1) * torch.pi


def _around_grey(luma: Tensor, kept: Tensor, turned: Tensor) -> Tensor:
    """Return matrices [N, 3, 3] that scale the grey axis, and scale and turn what lies across it.

    With P the projection on the axis and K the cross product with it:
    luma P + kept (1 - P) + turned K.
    """
    grey, across = (luma - kept) / 3, turned / 3**0.5
    own, before, after = kept + grey, grey - across, grey + across
    return _matrix([[own, before, after], [after, own, before], [before, after, own]])


def _translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[one, zero, x], [zero, one, y], [zero, zero, one]])


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[x, zero, zero], [zero, y, zero], [zero, zero, one]])


def _turn(cosine: Tensor, sine: Tensor) -> Tensor:
    zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
    return _matrix([[cosine, -sine, zero], [sine, cosine, zero], [zero, zero, one]])


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices in full precision, whatever the device's switches and autocast say."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(dim=-2)
