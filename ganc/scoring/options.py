"""What ``score`` is asked for. Imports no torch: the command line is made of it.

A class holds settings that are read together; which classes a method reads, its row in
``ganc.scoring.methods`` says.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from ganc.options import EXECUTION, option, parse_setting
from ganc.scoring.density.recipe import DensityRecipe

DIVERSITY, CONTENT, DENSITY = (f"Method {name}" for name in ("diversity", "content", "density"))
DATA = "Data"
"""Headings in the command's help."""

Path = str | os.PathLike[str]
Samples = int | Literal["auto"] | None


def parse_samples(text: str) -> int | str:
    """Parse a count, or auto."""
    if text != "auto" and not text.isdecimal():
        raise ValueError(f"`{text}` is not a number of samples; allowed: a count, or auto")
    return text if text == "auto" else int(text)


class ScoreSettings(TypedDict, total=False):
    """``ScoreOptions`` as the keywords of a function."""

    samples: Samples
    batch: int | None
    prune_ratio: float
    network: str | None
    offline: bool
    seed: int
    noise_mode: str
    alpha: float | None
    num_directions: int
    gradient: str | None
    truncation_psi: float
    direction_batch: int
    cuda_graphs: bool
    precision: str
    content: str
    noise_prob: float
    effective: bool
    discriminator: bool
    data: Path | None
    data_b: Path | None
    density: DensityRecipe | Mapping[str, Any] | None
    swap: bool
    resize: bool
    neighbourhoods: Path | None
    resume: bool
    log: Path | None


@dataclass(frozen=True)
class GeneralOptions:
    """How, and on what, any method is run.

    Attributes:
        samples: Latents to average over. None takes the method's default, or as many as
            ``latents``, ``masks`` or ``salt`` hold; "auto" takes at most that, and stops once two
            halves of them keep the same channels at ``prune_ratio``.
        batch: Latents per step; a setting of the method where its definition contains the batch.
            None takes the method's default.
        prune_ratio: The ratio at which kept channels are compared.
        network: Score this generator alone, "generator" or "generator_b"; None takes all there are.
        offline: content, density: never fetch the weights of a mask network.
        seed: Feeds the streams "latents", "labels", "noise", "pca", "directions", "salt", "random".
    """

    samples: Samples = option(
        None,
        "Latents, or auto: stop once the kept channels are stable. Default: the method's.",
        parser=parse_samples,
        metavar="N|auto",
    )
    batch: int | None = option(
        None, "Latents per step; part of the definition of diversity (5) and content (10)."
    )
    prune_ratio: float = option(
        0.7, "Ratio at which --samples auto, --compare, --plot and the table look at kept channels."
    )
    network: str | None = option(
        None, "Score one generator alone: generator or generator_b. Default: all there are."
    )
    offline: bool = option(
        False, "content, density: never fetch weights over the network.", section=EXECUTION
    )
    seed: int = option(0, "Seed of every random draw.", least=0, section=EXECUTION)


@dataclass(frozen=True)
class NoiseOptions:
    """The noise inputs beside the latents.

    Attributes:
        noise_mode: "random" (keyed by seed and sample), "const" or "none".
    """

    noise_mode: str = option("random", "Noise inputs: random, const or none.")


@dataclass(frozen=True)
class DiversityOptions:
    """The settings of ``diversity``.

    Attributes:
        alpha: Length of the step along a direction, in units of the latent; None takes what the
            family's published code has: 10 for stylegan3, else 5.
        num_directions: Directions per batch.
        gradient: "both" sends the gradient through both images, "base" through G(w); None takes
            "base" for stylegan3, else "both".
        truncation_psi: Truncation of both latents (it scales the step as well).
        direction_batch: Directions that run at once; more memory, the same scores.
        cuda_graphs: Record the kernels of a batch once and launch them together, which needs CUDA
            and a style-based generator; the same scores.
        precision: Arithmetic of the images and gradients, one of ``precision.PRECISIONS``.
    """

    alpha: float | None = option(
        None,
        "Step length along a direction. Default: 5; StyleGAN3: 10.",
        above=0,
        section=DIVERSITY,
    )
    num_directions: int = option(10, "Directions per batch.", least=2, section=DIVERSITY)
    gradient: str | None = option(
        None,
        "Backpropagate through both images, or base, the first. Default: both; StyleGAN3: base.",
        section=DIVERSITY,
    )
    truncation_psi: float = option(
        1.0, "Truncation of the latents.", flags=("--truncation",), section=DIVERSITY
    )
    direction_batch: int = option(
        1,
        "Directions computed at once: faster on GPUs, takes more memory.",
        least=1,
        section=DIVERSITY,
    )
    cuda_graphs: bool = option(
        False,
        "Replay each batch as a CUDA graph (CUDA, StyleGANs).",
        section=DIVERSITY,
    )
    precision: str = option("fp32", "Arithmetic: fp32, tf32 (CUDA) or bf16.", section=DIVERSITY)


