"""What ``score`` is asked for. Imports no torch: the command line is made of it."""

import os
from dataclasses import dataclass
from typing import Literal, TypedDict

from ganc.options import EXECUTION, option

DIVERSITY, CONTENT, DENSITY = (f"Method {name}" for name in ("diversity", "content", "density"))
DATA = "Data"
"""Headings in the command's help."""

Path = str | os.PathLike[str]
Samples = int | Literal["auto"] | None


def parse_samples(text: str) -> int | str:
    """Parse a count, or auto."""
    if text != "auto" and not text.isdecimal():
        raise ValueError(f"`{text}` is no number of samples; allowed: a count, or auto")
    return text if text == "auto" else int(text)


class ScoreSettings(TypedDict, total=False):
    """``ScoreOptions`` as the keywords of a function."""

    samples: Samples
    batch: int | None
    noise_mode: str
    alpha: float | None
    num_directions: int
    direction_batch: int
    precision: str
    gradient: str | None
    truncation_psi: float
    content: str
    noise_prob: float
    prune_ratio: float
    effective: bool
    data: Path | None
    data_b: Path | None
    swap: bool
    resize: bool
    neighbourhoods: Path | None
    resume: bool
    log: Path | None
    network: str | None
    discriminator: bool
    offline: bool
    seed: int


@dataclass(frozen=True)
class ScoreOptions:
    """The settings of all methods; each method reads those that its table row names.

    Attributes:
        samples: Latents to average over. None takes the method's default, or what ``latents``,
            ``masks`` or ``salt`` hold; "auto" takes at most that, and stops where two halves of
            them keep the same channels at ``prune_ratio``.
        batch: Latents per step; a setting of the method where its definition contains the batch.
            None takes the method's default.
        noise_mode: "random" (keyed by seed and sample), "const" or "none".
        alpha: diversity: length of the step along a direction, in units of the latent; None takes
            what the family's published code has: 10 for stylegan3, else 5.
        num_directions: diversity: directions per batch.
        direction_batch: diversity: directions that run at once; more memory, the same scores.
        precision: diversity: arithmetic of the images and gradients, one of
            ``precision.PRECISIONS``.
        gradient: diversity: "both" sends the gradient through both images, "base" through G(w);
            None takes "base" for stylegan3, else "both".
        truncation_psi: diversity: truncation of both latents (it scales the step as well).
        content: content: where the masks come from (``ganc.content.sources.FORMS``).
        noise_prob: content: share of the mask's pixels that the noise hits.
        prune_ratio: The ratio at which kept channels are compared.
        effective: l1-out: weights as they act, modulated, averaged over latents.
        data: activation, asv: images for a translator; a folder or a zip. density: what the
            translator was trained on, as ``ganc distill`` takes it.
        data_b: The same for a CycleGAN's other direction (``generator_b``).
        swap: density: the generator translates from side B of ``data`` to side A.
        resize: density: scale squares of another size instead of refusing them.
        neighbourhoods: density: the file of neighbourhoods, reused where it is there; None keeps
            them in memory.
        resume: density: go on with the search in ``state``.
        log: density: a JSON line per step is appended to this file.
        network: Score this generator alone, "generator" or "generator_b"; None takes all there are.
        discriminator: l1-in, l1-out, random: score the discriminators' groups as well.
        offline: content, density: never fetch the weights of a mask network.
        seed: Feeds the streams "latents", "labels", "noise", "pca", "directions", "salt", "random".
    """

    samples: Samples = option(
        None,
        "Latents, or auto: until it is sure; default: the method's.",
        parser=parse_samples,
        metavar="N|auto",
    )
    batch: int | None = option(
        None, "Latents per step, a setting of the method (diversity: 5, content: 10)."
    )
    noise_mode: str = option("random", "random, const or none.")
    alpha: float | None = option(
        None, "Length of the step; default 5, for stylegan3 10.", section=DIVERSITY
    )
    num_directions: int = option(10, "Directions per batch.", least=2, section=DIVERSITY)
    direction_batch: int = option(
        1,
        "Directions that run at once; meant for GPUs, takes more memory.",
        least=1,
        section=DIVERSITY,
    )
    precision: str = option("fp32", "fp32, tf32 (CUDA) or bf16.", section=DIVERSITY)
    gradient: str | None = option(
        None,
        "Through both images or base alone; default both, for stylegan3 base.",
        section=DIVERSITY,
    )
    truncation_psi: float = option(
        1.0, "Truncation of the latents.", flags=("--truncation",), section=DIVERSITY
    )
    content: str = option(
        "center",
        "center, torchvision:CLASS (person, dog, …), bisenet, bisenet:FILE, masks:DIR or"
        " module:function.",
        metavar="MASKS",
        section=CONTENT,
    )
    noise_prob: float = option(0.05, "Share of the masks' pixels that is hit.", section=CONTENT)
    prune_ratio: float = option(
        0.7, "At which --samples auto, --compare, --plot and the table look at what is kept."
    )
    effective: bool = option(False, "l1-out: modulated weights, averaged over latents.")
    data: Path | None = option(
        None,
        "activation, asv: images for a translator, at most --samples of them; density: what it was"
        " trained on.",
        metavar="DIR|ZIP",
        section=DATA,
    )
    data_b: Path | None = option(
        None,
        "activation, asv: images for generator_b, a CycleGAN's other direction; density: side B"
        " where --data is side A.",
        metavar="DIR|ZIP",
        section=DATA,
    )
    swap: bool = option(False, "density: the generator translates from B to A.", section=DATA)
    resize: bool = option(False, "density: scale squares of another size.", section=DATA)
    neighbourhoods: Path | None = option(
        None,
        "Built where it is not there; default: <stem>.neighbourhoods.safetensors.",
        metavar="FILE",
        section=DENSITY,
    )
    resume: bool = option(False, "Go on with a search that was stopped.", section=DENSITY)
    log: Path | None = option(
        None, "Write the losses of every step.", metavar="JSONL", section=DENSITY
    )
    network: str | None = option(
        None, "Score this alone, generator or generator_b; default: all there are."
    )
    discriminator: bool = option(False, "l1-in, l1-out, random: score the discriminators as well.")
    offline: bool = option(
        False, "content, density: never fetch weights over the network.", section=EXECUTION
    )
    seed: int = option(0, "Seed of every random draw.", least=0, section=EXECUTION)
