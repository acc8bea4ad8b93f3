"""What ``distill`` is asked for, beside a recipe's numbers. Imports no torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ganc.options import EXECUTION, option

DATA, CHECKPOINTS, EVALUATION = "Data", "Checkpoints and logs", "Evaluation during training"
"""Headings in the command's help."""

Path = str | os.PathLike[str]

PRUNED, SCRATCH = INITS = ("pruned", "scratch")


class DistillSettings(TypedDict, total=False):
    """``DistillOptions`` as the keywords of a function."""

    architecture: str | None
    init: str | None
    data: Path | None
    data_b: Path | None
    swap: bool | None
    unpaired: bool | None
    steps: int | None
    resume: Path | None
    resize: bool | None
    save_every: int | None
    sample_every: int | None
    log_every: int | None
    keep_last: int | None
    eval_every: int | None
    offline: bool
    precision: str
    channels_last: bool
    compile: bool
    cuda_graphs: bool
    profile: bool
    seed: int | None


@dataclass(frozen=True)
class DistillOptions:
    """Who is trained on what, when what is due, and how it is computed.

    None is "as the run has it", or the default.

    Attributes:
        architecture: A new student instead of a given one: see ``networks.new_student``.
        init: "pruned" starts from the student's weights, "scratch" from random ones. Default: the
            recipe's.
        data: ``reals.TEACHER`` (default), or a folder or zip of images.
        data_b: Of translators: images of the other side, where ``data`` holds one side only.
        swap: Of translators: translate from the second side to the first. Default off.
        unpaired: Of translators: whether the images of the sides have nothing to do with each
            other. Default: as the networks were trained; see ``networks.starting_model``.
        steps: Steps in all, those before a resume included; default ``schedule.DEFAULT_STEPS``.
        resume: "latest", or the folder of one of the run's checkpoints.
        resize: Scale images of another size. Default off.
        save_every: Steps between two checkpoints.
        sample_every: Steps between two sample grids.
        log_every: Steps whose losses are fetched from the device together.
        keep_last: Checkpoints that stay.
        eval_every: Steps between two evaluations; 0 for none.
        offline: Never fetch the weights of a perceptual or mask network.
        precision: See ``Execution``.
        channels_last: See ``Execution``.
        compile: Compile what is not trained: teacher and perceptual network.
        cuda_graphs: Record the phases of a step as CUDA graphs, which spares the host launching
            their kernels one by one; one process, no contents of interest, no translators.
        profile: Time every phase; on CUDA this waits for the device and slows the run.
        seed: Default 0.
    """

    architecture: str | None = option(
        None, "Make a new student of this family, instead of STUDENT."
    )
    init: str | None = option(
        None,
        f"Start from {PRUNED}, STUDENT's weights, or from {SCRATCH}, random ones (the recipe's:"
        f" {PRUNED}, or as published).",
    )
    data: Path | None = option(
        None, "Real images: a folder, zip or LMDB; or teacher (default), its samples.", section=DATA
    )
    data_b: Path | None = option(None, "Translators: images of the other side.", section=DATA)
    swap: bool | None = option(
        None,
        "Translators: translate from the second side to the first.",
        flags=("--swap/--no-swap",),
        section=DATA,
    )
    unpaired: bool | None = option(
        None,
        "Translators: train on unpaired images (default: as the model was trained; a new"
        " resnet_translator unpaired, a new unet_translator paired).",
        flags=("--unpaired/--no-unpaired",),
        section=DATA,
    )
    steps: int | None = option(None, "Total steps (10 000, or the run's).", least=1)
    resume: Path | None = option(None, "Continue a run: latest, or one of its checkpoints.")
    resize: bool | None = option(
        None,
        "Scale square images of another size (antialiased).",
        flags=("--resize/--no-resize",),
        section=DATA,
    )
    save_every: int | None = option(
        None, "Steps between checkpoints (1000).", least=1, section=CHECKPOINTS
    )
    sample_every: int | None = option(
        None, "Steps between sample grids (500).", least=1, section=CHECKPOINTS
    )
    log_every: int | None = option(
        None, "Steps between writes of metrics.jsonl (10).", least=1, section=CHECKPOINTS
    )
    keep_last: int | None = option(
        None, "Newest checkpoints to keep (3).", least=1, section=CHECKPOINTS
    )
    eval_every: int | None = option(
        None, "Steps between evaluations; 0: none (0).", least=0, section=EVALUATION
    )
    offline: bool = option(False, "Never touch the network.", section=EXECUTION)
    precision: str = option(
        "auto", "Arithmetic: auto (bf16 on CUDA), fp32, tf32 or bf16.", section=EXECUTION
    )
    channels_last: bool = option(False, "Store feature maps channels-last.", section=EXECUTION)
    compile: bool = option(
        False, "torch.compile teacher and perceptual network.", section=EXECUTION
    )
    cuda_graphs: bool = option(
        False, "Replay each phase of a step as a CUDA graph (one process).", section=EXECUTION
    )
    profile: bool = option(
        False, "Time every phase of a step; slows the run on CUDA.", section=EXECUTION
    )
    seed: int | None = option(None, "Seed of every random draw (0).", least=0, section=EXECUTION)

    def of(self, names: Sequence[str]) -> dict[str, Any]:
        """Return some of the options by name."""
        return {name: getattr(self, name) for name in names}


CHOICES = ("data", "data_b", "swap", "unpaired", "seed", "resize")
"""Options that decide what is learned; see ``settings.Choices``."""

SCHEDULE = ("steps", "save_every", "sample_every", "log_every", "keep_last", "eval_every")
"""Options that say when what is due; see ``schedule.Schedule``."""

MEANS = ("precision", "channels_last", "compile", "cuda_graphs", "profile", "offline")
"""Options that say how it is computed, and what with."""
