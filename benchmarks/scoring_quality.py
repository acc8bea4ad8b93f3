"""Does the choice of channels matter? Methods side by side on the embedded face teacher.

Every arm prunes to the same MACs, distills the same number of steps with the same seed, and is
measured against the same real images; LPIPS is AlexNet's (extra ``offline``), perceptual is
effnet-lite0.

    python benchmarks/scoring_quality.py --steps 300 --seeds 0 1 2
"""

import argparse
import tempfile
from importlib import resources
from pathlib import Path

import ganc

SPEEDUP = 10.9
METRICS = (
    "fd", "lpips-diversity", "perceptual-diversity", "recall", "l1", "lpips", "perceptual",
)  # fmt: skip
METHODS = ("random", "l1-out", "content", "diversity")
TEACHER = "teacher"
"""An arm that is measured as it is."""
SETTINGS = {"diversity": {"samples": 1000}, "content": {"samples": 1000}}


def arm(method: str, recipe: str, steps: int, seed: int, carried: Path) -> dict[str, float]:
    """Return what a student is worth, or the teacher itself."""
    teacher = ganc.load(carried / "faces32.safetensors")
    measured = teacher if method == TEACHER else student(teacher, method, recipe, steps, seed)
    result = ganc.evaluate(
        measured, METRICS, teacher=teacher, data=carried / "faces32-real.zip", samples=1000
    )
    return dict(result["metrics"])


def student(teacher: ganc.Model, method: str, recipe: str, steps: int, seed: int) -> ganc.Model:
    """Prune by a method and distill."""
    scores = ganc.score(teacher, method, seed=seed, **SETTINGS.get(method, {}))
    pruned = ganc.prune(teacher, scores, speedup=SPEEDUP)
    overrides = {"perceptual": "effnet-lite0", "perceptual_resolution": 64}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        ganc.distill(
            pruned, teacher, run, steps=steps, seed=seed, recipe=recipe,
            overrides=overrides if recipe == "stylekd" else None,
        )  # fmt: skip
        return ganc.load(run / "student.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    parser.add_argument("--recipe", default="stylekd")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    print(f"{SPEEDUP}x fewer MACs, {arguments.recipe}, {arguments.steps} steps", flush=True)
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        for method in arguments.methods:
            for seed in arguments.seeds:
                values = arm(method, arguments.recipe, arguments.steps, seed, carried)
                shown = "  ".join(f"{name} {values[name]:.4g}" for name in METRICS)
                print(f"{method:10s} seed {seed}  {shown}", flush=True)


if __name__ == "__main__":
    main()
