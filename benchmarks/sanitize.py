"""Every CUDA kernel once, on small tensors of awkward sizes, for NVIDIA's compute-sanitizer.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python benchmarks/sanitize.py
    compute-sanitizer --tool racecheck python benchmarks/sanitize.py

Without torch's caching every tensor ends where its memory ends, so that a read beyond it shows.
"""

import argparse
import itertools
from functools import partial

import torch

from ganc.ops.bias_act import bias_act

SHAPES = [(2, 24, 32, 33), (3, 40, 16, 16), (1, 8, 64, 64), (5, 520, 3, 1), (2, 7, 5, 5)]
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def run(device: torch.device) -> int:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    print(f"{run(torch.device(given.device))} cases ran")


if __name__ == "__main__":
    main()
