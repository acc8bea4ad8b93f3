"""The table of metrics. A new one is a row here and a function that starts its measurement."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, NamedTuple

from ganc.errors import UsageError, unknown_name
from ganc.evaluation import (
    complexity,
    diversity,
    frechet,
    latency,
    memory,
    miou,
    ppl,
    projection,
    retrieval,
    sets,
)
from ganc.evaluation.paired import PairedMean
from ganc.evaluation.target import TargetMean
from ganc.evaluation.task import Measurement, Task
from ganc.perceptual.manifold import NAMES as MANIFOLD
from ganc.values import bounds

Needs = Literal["nothing", "teacher", "reference", "data", "target", "labels"]
"""Beside the model: nothing; its teacher; real images or else the teacher; real images; the ground
truth of a translator's inputs; their labels and what finds labels in translations."""

_MISSING: dict[Needs, tuple[str, str]] = {
    "teacher": ("no teacher to compare with", "pass --teacher CKPT"),
    "reference": (
        "neither real images nor a teacher to compare with",
        "pass --data with real images, or --teacher CKPT",
    ),
    "data": ("no real images to look for", "pass --data with a folder or zip of images"),
    "target": (
        "no ground truth to compare with",
        "pass --target with the image that each of --input should become",
    ),
    "labels": (
        "no labels, or nothing that finds classes in translations",
        "pass --segmenter module:function, and --labels with a folder or zip of PNGs",
    ),
}
"""What is missing, and what brings it."""


class Metric(NamedTuple):
    """A row of the table.

    Attributes:
        start: Makes the measurement for a task.
        needs: What must be there beside the model.
        extras: Values that come with it, beside the one under its own name.
        beside_teacher: The metric that joins it where there is a teacher.
    """

    start: Callable[[Task], Measurement]
    needs: Needs = "nothing"
    extras: tuple[str, ...] = ()
    beside_teacher: str | None = None


METRICS: dict[str, Metric] = {
    "macs": Metric(complexity.macs),
    "macs_published": Metric(complexity.macs_published),
    "params": Metric(complexity.params),
    "latency": Metric(latency.Eager, extras=latency.extras("latency")),
    **{
        f"latency-{name}": Metric(
            partial(latency.Latency, runtime=name), extras=latency.extras(f"latency-{name}")
        )
        for name in ("compile", "onnx", "openvino")
    },
    "speedup": Metric(latency.Speedup, "teacher"),
    "memory": Metric(memory.Memory, extras=memory.EXTRAS),
    "l1": Metric(PairedMean.l1, "teacher"),
    "psnr": Metric(PairedMean.psnr, "teacher"),
    "lpips": Metric(PairedMean.lpips, "teacher"),
    "perceptual": Metric(PairedMean.perceptual, "teacher"),
    "lpips-diversity": Metric(diversity.lpips_diversity, extras=("lpips-diversity-ci95",)),
    "perceptual-diversity": Metric(
        diversity.perceptual_diversity,
        extras=("perceptual-diversity-ci95",),
    ),
    "l1-target": Metric(TargetMean.l1, "target"),
    "psnr-target": Metric(TargetMean.psnr, "target"),
    "lpips-target": Metric(TargetMean.lpips, "target"),
    "perceptual-target": Metric(TargetMean.perceptual, "target"),
    "miou": Metric(miou.MeanIoU, "labels", extras=("miou-accuracy",)),
    "projection": Metric(projection.projection, "data", extras=("projection-psnr",)),
    "perceptual-projection": Metric(
        projection.perceptual_projection, "data", extras=("perceptual-projection-psnr",)
    ),
    "ppl": Metric(ppl.ppl, extras=("ppl-undivided",)),
    "perceptual-ppl": Metric(ppl.perceptual_ppl, extras=("perceptual-ppl-undivided",)),
    "ppl-fresh-noise": Metric(ppl.ppl_fresh_noise),
    "fid": Metric(frechet.fid, "reference"),
    "fd": Metric(frechet.fd, "reference"),
    "kid": Metric(sets.kid, "reference"),
    "kd": Metric(sets.kd, "reference"),
    **{name: Metric(partial(sets.Manifold, name=name), "reference") for name in MANIFOLD},
    "irs": Metric(retrieval.irs, "reference", ("irs-inf", *bounds("irs-inf")), "irs-kept"),
    "irs-kept": Metric(retrieval.irs_kept, "teacher", bounds("irs-kept")),
    "vendi": Metric(diversity.Vendi),
}


def value_names() -> dict[str, str]:
    """Return value name → the metric it comes from."""
    return {value: name for name, metric in METRICS.items() for value in (name, *metric.extras)}


def of_teacher(names: Iterable[str], *, has_data: bool) -> list[str]:
    """Return the metrics that a teacher has by itself: those that do not compare with it."""
    return [
        name
        for name in names
        if METRICS[name].needs != "teacher" and (has_data or METRICS[name].needs != "reference")
    ]


def check_metrics(
    names: Iterable[str],
    *,
    has_teacher: bool,
    has_data: bool,
    has_target: bool = False,
    has_labels: bool = False,
) -> list[str]:
    """Check names and needs before anything is loaded.

    Returns:
        The names without repetition, in the order given, each followed by what joins it.
    Raises:
        UsageError: A name is unknown, or there is nothing to compare with.
    """
    asked = list(dict.fromkeys(names))
    for name in asked:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    joined = [(name, METRICS[name].beside_teacher if has_teacher else None) for name in asked]
    chosen = list(dict.fromkeys(name for pair in joined for name in pair if name is not None))
    is_there: dict[Needs, bool] = {
        "teacher": has_teacher, "reference": has_teacher or has_data, "data": has_data,
        "target": has_target, "labels": has_labels,
    }  # fmt: skip
    for need, (missing, hint) in _MISSING.items():
        lacking = [name for name in chosen if METRICS[name].needs == need and not is_there[need]]
        if lacking:
            raise UsageError(f"{', '.join(lacking)}: {missing}", hint)
    return chosen
