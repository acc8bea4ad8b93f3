"""The table of mask sources, by what ``--content`` names them."""

from collections.abc import Callable
from functools import partial

from ganc.content.bisenet import open_bisenet
from ganc.content.center import center
from ganc.content.folder import open_folder
from ganc.content.function import open_function
from ganc.content.request import MaskRequest, MaskSource
from ganc.content.segmentation import open_segmentation
from ganc.errors import UsageError, unknown_name

OPENERS: dict[str, Callable[[str, MaskRequest], MaskSource]] = {
    "torchvision": open_segmentation,
    "bisenet": open_bisenet,
    "masks": open_folder,
}
"""What stands before the colon → how the rest is opened; any other word is a module."""

FORMS = ("center", "torchvision:CLASS", "bisenet:FILE", "masks:DIR", "module:function")


def open_masks(content: str, request: MaskRequest) -> MaskSource:
    """Open a mask source.

    Args:
        content: One of ``FORMS``.
    Raises:
        UsageError: It is none of them, or names a class, module or function that is not there.
        InputError: Its weights, masks or module cannot be read.
    """
    if content == "center":
        return center
    kind, colon, argument = content.partition(":")
    if not colon:
        raise unknown_name("--content", content, FORMS)
    if not (kind and argument):
        raise UsageError(f"--content {content} is incomplete; allowed: {', '.join(FORMS)}")
    opener = OPENERS.get(kind, partial(open_function, kind))
    return opener(argument, request)
