"""Generator latency on the CPU: ours against the public implementation's way and bare convolutions.

StyleGAN2 of config-f's shape (or StyleGAN3-T's) with random weights, whole and pruned, the same
weights on every side. The public way of StyleGAN2, written plainly: every sample has its own kernel
in one grouped convolution, filters run over single-channel images, then noise, bias, activation and
gain each take a pass. StyleGAN3 is compared with the composition that training runs. "Convolutions"
are the dense convolutions of our own forward pass, alone, on the tensors it gave them. All sides
take turns in one process; times are medians over the rounds. With one thread they are CPU seconds,
which other work on the machine moves less than wall time.

    python benchmarks/latency.py                      # 256 px, whole and pruned, batch 1 and 8
    python benchmarks/latency.py --threads 2 --rounds 9
    python benchmarks/latency.py --profile            # where our time goes, operation by operation
    python benchmarks/latency.py --compile --models pruned --batches 1
    python benchmarks/latency.py --family stylegan3 --batches 1
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

import ganc
from ganc.models import stylegan3
from ganc.models.model import Model
from ganc.models.style import StyleGenerator
from ganc.models.stylegan2 import Generator, SynthesisLayer, ToRGBLayer

Run = Callable[[], Any]

_CONVOLUTIONS = (F.conv2d, F.conv_transpose2d)


def public_image(generator: Any, z: Tensor) -> Tensor:
    """Make images as the public implementation does."""
    w = generator.mapping(z).unbind(dim=1)
    x = img = None
    at = 0
    for _, block in generator.synthesis.blocks():
        if x is None:
            x = block.const.repeat(len(z), 1, 1, 1)
        else:
            x, at = _public_layer(block.conv0, x, w[at]), at + 1
        x, at = _public_layer(block.conv1, x, w[at]), at + 1
        rgb = _public_convolution(block.torgb, x, w[at]) + block.torgb.bias[:, None, None]
        img = rgb if img is None else rgb + _public_filter(img, block.resample_filter, 2, (2, 1))
    assert img is not None
    return img


def _public_layer(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    x = _public_convolution(layer, x, w)
    x = x + layer.noise_strength * layer.noise_const
    return F.leaky_relu(x + layer.bias[:, None, None], 0.2) * 2**0.5


def _public_convolution(layer: SynthesisLayer | ToRGBLayer, x: Tensor, w: Tensor) -> Tensor:
    batch, height, width = x.shape[0], *x.shape[2:]
    out_channels, in_channels, size, _ = layer.weight.shape
    # Our weights hold no 1/sqrt(fan-in); where outputs are demodulated it makes no difference.
    gain = layer.weight_gain if isinstance(layer, ToRGBLayer) else 1.0
    kernels = layer.weight[None] * layer.affine(w).reshape(batch, 1, in_channels, 1, 1) * gain
    if isinstance(layer, SynthesisLayer):
        norms = torch.rsqrt(kernels.pow(2).sum([2, 3, 4]) + 1e-8)
        kernels = kernels * norms.reshape(batch, out_channels, 1, 1, 1)
    x = x.reshape(1, batch * in_channels, height, width)
    if isinstance(layer, ToRGBLayer) or layer.up == 1:
        kernels = kernels.reshape(batch * out_channels, in_channels, size, size)
        x = F.conv2d(x, kernels, padding=size // 2, groups=batch)
        return x.reshape(batch, out_channels, height, width)
    kernels = kernels.transpose(1, 2).reshape(batch * in_channels, out_channels, size, size)
    x = F.conv_transpose2d(x, kernels, stride=2, groups=batch)
    x = x.reshape(batch, out_channels, *x.shape[2:])
    return _public_filter(x, layer.resample_filter, 1, (1, 1))


def _public_filter(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Insert zeros, pad, and filter every channel as an image of its own; brightness times 4."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch * channels, 1, height, 1, width, 1)
    x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1]).reshape(batch * channels, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, [*padding, *padding]), (kernel * 4).flip([0, 1])[None, None])
    return x.reshape(batch, channels, *x.shape[2:])


class Convolutions(TorchFunctionMode):
    """Records the dense convolutions that run inside it; calling it runs them again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Run] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS and kwargs.get("groups", 1) == 1:
            # Copies: what is recorded may be changed in place later. clone() keeps the format.
            kept = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
            self.calls.append(partial(func, *kept, **kwargs))
        return func(*args, **kwargs)

    def __call__(self) -> None:
        for call in self.calls:
            call()


class Case(NamedTuple):
    """A generator and what it is given."""

    name: str
    generator: StyleGenerator
    z: Tensor

    def reference(self) -> tuple[str, Run]:
        """Return what ours is compared with."""
        if isinstance(self.generator, Generator):
            return "public", partial(public_image, self.generator, self.z)
        return "training", torch.enable_grad()(partial(self.generator, self.z))

    def sides(self, with_compile: bool) -> dict[str, Run]:
        """Return what takes turns, the reference first."""
        generator: Any = self.generator
        convolutions = Convolutions()
        with convolutions:
            generator(self.z)
        name, reference = self.reference()
        sides: dict[str, Run] = {
            name: reference,
            "ganc": partial(generator, self.z),
            "convolutions": convolutions,
        }
        if with_compile:
            sides["ganc --compile"] = partial(torch.compile(generator), self.z)
        return sides


