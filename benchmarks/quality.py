"""Is ganc better than the papers? Its best students beside those of the published settings.

Students of the embedded face teacher, all at the same MACs, trained on the same real images, three
seeds. "published" is DCP-GAN's official command as ``dcp-published`` has it; "stylekd" has its loss
weights, in ganc's way; "ganc" is ``distill``'s own recipe, to which the study of settings led.

    python benchmarks/quality.py -o out --data faces32.zip                  # every arm, 300 steps
    python benchmarks/quality.py -o out --data faces32.zip --study decisive --steps 300 1000 3000
    python benchmarks/quality.py -o out --data faces32.zip --study settings # one thing at a time
    python benchmarks/quality.py -o out --table

``--jobs 12 --device cuda --cuda-graphs`` runs many at once on one GPU. See ``arms`` for how an
interrupted table goes on.
"""

import argparse
import sys
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from arms import (
    EFFNET,
    Bench,
    Start,
    Subject,
    Training,
    add_options,
    measure_all,
    results,
    runs,
    start_path,
    table,
)

import ganc

FITTED = {"refit": True, "refit_steps": 3000}
DIVERSITY = {"method": "diversity", "samples": 1000}
REBUILD = {"method": "rebuild"}
SMALLER = {"20x": 2.15e6, "50x": 0.86e6}
"""MACs where even less is left."""
STARTS = {
    "random": Start({"method": "random"}),
    "l1-out": Start({"method": "l1-out"}),
    "content": Start({"method": "content", "samples": 1000}),
    "diversity": Start(DIVERSITY),
    "fitted": Start(REBUILD, FITTED),
    "fitted for longer": Start(REBUILD, {**FITTED, "refit_steps": 10_000}),
    **{f"diversity {name}": Start(DIVERSITY, macs=macs) for name, macs in SMALLER.items()},
    **{f"fitted {name}": Start(REBUILD, FITTED, macs=macs) for name, macs in SMALLER.items()},
}
STYLEKD = Training("stylekd", on_real=True)
PUBLISHED = Training("dcp-published", init="pruned", on_real=True)
FROM_RANDOM = Training("dcp-published", on_real=True)
GANC = Training("ganc", on_real=True)
EAGER = Training("ganc", {"adversarial_weight": 3}, on_real=True)


def setting(**overrides: Any) -> tuple[str, Training]:
    """Return an arm that differs from ``stylekd`` in some numbers."""
    return "fitted", Training("stylekd", overrides, on_real=True)


SETTINGS: dict[str, tuple[str, Training]] = {
    "stylekd": ("fitted", STYLEKD),
    "fitted for longer": ("fitted for longer", STYLEKD),
    "on the teacher's images": ("fitted", Training("stylekd")),
    "effnet-lite0": setting(**EFFNET),
    "lpips-alex": setting(perceptual="lpips-alex"),
    "mirror": setting(mirror=True),
    "mirror, latent direction 100": setting(mirror=True, latent_direction_weight=100),
    "latent direction 100": setting(latent_direction_weight=100),
    "no latent direction": setting(latent_direction_weight=0),
    "fresh noise": setting(noise="fresh"),
    "terms on w + offset": setting(compared="both"),
    "no discriminator": setting(adversarial_weight=0),
    "adversarial 0.3": setting(adversarial_weight=0.3),
    "adversarial 3": setting(adversarial_weight=3),
    "perceptual 10": setting(perceptual_weight=10),
    "l1 0": setting(l1_weight=0),
    "no path length": setting(pl_weight=0),
    "random discriminator": setting(discriminator_start="random"),
    "R1 1": setting(r1_gamma=1),
    "lr 0.0005": setting(lr=0.0005),
    "lr 0.001": setting(lr=0.001),
    "lr 0.004": setting(lr=0.004),
    "lr falls": setting(lr_decay=1),
    "lr 0.004, falls": setting(lr=0.004, lr_decay=1),
    "warm-up of 30 steps": setting(lr_warmup=30),
    "longer average": setting(ema_rampup=0.2),
    "shorter average": setting(ema_rampup=0.02),
    "ADA": setting(augment="ada"),
}
"""One thing at a time, after a fit."""


def against_published(fitted: str, sliced: str) -> dict[str, tuple[str, Training]]:
    """Return the arms of a comparison, by the starts of either side."""
    return {
        f"{sliced}, published": (sliced, PUBLISHED),
        f"{fitted}, stylekd": (fitted, STYLEKD),
        f"{fitted}, ganc": (fitted, GANC),
        f"{fitted}, ganc with adversarial 3": (fitted, EAGER),
    }


STUDIES: dict[str, dict[str, tuple[str, Training]]] = {
    "settings": SETTINGS,
    "decisive": {
        "random weights, published": ("diversity", FROM_RANDOM),
        **against_published("fitted", "diversity"),
    },
    "arms": {
        f"{start}, {name}": (start, training)
        for start in ("random", "l1-out", "content", "diversity", "fitted")
        for name, training in (
            ("published", PUBLISHED),
            ("stylekd", STYLEKD),
            ("ganc", GANC),
        )
    },
    "smaller": {
        name: arm
        for size in SMALLER
        for name, arm in against_published(f"fitted {size}", f"diversity {size}").items()
    },
}
METRICS = (
    "fd", "lpips-diversity", "irs", "irs-kept", "precision", "recall", "perceptual", "l1",
)  # fmt: skip


def make_bench(given: argparse.Namespace, package: Path) -> Bench:
    """Return the table of the package's face teacher."""
    real = given.data or package / "faces32-real.zip"
    means = {"device": given.device, "precision": given.precision, "cuda_graphs": given.cuda_graphs}
    subject = Subject(ganc.load(package / "faces32.safetensors"), real, METRICS, given.samples)
    return Bench(given.out, "quality", STARTS, STUDIES[given.study], subject, given.figures, means)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=STUDIES, default="arms")
    parser.add_argument("--arms", nargs="+", help="of the study; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", help="of training")
    parser.add_argument("--cuda-graphs", action="store_true", help="in training")
    add_options(parser)
    return parser.parse_args()


def main() -> int:
    given = parse()
    given.out.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    arms = STUDIES[given.study]
    chosen = given.arms or list(arms)
    failed = 0
    if not given.table:
        with resources.as_file(resources.files("ganc.showcase")) as package:
            make = partial(make_bench, given, package)
            make().measure_teacher()
            wanted = list(runs(chosen, given.seeds, given.steps))
            if given.jobs > 1:  # a start that two arms share is made once
                starts = list(dict.fromkeys(arms[arm][0] for arm in chosen))
                missing = (
                    r
                    for r in runs(starts, given.seeds, [0])
                    if not start_path(given.out, r).exists()
                )
                wanted = [*missing, *wanted]
            failed = measure_all(make, wanted, given.jobs)
    print(*table(results(given.out), [*STARTS, *arms], METRICS), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
