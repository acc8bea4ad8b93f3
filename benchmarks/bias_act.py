"""How near bias_act comes to the speed of memory on a GPU.

    python benchmarks/bias_act.py                    # shapes of StyleGAN2, types, layouts, passes
    python benchmarks/bias_act.py --brief            # the largest layer and a middle one
    python benchmarks/bias_act.py --plugin FOLDER    # and the plugin in a checkout of NVIDIA code

Bandwidth counts what has to move: forward reads x and writes y; the backward pass reads dy and y
and writes dx, with or without the bias's sum; the second backward pass reads ddx and y and writes
one tensor. The copy that it is held against counts what it reads and writes, too. Every number is a
median over runs in random order; the inputs that take turns outgrow the cache; on CUDA the calls
are replayed from a graph, so that the host's share, printed at the end for a tiny tensor, is left
out. ``torch.compile`` has no second backward pass, the plugin no bfloat16.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import figures
import nvidia_plugin
import timing
import torch
from torch import Tensor

from ganc.ops import compiled_bias_act, extension
from ganc.ops.bias_act import bias_act, bias_act_ref

SHAPES = (
    (16, 128, 256, 256), (16, 512, 64, 64), (16, 256, 128, 128), (16, 512, 32, 32),
    (16, 512, 8, 8), (4, 32, 1024, 1024),
)  # fmt: skip
"""Layers of config-f at 256 px, batch 16, and the largest at 1024 px, the most telling first."""

RULE: dict[str, Any] = {"dim": 1, "act": "lrelu", "alpha": 0.2, "gain": 2**0.5, "clamp": 256.0}
DTYPES = (torch.bfloat16, torch.float32, torch.float16)
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
MOVED = {"forward": 2, "backward": 3, "backward, bias": 3, "second backward": 3}
"""Pass → tensors of x's size that it must read and write."""

NOT_DONE = {("compile", "second backward"), ("compile", "backward")}
"""Sides without a pass: the first cannot do it, the second would be another minute of compiling."""

Side = Callable[[Tensor, Tensor], Tensor]


def ours(x: Tensor, bias: Tensor) -> Tensor:
    return bias_act(x, bias, act="lrelu", clamp=256.0)


def eager(x: Tensor, bias: Tensor) -> Tensor:
    return bias_act_ref(x, bias, **RULE)


def plugin(folder: Path) -> Side:
    """Return NVIDIA's own, which builds itself from a checkout that the user brings."""
    theirs = nvidia_plugin.load_operator(folder, "bias_act")

    def call(x: Tensor, bias: Tensor) -> Tensor:
        made: Tensor = theirs.bias_act(x, bias, act="lrelu", clamp=256.0)
        return made

    return call


def work(side: Side, name: str, x: Tensor, bias: Tensor, dy: Tensor) -> Callable[[], Any]:
    """Return one pass of a side over one input, its graph made beforehand."""
    if name == "forward":
        return torch.no_grad()(partial(side, x, bias))
    x, bias, dy = (t.detach().requires_grad_() for t in (x, bias, dy))
    with_bias = name == "backward, bias"
    y = side(x, bias if with_bias else bias.detach())
    inputs = (x, bias) if with_bias else (x,)
    if name != "second backward":
        return partial(torch.autograd.grad, y, inputs, dy.detach(), retain_graph=True)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    return partial(torch.autograd.grad, dx, dy, dy.detach(), retain_graph=True)


def measure(
    sides: dict[str, Side], name: str, inputs: list[list[Tensor]], runs: int
) -> dict[str, float]:
    """Return side → GB/s of one pass; a side that cannot do it says why and is left out."""
    device = inputs[0][0].device
    size = inputs[0][0].numel() * inputs[0][0].element_size()
    with timing.side_stream(device):
        target = torch.empty_like(inputs[0][0])
        calls: dict[str, list[timing.Call]] = {
            "copy": [partial(target.copy_, x) for x, *_ in inputs]
        }
        for side_name, side in sides.items():
            if (side_name, name) in NOT_DONE:
                continue
            try:
                check(side, *inputs[0])
                calls[side_name] = [work(side, name, *given) for given in inputs]
                calls[side_name][0]()
            except (RuntimeError, AssertionError) as error:
                print(f"{side_name}, {name}: {str(error).splitlines()[0]}", file=sys.stderr)
                calls.pop(side_name, None)
    taken = timing.milliseconds(calls, device, runs)
    return {
        side: (2 if side == "copy" else MOVED[name]) * size / milliseconds / 1e6
        for side, milliseconds in taken.items()
    }


