"""What an evaluation is asked for. Imports no torch: the command line is made of it."""

import os
from dataclasses import dataclass, fields
from typing import TypedDict

from ganc.errors import UsageError, unknown_name
from ganc.options import EXECUTION, flag_of, option

DATA, SAMPLES, METRICS = "Data", "Samples", "Settings of metrics"
"""Headings in the command's help."""

Path = str | os.PathLike[str]


class EvalSettings(TypedDict, total=False):
    """``EvalOptions`` as the keywords of a function."""

    data: Path | None
    input: Path | None
    target: Path | None
    labels: Path | None
    segmenter: str | None
    samples: int
    repeats: int
    batch: int
    truncation_psi: float
    noise_mode: str
    features: str
    neighbours: int | None
    projection_images: int
    projection_steps: int
    perceptual: str
    resize: bool
    network: str
    offline: bool
    seed: int


@dataclass(frozen=True)
class EvalOptions:
    """What an evaluation reads, and the numbers and names that it measures with.

    Attributes:
        data: Folder or data-set zip of real images of the model's size; a broken one is an error.
            Where it has labels, samples of a conditional model draw theirs from them.
        input: Folder or zip of the images that a translator translates, all of one size.
        target: Folder or zip of what each of them should become, by the same names.
        labels: Folder or zip of PNGs with the class of every pixel, by the same names.
        segmenter: ``module:function`` that finds classes in translations (see ``Segmenter``).
        samples: Images for distances between sets, pairs for diversity; at least 2. Where there are
            fewer inputs, as many as these allow.
        repeats: Measurements, with the seeds ``seed``, ``seed`` + 1, …; values are their means.
        batch: Images per forward pass, rounded to whole blocks (see ``models.sampling``).
        truncation_psi: Of model and teacher; 1 is none.
        noise_mode: Of model and teacher: "random" (by seed and index), "const" or "none".
        features: Feature network of ``fd``.
        neighbours: k of ``precision``, ``recall``, ``density`` and ``coverage``; None takes that of
            each one's paper.
        projection_images: Real images that ``projection`` looks for, the first by name.
        projection_steps: Steps of its search.
        perceptual: LPIPS network of ``lpips`` and ``lpips-diversity``.
        resize: Scale real images and inputs to the model's size instead of refusing them.
        network: Which generator of model and teacher: a name in ``GENERATORS``.
        offline: Never fetch weights.
        seed: Of latents, labels and noise.
    Raises:
        UsageError: A value is out of range or a name unknown.
    """

    data: Path | None = option(
        None,
        "Real images: a folder, zip or LMDB. A conditional model's samples take their labels.",
        metavar="PATH",
        section=DATA,
    )
    input: Path | None = option(
        None, "Images for a translator to translate.", metavar="PATH", section=DATA
    )
    target: Path | None = option(
        None,
        "Ground truth for each image of --input, under the same name.",
        metavar="PATH",
        section=DATA,
    )
    labels: Path | None = option(
        None,
        "PNGs of class numbers for each image of --input, under the same name; 255 is ignored.",
        metavar="PATH",
        section=DATA,
    )
    segmenter: str | None = option(
        None,
        "Function that segments translations: images [N,3,H,W] in [-1,1] to logits [N,K,H,W] or"
        " classes [N,H,W].",
        metavar="MODULE:FUNCTION",
        section=DATA,
    )
    samples: int = option(
        2000,
        "Images (fid, fd, …) or pairs (diversity); at most as many as --input.",
        section=SAMPLES,
    )
    repeats: int = option(1, "Seeds to measure with: mean ± std.", least=1, section=SAMPLES)
    batch: int = option(32, "Images per forward pass, rounded to a multiple of 4.", section=SAMPLES)
    truncation_psi: float = option(
        1.0, "Truncation of the latents; 1 is none.", flags=("--truncation",), section=SAMPLES
    )
    noise_mode: str = option("random", "Noise inputs: random, const or none.", section=SAMPLES)
    features: str = option(
        "effnet-lite0", "Feature network of fd: effnet-lite0 or inception.", section=METRICS
    )
    neighbours: int | None = option(
        None, "k of precision, recall (3), density and coverage (5).", section=METRICS
    )
    projection_images: int = option(8, "Images of --data to project.", section=METRICS)
    projection_steps: int = option(800, "Optimisation steps for each.", section=METRICS)
    perceptual: str = option(
        "lpips-alex", "LPIPS network: lpips-alex, -vgg or -squeeze.", section=METRICS
    )
    resize: bool = option(
        False, "Scale square images of --data and --input to the model's size.", section=DATA
    )
    network: str = option("generator", "generator, or generator_b: a CycleGAN's other direction.")
    offline: bool = option(False, "Never fetch weights over the network.", section=EXECUTION)
    seed: int = option(0, "Seed of every random draw.", least=0, section=EXECUTION)

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UsageError(f"--samples {self.samples} is too few, at least 2 are needed")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch} is too small, at least 1 is needed")
        if self.neighbours is not None and self.neighbours < 1:
            raise UsageError(f"--neighbours {self.neighbours} is too few, at least 1 is needed")
        for name in ("projection_images", "projection_steps", "repeats"):
            if getattr(self, name) < 1:
                found = f"{flag_of(name)} {getattr(self, name)}"
                raise UsageError(f"{found} is too few, at least 1 is needed")
        self._check_names()

    def _check_names(self) -> None:
        # Their tables belong to rooms that import torch: not before somebody asks.
        from ganc.models.network import NOISE_MODES
        from ganc.models.sampling import GENERATORS
        from ganc.perceptual.distance import PERCEPTUAL_DISTANCES
        from ganc.perceptual.features import FEATURE_NETWORKS

        if self.noise_mode not in NOISE_MODES:
            raise unknown_name("noise_mode", self.noise_mode, NOISE_MODES)
        if self.network not in GENERATORS:
            raise unknown_name("--network", self.network, GENERATORS)
        if self.features not in FEATURE_NETWORKS:
            raise unknown_name("--features", self.features, FEATURE_NETWORKS)
        lpips = [name for name in PERCEPTUAL_DISTANCES if name.startswith("lpips-")]
        if self.perceptual not in lpips:
            # Only the networks that the LPIPS authors calibrated may carry the name.
            raise unknown_name("--perceptual", self.perceptual, lpips)


SOURCES = ("data", "input", "target", "labels", "segmenter")
"""Options that name what an evaluation reads."""

_FIRST = (
    "samples", "seed", "batch", "truncation_psi", "noise_mode", "features", "perceptual", "offline",
    "network", "neighbours", "projection_images", "projection_steps",
)  # fmt: skip
_APART = (*SOURCES, "repeats", "resize")
_OTHERS = tuple(f.name for f in fields(EvalOptions) if f.name not in (*_FIRST, *_APART))

RECORDED = (*_FIRST, *_OTHERS)
"""Options that a result shows beside what it says of the files, in this order; new ones last."""
