"""The table of importance methods. It loads no torch: help and README are made of it."""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, NamedTuple

from ganc.scoring.given import GivenMasks, GivenPoints, GivenState
from ganc.scoring.options import (
    ContentOptions,
    DensityOptions,
    DiversityOptions,
    EffectiveOptions,
    ImageOptions,
    NoiseOptions,
    SearchOptions,
    WeightOptions,
)


class Method(NamedTuple):
    """One importance method; ``ganc.scoring.score.SCORERS`` has what it does.

    Attributes:
        about: What it measures, in a phrase.
        options: The settings that it reads beside the general ones, in the order that scores files
            have them in.
        samples: Default; 0 where the method draws no latents.
        batch: Default where it draws some; 0 for as many as take the memory of one large image.
        samples_with: Option → default of ``samples`` where it is switched on.
        is_two_sided: Whether it plays generator against discriminator, and scores both.
    """

    about: str
    options: tuple[type, ...] = ()
    samples: int = 0
    batch: int = 0
    samples_with: Mapping[str, int] = MappingProxyType({})
    is_two_sided: bool = False

    @property
    def settings(self) -> list[str]:
        """The names of its options."""
        return [field.name for kind in self.options for field in fields(kind)]

    def default_samples(self, settings: Mapping[str, Any]) -> int:
        """Return how many latents it takes by default."""
        asked = [n for name, n in self.samples_with.items() if settings.get(name)]
        return max([self.samples, *asked])


METHODS: dict[str, Method] = {
    "diversity": Method(
        "what varies over latent directions, DCP-GAN",
        (NoiseOptions, GivenPoints, DiversityOptions),
        samples=5000,
        batch=5,
    ),
    "content": Method(
        "contents of interest, content-aware compression",
        (ContentOptions, NoiseOptions, GivenMasks),
        samples=400,
        batch=10,
    ),
    "density": Method(
        "gates learned for both networks, MGGC",
        (ImageOptions, DensityOptions, GivenState, SearchOptions, NoiseOptions),
        samples=5000,
        is_two_sided=True,
    ),
    "rebuild": Method(
        "what the rest can be rebuilt from, for prune --refit",
        (NoiseOptions, ImageOptions),
        samples=256,
        batch=10,
    ),
    "activation": Method("mean |feature|", (NoiseOptions, ImageOptions), samples=1000, batch=10),
    "asv": Method(
        "deviation of the feature over samples",
        (NoiseOptions, ImageOptions),
        samples=1000,
        batch=10,
    ),
    "style": Method("mean |style|, StyleGAN", samples=1000, batch=10),
    "l1-in": Method("L1 norm of the weights that make a channel", (WeightOptions,)),
    "l1-out": Method(
        "L1 norm of the weights that read it",
        (EffectiveOptions, WeightOptions),
        batch=10,
        samples_with={"effective": 1000},
    ),
    "random": Method("the baseline", (WeightOptions,)),
}

ABOUT = {name: row.about for name, row in METHODS.items()}
"""Method → phrase."""
