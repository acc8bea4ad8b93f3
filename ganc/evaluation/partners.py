"""Which image of another set belongs to which input of a translator: the one of its name."""

import os
from pathlib import Path, PurePosixPath

from ganc.data.dataset import image_names
from ganc.data.inputs import ImageInputs
from ganc.data.sources import FileSource, Source, open_file_or_set
from ganc.errors import DataError
from ganc.models.network import ImageGenerator


def open_targets(
    path: str | os.PathLike[str], inputs: ImageInputs, generator: ImageGenerator
) -> ImageInputs:
    """Open the ground truth of a translator's inputs.

    Args:
        path: An image file, a folder (searched recursively) or a zip; the names are those of
            ``inputs``, extensions aside.
        inputs: What is translated; its images say the size, and whether squares are scaled.
        generator: Says the channels.
    Returns:
        The images, in the order of the inputs.
    Raises:
        DataError: A name lacks its partner, or the first image has another size. Other images are
            looked at when they are read.
    """
    source = open_file_or_set(Path(path))
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
    names = source.names if isinstance(source, FileSource) else image_names(source)
    theirs, ours = ({_key(name): name for name in side} for side in (names, inputs.names))
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
    return [theirs[_key(name)] for name in inputs.names]


def _key(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


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
