"""How near filtered_lrelu comes to the speed of memory on a GPU, layer by layer of StyleGAN3-T.

    python benchmarks/filtered_lrelu.py                    # 256 px, batch 16; types and passes
    python benchmarks/filtered_lrelu.py --brief            # three large layers, two types
    python benchmarks/filtered_lrelu.py --plugin FOLDER    # and a checkout of NVIDIA's

"composition" is what the operator replaces: bias, upsampling, activation and downsampling one by
one. Bandwidth counts what has to move: forward reads x and writes y; the backward pass reads dy and
x and writes dx; the second backward pass reads ddx and x and writes ddy. The copy that it is held
against copies x and counts what it reads and writes, too. The work is 70 to 150 multiply-adds for
every pixel, so that in half precision no kernel reaches the copy. See ``bias_act.py`` for how the
times are taken; a layer's own is printed beside its bandwidth.
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import figures
import nvidia_plugin
import timing
import torch
from torch import Tensor

from ganc.models.stylegan3 import SynthesisLayer, layer_grids
from ganc.ops import compiled_filtered_lrelu, extension
from ganc.ops.bias_act import bias_act
from ganc.ops.filtered_lrelu import filtered_lrelu
from ganc.ops.upfirdn2d import upfirdn2d

SAMPLING: dict[str, Any] = {
    "num_layers": 14, "num_critical": 2, "first_cutoff": 2, "first_stopband": 2**2.1,
    "last_stopband_rel": 2**0.3, "margin_size": 10, "channel_base": 32768, "channel_max": 512,
}  # fmt: skip
RESOLUTION = 256
CLAMP = 256.0
TELLING = (11, 10, 8)
"""Large layers: of one size, growing, and with more channels."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PASSES = ("forward", "backward", "second backward")


@dataclass
class Layer:
    """A layer's filtered leaky ReLU, and the features [C, S, S] that come into it."""

    name: str
    shape: tuple[int, int, int]
    up_filter: Tensor
    down_filter: Tensor
    up: int
    down: int
    padding: tuple[int, int]


Side = Callable[[Layer, Tensor, Tensor], Tensor]


def layers(device: torch.device) -> list[Layer]:
    grids = layer_grids(RESOLUTION, **SAMPLING)
    found = []
    for index, after in enumerate(grids[:-1]):
        made = SynthesisLayer(
            1, 1, 1, grids[max(index - 1, 0)], after, kernel_size=3, filter_size=6,
            lrelu_upsampling=2, is_radial=False, conv_clamp=CLAMP,
        ).to(device)  # fmt: skip
        shape = (after.channels, made.conv_size, made.conv_size)
        found.append(
            Layer(f"L{index}", shape, made.up_filter, made.down_filter, made.up, made.down,
                  made.padding)
        )  # fmt: skip
    return found


def ours(layer: Layer, x: Tensor, bias: Tensor) -> Tensor:
    return filtered_lrelu(
        x, bias, layer.up_filter, layer.down_filter, up=layer.up, down=layer.down,
        padding=layer.padding, clamp=CLAMP,
    )  # fmt: skip


def composition(layer: Layer, x: Tensor, bias: Tensor) -> Tensor:
    x = bias_act(x, bias)
    x = upfirdn2d(x, layer.up_filter, up=layer.up, padding=layer.padding, gain=layer.up**2)
    return upfirdn2d(bias_act(x, act="lrelu", clamp=CLAMP), layer.down_filter, down=layer.down)


def plugin(folder: Path) -> Side:
    """Return NVIDIA's own, which builds itself for minutes, from a checkout the user brings."""
    theirs = nvidia_plugin.load_operator(folder, "filtered_lrelu")

    def call(layer: Layer, x: Tensor, bias: Tensor) -> Tensor:
        made: Tensor = theirs.filtered_lrelu(
            x, fu=layer.up_filter, fd=layer.down_filter, b=bias, up=layer.up, down=layer.down,
            padding=[*layer.padding, *layer.padding], clamp=CLAMP,
        )  # fmt: skip
        return made

    return call


def work(side: Side, name: str, layer: Layer, x: Tensor, bias: Tensor) -> Callable[[], Any]:
    """Return one pass of a side over one input, its graph made beforehand."""
    if name == "forward":
        return torch.no_grad()(partial(side, layer, x, bias))
    x, bias = x.detach().requires_grad_(), bias.detach().requires_grad_()
    y = side(layer, x, bias)
    dy = torch.randn_like(y).requires_grad_()
    if name == "backward":
        return partial(torch.autograd.grad, y, (x, bias), dy.detach(), retain_graph=True)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    return partial(torch.autograd.grad, dx, dy, torch.randn_like(dx), retain_graph=True)


def check(side: Side, layer: Layer, x: Tensor, bias: Tensor) -> None:
    """Hold a side against the composition in float32: a fast wrong one is no result."""
    with torch.no_grad():
        expected = composition(layer, x[:1].float(), bias.float())
        error = (side(layer, x[:1], bias).float() - expected).abs().max()
        assert error <= 0.05 * expected.abs().max(), f"off by {float(error):.3f}"


