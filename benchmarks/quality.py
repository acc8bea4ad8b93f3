"""Is ganc better than the papers? Its best students beside those of the published settings.

Students of the embedded face teacher, all at the same MACs, trained on the same real images, three
seeds. "published" is DCP-GAN's official command as ``dcp-published`` has it; "default" is
``distill``'s own recipe; "best" is what the study of single settings leads to.

    python benchmarks/quality.py -o out --data faces32.zip                  # every arm, 300 steps
    python benchmarks/quality.py -o out --data faces32.zip --study decisive --steps 300 1000 3000
    python benchmarks/quality.py -o out --data faces32.zip --study settings # one thing at a time
    python benchmarks/quality.py -o out --table

See ``arms`` for how an interrupted table goes on.
"""

import argparse
from importlib import resources
from typing import Any

import torch
from arms import EFFNET, Bench, Start, Training, add_options, results, runs, table

import ganc

FITTED = {"refit": True, "refit_steps": 3000}
STARTS = {
    "random": Start({"method": "random"}),
    "l1-out": Start({"method": "l1-out"}),
    "content": Start({"method": "content", "samples": 1000}),
    "diversity": Start({"method": "diversity", "samples": 1000}),
    "fitted": Start({"method": "rebuild"}, FITTED),
}
DEFAULT = Training(overrides=EFFNET, on_real=True)
PUBLISHED = Training("dcp-published", init="pruned", on_real=True)
FROM_RANDOM = Training("dcp-published", on_real=True)


def setting(**overrides: Any) -> tuple[str, Training]:
    """Return an arm that differs from the default in some numbers."""
    return "fitted", Training(overrides=EFFNET | overrides, on_real=True)


SETTINGS: dict[str, tuple[str, Training]] = {
    "default": ("fitted", DEFAULT),
    "on the teacher's images": ("fitted", Training(overrides=EFFNET)),
    "fresh noise": setting(noise="fresh"),
    "lr 0.001": setting(lr=0.001),
    "lr 0.0005": setting(lr=0.0005),
    "no latent direction": setting(latent_direction_weight=0),
    "latent direction 100": setting(latent_direction_weight=100),
    "mirror": setting(mirror=True),
    "lpips-vgg": setting(perceptual="lpips-vgg", perceptual_resolution=0),
    "lpips-alex": setting(perceptual="lpips-alex", perceptual_resolution=0),
    "no discriminator": setting(adversarial_weight=0),
    "adversarial 0.3": setting(adversarial_weight=0.3),
    "perceptual 10": setting(perceptual_weight=10),
    "no path length": setting(pl_weight=0),
    "terms on w + offset": setting(compared="both"),
    "lr falls": setting(lr_decay=1),
    "lr falls over the second half": setting(lr_decay=0.5),
    "warm-up of 30 steps": setting(lr_warmup=30),
    "lr 0.004, falls": setting(lr=0.004, lr_decay=1),
    "longer average": setting(ema_rampup=0.2),
}
"""One thing at a time, after a fit."""

STUDIES: dict[str, dict[str, tuple[str, Training]]] = {
    "settings": SETTINGS,
    "decisive": {
        "published, random": ("diversity", FROM_RANDOM),
        "published, sliced": ("diversity", PUBLISHED),
        "fitted, default": ("fitted", DEFAULT),
    },
    "arms": {
        f"{start}, {name}": (start, training)
        for start in STARTS
        for name, training in (("published", PUBLISHED), ("default", DEFAULT))
    },
}
METRICS = (
    "fd", "lpips-diversity", "irs", "irs-kept", "precision", "recall", "perceptual", "l1",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=STUDIES, default="arms")
    parser.add_argument("--arms", nargs="+", help="of the study; default: all")
    add_options(parser)
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    arms = STUDIES[given.study]
    chosen = given.arms or list(arms)
    with resources.as_file(resources.files("ganc.showcase")) as carried:
        if not given.table:
            teacher = ganc.load(carried / "faces32.safetensors")
            real = given.data or carried / "faces32-real.zip"
            bench = Bench(
                given.out, "quality", STARTS, arms, METRICS, teacher, real, given.samples,
                given.figures,
            )  # fmt: skip
            bench.measure_teacher()
            for run in runs(chosen, given.seeds, given.steps):
                bench.measure(run)
    print(*table(results(given.out), [*STARTS, *arms], METRICS), sep="\n")


if __name__ == "__main__":
    main()
