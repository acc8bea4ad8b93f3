"""How near upfirdn2d comes to the speed of memory on a GPU.

    python benchmarks/upfirdn2d.py                    # a table over types, layouts, passes, shapes
    python benchmarks/upfirdn2d.py --brief            # its most telling rows, in about 20 seconds
    python benchmarks/upfirdn2d.py --plugin FOLDER    # and the plugin in a checkout of NVIDIA code

Bandwidth counts what has to move: forward reads x and writes y, backward reads dy and writes dx; a
separable filter's result between its two passes is not counted. The copy that it is held against
moves as many bytes. Every number is a median over runs in random order; on CUDA the calls are
replayed from a graph, so that the host's share is left out.
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import figures
import nvidia_plugin
import timing
import torch
from torch import Tensor

from ganc.ops import resampling
from ganc.ops.upfirdn2d import setup_filter, upfirdn2d, upfirdn2d_ref


class Case(NamedTuple):
    """A layer that resamples."""

    shape: tuple[int, int, int, int]
    taps: int
    up: int
    down: int
    padding: tuple[int, int]


# StyleGAN2 at 256 px with a batch of 16 and 1024 px with one of 4, StyleGAN3's separable filters.
CASES = {
    "after a convolution, 256": Case((16, 128, 257, 257), 4, 1, 1, (1, 1)),
    "before a convolution, 256": Case((16, 128, 256, 256), 4, 1, 1, (2, 2)),
    "halve, 256": Case((16, 128, 256, 256), 4, 1, 2, (1, 1)),
    "double, 128": Case((16, 128, 128, 128), 4, 2, 1, (2, 1)),
    "double RGB, 128": Case((16, 3, 128, 128), 4, 2, 1, (2, 1)),
    "after a convolution, 64": Case((16, 512, 65, 65), 4, 1, 1, (1, 1)),
    "after a convolution, 1024": Case((4, 32, 1025, 1025), 4, 1, 1, (1, 1)),
    "StyleGAN3, double": Case((8, 256, 148, 148), 12, 2, 1, (6, 5)),
    "StyleGAN3, halve": Case((8, 256, 276, 276), 12, 1, 2, (5, 5)),
}
BRIEF = ("after a convolution, 256", "StyleGAN3, halve")
SEPARABLE = 8
"""Taps from which a filter is separable here."""

Call = Callable[[Tensor, Tensor], Tensor]


def sides(
    case: Case, dtype: torch.dtype, plugin: Path | None, *, compiles: bool
) -> dict[str, Call]:
    """Return name → function of x and the filter; ``ganc`` is the kernel on a GPU."""
    rule = {"up": case.up, "down": case.down, "padding": case.padding, "gain": float(case.up**2)}
    found: dict[str, Call] = {
        "ganc": partial(upfirdn2d, **rule), "eager": partial(upfirdn2d_ref, **rule),
    }  # fmt: skip
    if compiles:
        torch.compiler.reset()
        found["compile"] = torch.compile(found["eager"])
    if plugin and dtype != torch.bfloat16:  # which it does not take
        theirs = nvidia_plugin.load_operator(plugin, "upfirdn2d")
        found["plugin"] = lambda x, kernel: theirs.upfirdn2d(
            x, kernel, up=case.up, down=case.down, padding=[*case.padding] * 2, gain=case.up**2
        )
    return found


def measure(
    case: Case, calls: dict[str, Call], x: Tensor, kernel: Tensor, rounds: int
) -> dict[str, dict[str, float]]:
    """Return pass → side → GB/s."""
    with timing.side_stream(x.device):
        leaf = x.requires_grad_()
        expected = calls["eager"](x.detach(), kernel)
        moved = (x.numel() + expected.numel()) * x.element_size()
        source = torch.empty(moved // 2, dtype=torch.uint8, device=x.device)
        copy: timing.Call = partial(torch.empty_like(source).copy_, source)
        forward: dict[str, list[timing.Call]] = {"copy": [copy]}
        backward: dict[str, list[timing.Call]] = {"copy": [copy]}
        dy = torch.randn_like(expected)
        for name, call in calls.items():
            y = call(leaf, kernel)
            torch.testing.assert_close(y, expected, rtol=5e-2, atol=5e-2)
            forward[name] = [partial(call, x.detach(), kernel)]
            backward[name] = [partial(torch.autograd.grad, y, leaf, dy, retain_graph=True)]
    found = {}
    for name, runs in (("forward", forward), ("backward", backward)):
        taken = timing.milliseconds(runs, x.device, rounds)
        found[name] = {side: moved / value / 1e6 for side, value in taken.items()}
    return found


def shrunk(case: Case, factor: int) -> Case:
    """Divide a layer's sizes, for a rehearsal."""
    batch, channels, *image = case.shape
    height, width = (max(side // factor, case.taps) for side in image)
    return case._replace(shape=(batch, max(channels // factor, 1), height, width))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plugin", type=Path, help="checkout of a repository with torch_utils")
    parser.add_argument("--brief", action="store_true", help="the most telling rows alone")
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well: slow")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shrink", type=int, default=1, help="divide the sizes by this")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each")
    figures.add_option(parser)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("this needs a CUDA device")
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}")
    print(f"kernels: {resampling.state(given.device)}")
    columns = ["copy", "ganc", "eager"] + given.compile * ["compile"]
    columns += bool(given.plugin) * ["plugin"]
    titles = ["layer", "type", "layout", "pass", *(f"{c} GB/s" for c in columns), "of copy"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|", flush=True)
    dtypes = (torch.bfloat16, torch.float32) + (not given.brief) * (torch.float16,)
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    chosen = BRIEF if given.brief else tuple(CASES)
    for layer, dtype, layout in itertools.product(chosen, dtypes, layouts):
        case = shrunk(CASES[layer], given.shrink)
        calls = sides(case, dtype, given.plugin, compiles=given.compile)
        x = torch.randn(case.shape, device=given.device, dtype=dtype)
        x = x.contiguous(memory_format=layouts[layout])
        kernel = filter_of(case).to(given.device)
        for direction, row in measure(case, calls, x, kernel, given.rounds).items():
            share = row["ganc"] / row["copy"]
            numbers = " | ".join(f"{row[side]:.0f}" if side in row else "–" for side in columns)
            start = f"| {layer} | {str(dtype)[6:]} | {layout} | {direction} "
            print(f"{start}| {numbers} | {share:.0%} |", flush=True)
            figures.record(
                given.figures, "upfirdn2d", layer=layer, shape=list(case.shape), device=name,
                type=str(dtype)[6:], layout=layout, direction=direction, share_of_copy=share,
                **{f"{side}_gb_per_sec": value for side, value in row.items()},
            )  # fmt: skip


def filter_of(case: Case) -> Tensor:
    """Return StyleGAN2's filter, or one of as many taps as StyleGAN3's, separable."""
    if case.taps >= SEPARABLE:
        return torch.hann_window(case.taps + 2)[1:-1] / (case.taps + 1) * 2
    return setup_filter((1, 3, 3, 1))


if __name__ == "__main__":
    main()