def measure(
    sides: dict[str, Side], name: str, layer: Layer, inputs: list[tuple[Tensor, Tensor]], runs: int
) -> dict[str, float]:
    """Return side → milliseconds of one pass; a side that cannot do it says why and is left out."""
    device = inputs[0][0].device
    with timing.side_stream(device):
        target = torch.empty_like(inputs[0][0])
        calls: dict[str, list[timing.Call]] = {
            "copy": [partial(target.copy_, x) for x, _ in inputs]
        }
        for side_name, side in sides.items():
            try:
                check(side, layer, *inputs[0])
                calls[side_name] = [work(side, name, layer, *given) for given in inputs]
                calls[side_name][0]()
            except (RuntimeError, AssertionError) as error:
                print(f"{side_name}, {name}: {str(error).splitlines()[0]}", file=sys.stderr)
                calls.pop(side_name, None)
    return timing.milliseconds(calls, device, runs)


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return as many inputs (x, bias) as outgrow the cache."""
    draw = partial(torch.randn, device=device, dtype=dtype)
    with timing.side_stream(device):
        first = draw(shape), draw(shape[1])
        size = first[0].numel() * dtype.itemsize
        others = -(-timing.LARGEST_CACHE // size) - 1 if device.type == "cuda" else 0
        return [first, *((draw(shape), draw(shape[1])) for _ in range(others))]


def moved(name: str, layer: Layer, x: Tensor) -> int:
    """Return the bytes that a pass must read and write."""
    lost = len(layer.up_filter) + len(layer.down_filter) - 1 - sum(layer.padding)
    side = (layer.shape[1] * layer.up - lost) // layer.down + 1
    y = x.shape[0] * x.shape[1] * side**2
    return x.element_size() * {
        "forward": x.numel() + y, "backward": 2 * x.numel() + y,
        "second backward": 2 * x.numel() + y,
    }[name]  # fmt: skip


def table(given: argparse.Namespace, sides: dict[str, Side], device: torch.device) -> None:
    """Measure layers, types and passes; print a row for each."""
    columns = ["copy", *sides]
    print("| layer | x | type | pass | "
          + " | ".join(f"{name} ms | GB/s" for name in columns) + " | of copy |")  # fmt: skip
    print("|---" * (2 * len(columns) + 5) + "|", flush=True)
    found = layers(device)
    chosen = [found[i] for i in TELLING] if given.brief else found[::-1]
    dtypes, passes = (DTYPES[:2], PASSES[:2]) if given.brief else (DTYPES, PASSES)
    for layer, dtype in itertools.product(chosen, dtypes):
        channels, *rest = layer.shape
        shape = (-(-given.batch // given.shrink), -(-channels // given.shrink), *rest)
        inputs = make_inputs(shape, dtype, device)
        for name in passes:
            taken = measure(sides, name, layer, inputs, given.runs)
            x = inputs[0][0]
            size = {c: moved(name, layer, x) for c in columns}
            size["copy"] = 2 * x.numel() * x.element_size()
            speed = {side: size[side] / spent / 1e6 for side, spent in taken.items()}
            numbers = " | ".join(
                f"{taken[c]:.3f} | {speed[c]:.0f}" if c in taken else "– | –" for c in columns
            )
            share = f"{speed['ganc'] / speed['copy']:.0%}" if "ganc" in speed else "–"
            print(f"| {layer.name} | {list(shape)} | {str(dtype)[6:]} | {name} | {numbers}"
                  f" | {share} |", flush=True)  # fmt: skip
            figures.record(given.figures, "filtered_lrelu ms", layer=layer.name, shape=shape,
                           dtype=str(dtype)[6:], step=name, **taken)  # fmt: skip
            figures.record(given.figures, "filtered_lrelu GB/s", layer=layer.name, shape=shape,
                           dtype=str(dtype)[6:], step=name, **speed)  # fmt: skip


def host_lines(given: argparse.Namespace, sides: dict[str, Side], device: torch.device) -> None:
    """Print what a call costs the host: it is what small layers cost."""
    layer = layers(device)[0]
    ((x, bias), *_) = make_inputs((1, 4, *layer.shape[1:]), torch.float32, device)
    for name, side in sides.items():
        spent = {
            step: timing.host_microseconds(work(side, step, layer, x, bias), device, given.runs)
            for step in PASSES[:2]
        }
        text = ", ".join(f"{step} {value:.0f} µs" for step, value in spent.items())
        print(f"host, {name}: {text}", flush=True)
        figures.record(given.figures, "filtered_lrelu host µs", side=name, **spent)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plugin", type=Path, help="checkout of a repository with torch_utils")
    parser.add_argument(
        "--brief", action="store_true", help="three large layers, float32 and bfloat16"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--shrink", type=int, default=1, help="divide batch and channels by it")
    figures.add_option(parser)
    return parser.parse_args()


def main() -> None:
    given = parse()
    device = torch.device(given.device)
    sides: dict[str, Side] = {"ganc": ours, "composition": composition}
    if device.type == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
        print(f"kernels: {extension.state(extension.CUDA)}", flush=True)
        x = torch.zeros(1, device="cuda")
        compiled_filtered_lrelu.OPERATORS.build_for("cuda", None, x)
    if given.plugin and device.type == "cuda":
        sides["plugin"] = plugin(given.plugin)
    host_lines(given, sides, device)
    table(given, sides, device)


if __name__ == "__main__":
    main()
