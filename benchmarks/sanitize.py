"""Every kernel once, on small tensors of awkward sizes, for NVIDIA's compute-sanitizer.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python benchmarks/sanitize.py
    compute-sanitizer --tool racecheck python benchmarks/sanitize.py

Without torch's caching every tensor ends where its memory ends, so that a read beyond it shows.
"""

import argparse
import itertools
from functools import partial

import torch

from ganc.ops.bias_act import bias_act
from ganc.ops.filtered_lrelu import filtered_lrelu
from ganc.ops.upfirdn2d import setup_filter, upfirdn2d

SHAPES = [(2, 24, 32, 33), (3, 40, 16, 16), (1, 8, 64, 64), (5, 520, 3, 1), (2, 7, 5, 5)]
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
LAYOUTS = (torch.contiguous_format, torch.channels_last)

SIDES = [(38, 38), (54, 45), (27, 70)]
RESAMPLINGS = (
    (12, 12, {"up": 2, "down": 2, "padding": (9, 8)}),  # StyleGAN3's two kinds
    (24, 12, {"up": 4, "down": 2, "padding": (-6, -9)}),
    (5, 9, {"up": 1, "down": 4, "padding": (7, 2)}),
)


def run_bias_act(device: torch.device) -> int:
    """Call value, first and second derivative of every case; return how many calls there were."""
    calls = 0
    for shape, dtype, layout in itertools.product(SHAPES, DTYPES, LAYOUTS):
        draw = partial(torch.randn, device=device, dtype=dtype)
        x, dy = (draw(shape).contiguous(memory_format=layout).requires_grad_() for _ in range(2))
        bias = draw(shape[1]).requires_grad_()
        for act in ("lrelu", "swish"):
            y = bias_act(x, bias, act=act, clamp=1.5)
            first = torch.autograd.grad(y, (x, bias), dy, create_graph=True)
            torch.autograd.grad(sum(part.sum() for part in first), dy)
            calls += 1
    return calls


def run_filtered_lrelu(device: torch.device) -> int:
    """Do the same for the filtered leaky ReLU."""
    calls = 0
    for sides, dtype, (up_taps, down_taps, how) in itertools.product(SIDES, DTYPES, RESAMPLINGS):
        draw = partial(torch.randn, device=device, dtype=dtype)
        x, bias = draw(2, 3, *sides).requires_grad_(), draw(3).requires_grad_()
        filters = [torch.randn(taps, device=device) / taps**0.5 for taps in (up_taps, down_taps)]
        y = filtered_lrelu(x, bias, *filters, clamp=1.5, **how)
        dy = torch.randn_like(y).requires_grad_()
        first = torch.autograd.grad(y, (x, bias), dy, create_graph=True)
        torch.autograd.grad(sum(part.sum() for part in first), dy)
        calls += 1
    return calls


def run_upfirdn2d(device: torch.device) -> int:
    """Call StyleGAN2's filter and its derivative, which is the same kernel."""
    calls, kernel = 0, setup_filter((1, 3, 3, 1)).to(device)
    for dtype, layout, (up, down) in itertools.product(DTYPES, LAYOUTS, ((1, 1), (2, 1), (1, 2))):
        x = torch.randn(2, 24, 17, 33, device=device, dtype=dtype).contiguous(memory_format=layout)
        y = upfirdn2d(x.requires_grad_(), kernel, up=up, down=down, padding=(2, 1))
        torch.autograd.grad(y.sum(), x)
        calls += 1
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    device = torch.device(given.device)
    runs = (run_bias_act, run_filtered_lrelu, run_upfirdn2d)
    print(f"{sum(run(device) for run in runs)} cases ran")


if __name__ == "__main__":
    main()
