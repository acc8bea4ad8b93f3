"""The forms of the adversarial loss, by name.

Each returns an unweighted scalar from logits [N, 1], or [N, 1, h, w] of a PatchGAN; higher is more
real.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Form(NamedTuple):
    """A form of the game: what each side's logits cost.

    Attributes:
        real, fake: Of the discriminator, for real images and for made ones.
        fooled: Of the generator, for what it made.
        half_weight: Of both halves of the discriminator's loss; 0.5 takes their mean.
        boundary: Logit in the middle between real and fake.
    """

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    fooled: Callable[[Tensor], Tensor]
    half_weight: float = 1.0
    boundary: float = 0.0


def _squared(goal: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: (logits - goal).square().mean()


FORMS: dict[str, Form] = {
    # Goodfellow et al. 2014, Section 3.
    "non-saturating": Form(
        real=lambda logits: F.softplus(-logits).mean(),
        fake=lambda logits: F.softplus(logits).mean(),
        fooled=lambda logits: F.softplus(-logits).mean(),
    ),
    # Lim & Ye 2017; Miyato et al. 2018, Eq. 16 and 17.
    "hinge": Form(
        real=lambda logits: F.relu(1 - logits).mean(),
        fake=lambda logits: F.relu(1 + logits).mean(),
        fooled=lambda logits: -logits.mean(),
    ),
    # Mao et al. 2017, with CycleGAN's halved discriminator.
    "lsgan": Form(_squared(1.0), _squared(0.0), _squared(1.0), half_weight=0.5, boundary=0.5),
    # The same game as "non-saturating", with pix2pix's halved discriminator.
    "bce": Form(
        real=lambda logits: F.softplus(-logits).mean(),
        fake=lambda logits: F.softplus(logits).mean(),
        fooled=lambda logits: F.softplus(-logits).mean(),
        half_weight=0.5,
    ),
}
"""Name → form. Isola et al. 2017, Section 3.3: the discriminator's loss is halved, to slow it."""


def d_loss(form: str, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the discriminator's loss."""
    chosen = FORMS[form]
    halves = torch.stack([chosen.real(real_logits.float()), chosen.fake(fake_logits.float())])
    return chosen.half_weight * halves.sum()


def g_loss(form: str, fake_logits: Tensor) -> Tensor:
    """Return the generator's loss."""
    return FORMS[form].fooled(fake_logits.float())
