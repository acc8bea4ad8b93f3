"""The table of mask sources, by what ``--content`` names them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ganc.content.bisenet import check_bisenet, open_bisenet
from ganc.content.center import center
from ganc.content.folder import find_masks, open_folder
from ganc.content.forms import FORMS
from ganc.content.function import check_function, open_function
from ganc.content.request import MaskRequest, MaskSource
from ganc.content.segmentation import check_segmentation, open_segmentation
from ganc.errors import UsageError, unknown_name


class MaskKind(NamedTuple):
    """One kind of mask source.

    Attributes:
        check: Gets what follows the colon, the number of samples and whether to stay offline;
            refuses what it can at no cost, and runs nobody's code.
        open: Makes the source.
    """

    check: Callable[[str, int, bool], object]
    open: Callable[[str, MaskRequest], MaskSource]


KINDS: dict[str, MaskKind] = {
    "torchvision": MaskKind(
        lambda name, samples, offline: check_segmentation(name, offline), open_segmentation
    ),
    "bisenet": MaskKind(lambda file, samples, offline: check_bisenet(file, offline), open_bisenet),
    "masks": MaskKind(lambda path, samples, offline: find_masks(path, samples), open_folder),
}
"""Of ``forms.NAMED``."""


def check_masks(content: str, samples: int, *, offline: bool = False) -> None:
    """Refuse a mask source before anything slow happens: no network is built, nothing is fetched.

    Raises:
        UsageError, InputError: As ``open_masks``, but for what only reading the weights can tell.
    """
    if content != "center":
        kind, argument = _parse(content)
        kind.check(argument, samples, offline)


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
    kind, argument = _parse(content)
    return kind.open(argument, request)


def _parse(content: str) -> tuple[MaskKind, str]:
    name, colon, argument = content.partition(":")
    if content == "bisenet":  # the one kind that needs nothing after its name
        return KINDS[name], ""
    if not colon:
        raise unknown_name("--content", content, FORMS)
    if not (name and argument):
        raise UsageError(f"--content {content} is incomplete; allowed: {', '.join(FORMS)}")
    module = MaskKind(
        lambda function, samples, offline: check_function(name, function),
        partial(open_function, name),
    )
    return KINDS.get(name, module), argument
