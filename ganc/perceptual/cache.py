"""The weights of feature networks: one cache, verified files, two ways to fill it.

A file enters the cache by a download or by hand. Either way its SHA-256 is compared with the
published one before anything reads it, so a damaged or foreign file can never become a number.
Where a publisher gives no SHA-256 the first one seen is recorded beside the file and holds from
then on.
"""

import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs
import torch

from ganc.errors import WeightsError, unknown_name
from ganc.files import atomic_write, file_sha256, move_into_place, write_error
from ganc.perceptual.download import DownloadError, discard, download
from ganc.progress import Progress, silent


@dataclass(frozen=True)
class WeightsFile:
    """One published file: what it is called, where it is, and how to recognise it.

    Attributes:
        file_name: In the cache; where a publisher puts a SHA-256 into the name, that name.
        url: A direct HTTPS address, or "": it can only be fetched in a browser, from ``page``.
        sha256: Of the published file, or "": nobody publishes it.
        num_bytes: Of the published file; 0 where nobody publishes it.
        purpose: What in ganc reads it.
        page: Where the publisher links to it, for files without a direct address.
    """

    file_name: str
    url: str
    sha256: str
    num_bytes: int
    purpose: str = ""
    page: str = ""


# torchvision publishes the first eight hexadecimal digits in its file names; the full hashes, and
# Inception's, are those that other projects pin for the same addresses.
WEIGHTS: dict[str, WeightsFile] = {
    "inception": WeightsFile(
        file_name="inception-2015-12-05.pt",
        url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        num_bytes=95_607_719,
    ),
    "vgg16": WeightsFile(
        file_name="vgg16-397923af.pth",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        num_bytes=553_433_881,
    ),
    "alexnet": WeightsFile(
        file_name="alexnet-owt-7be5be79.pth",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        num_bytes=244_408_911,
    ),
    "squeezenet1_1": WeightsFile(
        file_name="squeezenet1_1-b8a52dc0.pth",
        url="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        sha256="b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        num_bytes=4_958_839,
    ),
    "deeplabv3_resnet50": WeightsFile(
        file_name="deeplabv3_resnet50_coco-cd0a2569.pth",
        url="https://download.pytorch.org/models/deeplabv3_resnet50_coco-cd0a2569.pth",
        sha256="cd0a25694c4a0f7106b38f4938bf90a874f2f241cc410b8f63c7024399538f06",
        num_bytes=168_312_152,
    ),
}


def cache_folder() -> Path:
    """Return ``$GANC_CACHE``, else the platform's cache folder; it may not exist yet."""
    chosen = os.environ.get("GANC_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("ganc"))


def cache_subfolder(name: str) -> Path:
    """Return a folder inside the cache, made when it is missing.

    Raises:
        OutputError: It cannot be made.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def is_offline(offline: bool) -> bool:
    """Tell whether the network is off limits: asked for, or by ``GANC_OFFLINE`` (not 0)."""
    return offline or os.environ.get("GANC_OFFLINE", "0") not in ("", "0")


@@WP@@def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose content is not the published one.

    Raises:
        WeightsError: Its SHA-256 is another.
    """
    found = file_sha256(path)
    if found != expected:
        raise WeightsError(
            f"{path} has SHA-256 {found}, expected {expected}",
            "it is damaged or another version; delete it, then fetch or install it again",
        )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a PyTorch state dict on the CPU; no code from the file runs.

    Raises:
        WeightsError: It cannot be read, or holds something else than named tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as PyTorch weights") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected named tensors")
    return content


def load_strictly(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Put tensors into a module built on the meta device, all of them and no others; freeze it.

    Raises:
        WeightsError: A tensor is missing, left over, or has another shape.
    """
    try:
        module.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise WeightsError(
            f"{path} does not fit the network: {details}",
            "it is not the published file, or the package that reads it changed",
        ) from error
    module.requires_grad_(False).eval()


@@DL@@