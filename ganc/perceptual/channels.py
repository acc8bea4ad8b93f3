"""Images of one channel before networks that were trained on colour: repeated, as public code does.

Grey images are read as one channel (see ``ganc.data.images``); every feature network, perceptual
distance and mask network gets them three times. An alpha channel has no place there.
"""

from torch import Tensor

from ganc.errors import InputError

SEEN = (1, 3)
"""Channels of images that such a network can be shown."""


def as_colour(images: Tensor) -> Tensor:
    """Return images of three channels, [N, 3, H, W], given [N, 1, H, W]; others as they are."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def protocol(channels: int) -> dict[str, str]:
    """Say what ``as_colour`` does to images of so many channels, as JSON data."""
    return {"channels": "1, repeated to 3"} if channels == 1 else {}


def check_channels(what: str, channels: int, way_out: str) -> None:
    """Refuse images that no such network can be shown, before its weights are looked for.

    Args:
        what: Who needs the network.
        channels: Of the model's images.
        way_out: What a hint offers.
    Raises:
        InputError: See above.
    """
    if channels not in SEEN:
        raise InputError(
            f"{what} needs images of {' or '.join(map(str, SEEN))} channels, the model makes"
            f" {channels}",
            way_out,
        )
