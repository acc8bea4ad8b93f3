"""Memory and time of an evaluation over the number of samples.

    python benchmarks/evaluation_scale.py student.safetensors --data faces.zip

One process per count measures distances between sets and the manifold metrics, which need every
feature vector at once; these lie on disk. Printed: peak resident memory of the process (the
interpreter, torch and the networks included), and seconds. Needs a platform with ``resource``.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

METRICS = ("fd", "kd", "precision", "recall", "density", "coverage")


def measure(ckpt: str, data: str, samples: int, features: str, device: str) -> dict[str, float]:
    """Evaluate once in this process."""
    import ganc

    start = time.perf_counter()
    result = ganc.evaluate(
        ganc.load(ckpt), METRICS, data=data, samples=samples, features=features, device=device
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
    taken = time.perf_counter() - start
    return {"peak": peak, "seconds": taken, **result["metrics"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ckpt")
    parser.add_argument("--data", required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000, 10_000, 50_000])
    parser.add_argument("--features", default="effnet-lite0")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.ckpt, given.data, given.one, given.features, given.device)))
        return
    print("| samples | peak memory | seconds | " + " | ".join(METRICS) + " |")
    print("|---" * (len(METRICS) + 3) + "|")
    for count in given.counts:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", str(count)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(output)
        values = " | ".join(f"{row[name]:.4g}" for name in METRICS)
        peak = f"{row['peak'] / 2**30:.2f} GiB"
        print(f"| {count} | {peak} | {row['seconds']:.0f} | {values} |", flush=True)


if __name__ == "__main__":
    main()
