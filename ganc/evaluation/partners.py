"""Which image of another set belongs to which input of a translator: the one of its name."""

import os
from pathlib import Path

from ganc.data.inputs import ImageInputs
from ganc.data.kinds import stem
from ganc.data.levels import check_levels
from ganc.data.opening import by_stem, open_images
from ganc.data.sources import Source
from ganc.errors import DataError
from ganc.models.network import ImageGenerator
from ganc.progress import Warn, ignore


def open_targets(
    path: str | os.PathLike[str],
    inputs: ImageInputs,
    generator: ImageGenerator,
    warn: Warn = ignore,
) -> ImageInputs:
    """Open the ground truth of a translator's inputs.

    Args:
        path: An image file, a folder (searched recursively), a zip or an LMDB; the names are
            those of ``inputs``, extensions aside.
        inputs: What is translated; its images say the size, and whether squares are scaled.
        generator: Says the channels.
        warn: Told what is left out, and of values that cannot be meant.
    Returns:
        The images, in the order of the inputs.
    Raises:
        DataError: A name lacks its partner, or the first image has another size. Other images are
            looked at when they are read.
    """
    source = open_images(Path(path), warn, resolution=inputs.size[0], takes_file=True)
    check_levels(source, warn)
    targets = ImageInputs(
        Path(path), source, partners(inputs, source), generator.img_channels,
        inputs.resolution, inputs.resize,
    )  # fmt: skip
    check_size(targets.name(0), targets.size, inputs.size)
    return targets


def partners(inputs: ImageInputs, source: Source) -> list[str]:
    """Return a source's names in the order of the inputs they belong to.

    Raises:
        DataError: An input, or an image of the source, has no partner of its name.
    """
    theirs, ours = by_stem(source), by_stem(inputs.source)
    for own, others, where, other in (
        (ours, theirs, inputs.source, source),
        (theirs, ours, source, inputs.source),
    ):
        alone = [name for key, name in own.items() if key not in others]
        if alone:
            raise DataError(
                f"{where.where(alone[0])}: no partner of this name in {other.path}"
                f" ({len(alone)} of {len(own)} images have none)",
                "an input and its ground truth have one name, extensions aside",
            )
    return [theirs[stem(name)] for name in inputs.names]


def check_size(where: str, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Check heights and widths.

    Raises:
        DataError: They differ.
    """
    if found != wanted:
        raise DataError(
            f"{where}: size {found[1]}x{found[0]}, the translations have {wanted[1]}x{wanted[0]}",
            "give both sides one size; --resize scales squares to the model's",
        )
