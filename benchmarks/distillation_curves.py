"""What to expect of a run: the Fréchet distance over the steps of every StyleGAN recipe.

One student, pruned from the embedded face teacher, is distilled by ``gan``, ``cagan`` and
``stylekd`` with the same seed, and evaluated along the way against the 1 000 real images that the
package carries. Draws ``docs/distillation-curves.png``; needs the extras ``offline`` and ``plot``.

    python benchmarks/distillation_curves.py --steps 300 --out docs/distillation-curves.png
"""

import argparse
import json
import tempfile
from importlib import resources
from pathlib import Path

import matplotlib.pyplot as plt

import ganc
from ganc.distillation.evaluations import EvalRequest

RECIPES = ("gan", "cagan", "stylekd")
PERCEPTUAL = {"perceptual": "effnet-lite0", "perceptual_resolution": 64}


def curve(recipe: str, steps: int, eval_every: int, samples: int) -> list[dict[str, float]]:
    """Distill by a recipe; return its evaluations, ``step`` and ``fd``."""
    with (
        resources.as_file(resources.files("ganc.showcase")) as carried,
        tempfile.TemporaryDirectory() as folder,
    ):
        teacher = ganc.load(carried / "faces32.safetensors")
        scores = ganc.score(teacher, "diversity", samples=250)
        student = ganc.prune(teacher, scores, speedup=10)
        real = carried / "faces32-real.zip"

        def evaluate(request: EvalRequest) -> dict[str, float]:
            found = ganc.evaluate(request.student, ["fd"], data=real, samples=samples)
            return dict(found["metrics"])

        run = Path(folder) / "run"
        ganc.distill(
            student, teacher, run, steps=steps, recipe=recipe, evaluate=evaluate,
            eval_every=eval_every, overrides=PERCEPTUAL if recipe != "gan" else None,
        )  # fmt: skip
        lines = (run / "evaluations.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def draw(curves: dict[str, list[dict[str, float]]], teacher: float, out: Path) -> None:
    """Draw fd over steps, the teacher's as a line."""
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for recipe, points in curves.items():
        axes.plot([p["step"] for p in points], [p["fd"] for p in points], marker="o", label=recipe)
    axes.axhline(teacher, color="grey", linestyle="--", label="teacher")
    axes.set(xlabel="steps of 16 images", ylabel="fd (effnet-lite0), lower is better", yscale="log")
    axes.legend(frameon=False)
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--eval-every", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    curves = {}
    for recipe in RECIPES:
        curves[recipe] = curve(recipe, arguments.steps, arguments.eval_every, arguments.samples)
        shown = "  ".join(f"{p['step']}: {p['fd']:.1f}" for p in curves[recipe])
        print(f"{recipe:8s} {shown}", flush=True)
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        teacher = ganc.evaluate(
            ganc.load(carried / "faces32.safetensors"), ["fd"],
            data=carried / "faces32-real.zip", samples=arguments.samples,
        )["metrics"]["fd"]  # fmt: skip
    print(f"teacher  {teacher:.1f}")
    draw(curves, teacher, arguments.out)


if __name__ == "__main__":
    main()