def make_generators(family: str, resolution: int, speedup: float) -> dict[str, StyleGenerator]:
    """Return a family's usual generator with random weights and noise in use, whole and pruned."""
    torch.manual_seed(0)
    generator = FAMILIES[family](resolution).eval()
    for layer in generator.modules():
        if isinstance(layer, SynthesisLayer):
            layer.noise_strength.data.fill_(0.1)
    model = Model(generator=generator)
    student = ganc.prune(model, ganc.score(model, "random"), speedup=speedup).generator
    assert isinstance(student, StyleGenerator)
    return {
        name: made.eval().requires_grad_(False)  # so that even "training" keeps no graph
        for name, made in (("whole", generator), ("pruned", student))
    }


def _stylegan3(resolution: int) -> StyleGenerator:
    """Return StyleGAN3-T with the channels that its authors advise for a size."""
    base = 32768 if resolution > 256 else 16384
    mapping = {"num_layers": 2}
    return stylegan3.Generator(
        512, 0, 512, resolution, 3, channel_base=base, mapping_kwargs=mapping
    )


FAMILIES: dict[str, Callable[[int], StyleGenerator]] = {
    "stylegan2": lambda resolution: Generator(512, 0, 512, resolution, 3),
    "stylegan3": _stylegan3,
}


def measure(sides: dict[str, Run], rounds: int, threads: int) -> dict[str, float]:
    """Let the sides take turns: median milliseconds of each."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(rounds + 1):  # the first one warms up
        for name, side in sides.items():
            start = clock()
            side()
            if round_number:
                times[name].append(1000 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def difference(case: Case) -> float:
    """Return how far our images are from the reference's, relative to their largest value."""
    ours, theirs = case.generator(case.z), case.reference()[1]()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def rows(case: Case, medians: dict[str, float], first: float) -> list[str]:
    """Return one markdown row per side."""
    batch = len(case.z)
    work = case.generator.macs() * batch / 1e6  # GMAC per second from milliseconds
    reference = next(iter(medians.values()))
    return [
        f"| {case.name} | {batch} | {name} | {ms:.0f} | {work / ms:.1f}"
        f" | {reference / ms:.2f}x | {first / ms:.2f}x"
        f" | {medians['convolutions'] / ms:.0%} |"
        for name, ms in medians.items()
    ]


def speed_table(generators: dict[str, StyleGenerator], settings: argparse.Namespace) -> list[str]:
    """Measure models and batches: markdown lines."""
    lines = [
        "| model | batch | side | ms | GMAC/s | against its first row | against the first model's |"
        " of convolutions' rate |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    firsts: dict[int, float] = {}
    notes = []
    for name in settings.models:
        for batch in settings.batches:
            case = make_case(name, generators[name], batch)
            notes.append(f"{name}, batch {batch}: images differ by {difference(case):.1e}")
            sides = case.sides(settings.compile)
            medians = measure(sides, settings.rounds, settings.threads)
            first = firsts.setdefault(batch, next(iter(medians.values())))
            lines += rows(case, medians, first)
    return [*lines, "", *notes, ""]


def make_case(name: str, generator: StyleGenerator, batch: int) -> Case:
    """Draw what a generator is given."""
    z = torch.randn(batch, generator.z_dim, generator=torch.Generator().manual_seed(1))
    return Case(name, generator, z)


def profile_lines(case: Case) -> list[str]:
    """List where our forward pass spends its time: markdown lines."""
    case.generator(case.z)
    with torch.profiler.profile(record_shapes=True) as profile:
        case.generator(case.z)
    events = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    lines = [f"{case.name}, batch {len(case.z)}", "", "| operation | calls | ms | share |"]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| `{e.key}` | {e.count} | {e.self_cpu_time_total / 1e3:.1f}"
        f" | {e.self_cpu_time_total / total:.1%} |"
        for e in events[:14]
    ]
    return [*lines, ""]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=[*FAMILIES], default="stylegan2")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--speedup", type=float, default=10.9, help="of the pruned one, in MACs")
    parser.add_argument("--models", nargs="+", choices=["whole", "pruned"],
                        default=["whole", "pruned"])  # fmt: skip
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile of ours as well")
    parser.add_argument("--profile", action="store_true", help="operations instead of sides")
    parser.add_argument("--output", type=Path, help="write the markdown here as well")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    settings = parse()
    torch.set_num_threads(settings.threads)
    generators = make_generators(settings.family, settings.resolution, settings.speedup)
    lines = [
        f"{platform.processor() or platform.machine()}, torch {torch.__version__},"
        f" {settings.threads} threads, median of {settings.rounds}; {settings.family},"
        f" {settings.resolution} px, {generators['whole'].macs() / 1e9:.1f} and"
        f" {generators['pruned'].macs() / 1e9:.2f} GMAC",
        "",
    ]
    if settings.profile:
        for name in settings.models:
            for batch in settings.batches:
                lines += profile_lines(make_case(name, generators[name], batch))
    else:
        lines += speed_table(generators, settings)
    text = "\n".join(lines)
    print(text, end="")
    if settings.output is not None:
        settings.output.write_text(text)


if __name__ == "__main__":
    main()