@dataclass(frozen=True)
class ContentOptions:
    """The settings of ``content``.

    Attributes:
        content: Where the masks come from (``ganc.content.sources.FORMS``).
        noise_prob: Share of the mask's pixels that the noise hits.
    """

    content: str = option(
        "center",
        "What the masks protect: center, torchvision:CLASS (person, dog, …), bisenet, bisenet:FILE,"
        " masks:DIR or module:function.",
        metavar="MASKS",
        section=CONTENT,
    )
    noise_prob: float = option(0.05, "Share of the masked pixels that get noise.", section=CONTENT)


@dataclass(frozen=True)
class EffectiveOptions:
    """What ``l1-out`` reads alone.

    Attributes:
        effective: Weights as they act, modulated, averaged over latents.
    """

    effective: bool = option(False, "l1-out: take the modulated weights, averaged over latents.")


@dataclass(frozen=True)
class WeightOptions:
    """What methods read that look at weights: l1-in, l1-out, random.

    Attributes:
        discriminator: Score the discriminators' groups as well.
    """

    discriminator: bool = option(False, "l1-in, l1-out, random: score the discriminators as well.")


@dataclass(frozen=True)
class ImageOptions:
    """Images for translators.

    Attributes:
        data: activation, asv, rebuild: what is translated; a folder or a zip. density: what the
            translator was trained on, as ``ganc distill`` takes it.
        data_b: The same for a CycleGAN's other direction (``generator_b``).
    """

    data: Path | None = option(
        None,
        "Folder, zip or LMDB. activation, asv, rebuild: images for a translator, at most --samples"
        " of them; density: its training images.",
        metavar="PATH",
        section=DATA,
    )
    data_b: Path | None = option(
        None,
        "activation, asv, rebuild: the same for generator_b, a CycleGAN's other direction; density:"
        " side B, where --data is side A.",
        metavar="PATH",
        section=DATA,
    )


@dataclass(frozen=True)
class DensityOptions:
    """The settings of ``density``.

    Attributes:
        swap: The generator translates from side B of ``data`` to side A.
        resize: Scale squares of another size instead of refusing them.
        density: How the gates are learned: a recipe, or settings that replace its defaults.
        neighbourhoods: The file of neighbourhoods, reused where it is there; None keeps them in
            memory.
    """

    swap: bool = option(False, "density: the generator translates from B to A.", section=DATA)
    resize: bool = option(False, "density: scale square images of another size.", section=DATA)
    density: DensityRecipe | Mapping[str, Any] | None = option(
        None,
        "Change a setting of its recipe, e.g. speedup=8; repeatable. --dry-run prints them all.",
        flags=("--set",),
        metavar="NAME=VALUE",
        section=DENSITY,
        parser=parse_setting,
        repeatable=True,
    )
    neighbourhoods: Path | None = option(
        None,
        "File of neighbourhoods, made if missing. Default: <stem>.neighbourhoods.safetensors.",
        metavar="FILE",
        section=DENSITY,
    )


@dataclass(frozen=True)
class SearchOptions:
    """How a search of ``density`` is kept.

    Attributes:
        resume: Go on with the search in ``state``.
        log: A JSON line per step is appended to this file.
    """

    resume: bool = option(False, "Continue a search that was stopped.", section=DENSITY)
    log: Path | None = option(
        None,
        "Write the losses of every step, one JSON line each.",
        metavar="JSONL",
        section=DENSITY,
    )


@dataclass(frozen=True)
class ScoreOptions(  # fields come from the last class to the first
    SearchOptions,
    DensityOptions,
    ImageOptions,
    WeightOptions,
    EffectiveOptions,
    ContentOptions,
    DiversityOptions,
    NoiseOptions,
    GeneralOptions,
):
    """The settings of all methods."""
