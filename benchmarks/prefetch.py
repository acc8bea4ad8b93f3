"""Read the large libraries once, many at a time: a fresh machine's disk may be slow.

On one such machine the first training step waited 40 seconds for cuDNN's libraries.

    python benchmarks/prefetch.py
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

READERS = 32
LEAST_BYTES = 2**20
CHUNK_BYTES = 2**24


def read(path: Path) -> int:
    """Read a file to its end; return its size in bytes."""
    size = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            size += len(chunk)
    return size


def main() -> None:
    began = time.perf_counter()
    site = Path(torch.__file__).parent.parent
    places = [
        site / name for name in ("torch", "nvidia", "triton", "torchvision", "scipy", "numpy")
    ]
    files = [path for place in places for path in place.rglob("*.so*") if path.is_file()]
    large = [path for path in files if path.stat().st_size >= LEAST_BYTES]
    with ThreadPoolExecutor(READERS) as pool:
        total = sum(pool.map(read, large))
    seconds = time.perf_counter() - began
    print(f"{len(large)} files, {total / 2**30:.1f} GiB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
