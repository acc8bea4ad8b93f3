"""How near bias_act comes to the speed of memory on a GPU.

    python benchmarks/bias_act.py                    # a table over types, layouts, passes
    python benchmarks/bias_act.py --plugin FOLDER    # and the plugin in a checkout of NVIDIA code

Bandwidth counts what has to move: forward reads x and writes y; backward reads dy and y and writes
dx. The copy that it is held against moves as many bytes for each byte of its own. Every number is a
median over runs whose order is shuffled; what they read is larger than the second-level cache.
"""

import argparse
import itertools
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ganc.ops import compiled, extension
from ganc.ops.bias_act import bias_act, bias_act_ref

SHAPE = (32, 128, 128, 128)
RULE: dict[str, Any] = {"dim": 1, "act": "lrelu", "alpha": 0.2, "gain": 2**0.5, "clamp": 256.0}
RUNS = 50

Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ours(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return bias_act(x, bias, act="lrelu", clamp=256.0)


def eager(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return bias_act_ref(x, bias, **RULE)


def plugin(folder: Path) -> Call:
    """Return NVIDIA's own, which builds itself from a checkout that the user brings."""
    sys.path.insert(0, str(folder))
    from torch_utils.ops import bias_act as theirs  # type: ignore[import-not-found]

    return lambda x, bias: theirs.bias_act(x, bias, act="lrelu", clamp=256.0)  # type: ignore[no-any-return]


def milliseconds(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Time each of some calls; all of them in one go, in shuffled order."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        for _ in range(3):
            run()
        times[name].clear()
    for _ in range(RUNS):
        for name in random.sample(list(runs), len(runs)):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            runs[name]()
            stop.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(stop))
    return {name: statistics.median(values) for name, values in times.items()}


def measure(
    sides: dict[str, Call], dtype: torch.dtype, layout: torch.memory_format
) -> dict[str, dict[str, float]]:
    """Return pass → side → GB/s."""
    x = torch.randn(SHAPE, device="cuda", dtype=dtype).contiguous(memory_format=layout)
    bias = torch.randn(SHAPE[1], device="cuda", dtype=dtype)
    target, size = torch.empty_like(x), x.numel() * x.element_size()
    forward: dict[str, Callable[[], Any]] = {"copy": lambda: target.copy_(x)}
    backward: dict[str, Callable[[], Any]] = dict(forward)
    for name, side in sides.items():
        with torch.no_grad():
            forward[name] = lambda side=side: side(x, bias)  # type: ignore[misc]
            torch.testing.assert_close(side(x, bias), eager(x, bias), rtol=2e-2, atol=2e-2)
        leaf = x.detach().requires_grad_()
        y, dy = side(leaf, bias), torch.randn_like(x)
        backward[name] = lambda y=y, leaf=leaf, dy=dy: torch.autograd.grad(  # type: ignore[misc]
            y, leaf, dy, retain_graph=True
        )
    moved = {"forward": 2 * size, "backward": 3 * size}
    found = {}
    for name, runs in (("forward", forward), ("backward", backward)):
        with torch.no_grad() if name == "forward" else torch.enable_grad():
            taken = milliseconds(runs)
        found[name] = {
            side: (2 * size if side == "copy" else moved[name]) / value / 1e6
            for side, value in taken.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plugin", type=Path, help="checkout of a repository with torch_utils")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this needs a CUDA device")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {list(SHAPE)}")
    print(f"kernels: {extension.state(extension.CUDA)}")
    assert compiled.can_run(torch.zeros(1, 1, device="cuda"), None, 0.2)
    sides: dict[str, Call] = {"ganc": ours, "eager": eager, "compile": torch.compile(eager)}
    if given.plugin:
        sides["plugin"] = plugin(given.plugin)
    print(
        "| type | layout | pass | copy GB/s | "
        + " | ".join(f"{n} GB/s" for n in sides)
        + " | of copy |"
    )
    print("|---" * (len(sides) + 5) + "|")
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    for dtype, layout in itertools.product(dtypes, layouts):
        for name, row in measure(sides, dtype, layouts[layout]).items():
            numbers = " | ".join(f"{row[side]:.0f}" for side in ("copy", *sides))
            share = row["ganc"] / row["copy"]
            print(f"| {str(dtype)[6:]} | {layout} | {name} | {numbers} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