def check(side: Side, x: Tensor, bias: Tensor, dy: Tensor) -> None:
    """Hold a side against plain torch: a fast wrong one is no result."""
    with torch.no_grad():
        torch.testing.assert_close(side(x, bias), eager(x, bias), rtol=2e-2, atol=2e-2)


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, device: torch.device
) -> list[list[Tensor]]:
    """Return as many inputs (x, bias, dy) as outgrow the cache."""
    size = math.prod(shape) * dtype.itemsize
    count = -(-timing.LARGEST_CACHE // size) if device.type == "cuda" else 1

    def draw(*sides: int) -> Tensor:
        drawn = torch.randn(sides, device=device, dtype=dtype)
        return drawn.contiguous(memory_format=layout) if len(sides) > 1 else drawn

    with timing.side_stream(device):
        return [[draw(*shape), draw(shape[1]), draw(*shape)] for _ in range(count)]


def cases(is_brief: bool) -> list[tuple[tuple[int, ...], torch.dtype, str]]:
    """Return what is measured: shapes, types and layouts."""
    if not is_brief:
        return [*itertools.product(SHAPES, DTYPES, LAYOUTS)]
    largest, middle = SHAPES[:2]
    return [
        *itertools.product([largest], DTYPES, LAYOUTS),
        *itertools.product([middle], DTYPES[:1], LAYOUTS),
    ]


def table(given: argparse.Namespace, sides: dict[str, Side], device: torch.device) -> None:
    """Measure shapes, types, layouts and passes; print a row for each."""
    columns = ["copy", *sides]
    print("| shape | type | layout | pass | "
          + " | ".join(f"{name} GB/s" for name in columns) + " | of copy |")  # fmt: skip
    print("|---" * (len(columns) + 5) + "|", flush=True)
    for shape, dtype, layout in cases(given.brief):
        shape = tuple(-(-side // given.shrink) for side in shape)
        inputs = make_inputs(shape, dtype, LAYOUTS[layout], device)
        for name in MOVED:
            found = measure(sides, name, inputs, given.runs)
            numbers = " | ".join(f"{found[c]:.0f}" if c in found else "–" for c in columns)
            print(f"| {list(shape)} | {str(dtype)[6:]} | {layout} | {name} | {numbers}"
                  f" | {found['ganc'] / found['copy']:.0%} |", flush=True)  # fmt: skip
            figures.record(given.figures, "bias_act GB/s", shape=shape, dtype=str(dtype)[6:],
                           layout=layout, step=name, **found)  # fmt: skip


def host_lines(given: argparse.Namespace, sides: dict[str, Side], device: torch.device) -> None:
    """Print what a call costs the host: it is what small layers cost."""
    ((x, bias, dy),) = make_inputs((4, 16, 8, 8), torch.float32, torch.channels_last, device)[:1]
    for name, side in sides.items():
        spent = {
            step: timing.host_microseconds(work(side, step, x, bias, dy), device)
            for step in ("forward", "backward, bias")
        }
        text = ", ".join(f"{step} {value:.0f} µs" for step, value in spent.items())
        print(f"host, {name}: {text}", flush=True)
        figures.record(given.figures, "bias_act host µs", side=name, **spent)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plugin", type=Path, help="checkout of a repository with torch_utils")
    parser.add_argument(
        "--brief", action="store_true", help="the largest layer; a middle one in bfloat16"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--shrink", type=int, default=1, help="divide every side by it")
    figures.add_option(parser)
    return parser.parse_args()


def main() -> None:
    given = parse()
    device = torch.device(given.device)
    sides: dict[str, Side] = {"ganc": ours, "eager": eager}
    if device.type == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
        print(f"kernels: {extension.state(extension.CUDA)}", flush=True)
        compiled_bias_act.build_for("cuda", torch.zeros(1, 1, device="cuda"), None, 0.2)
    sides["compile"] = torch.compile(eager, dynamic=False)
    if given.plugin:
        sides["plugin"] = plugin(given.plugin)
    torch._dynamo.config.cache_size_limit = 64  # a compilation per shape, type and layout
    host_lines(
        given, {n: s for n, s in sides.items() if n != "plugin" or device.type == "cuda"}, device
    )
    table(given, sides, device)


if __name__ == "__main__":
    main()
