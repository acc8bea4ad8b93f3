"""``ganc.evaluate``: metrics of a model, alone, against its teacher, against real images."""

import copy
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL
import torch

from ganc.data.dataset import ImageDataset, open_dataset
from ganc.devices import resolve_device
from ganc.errors import ComputationError, InputError
from ganc.evaluation.metrics import METRICS, check_metrics
from ganc.evaluation.requirements import Requirement, check_of_teacher, parse_requirement
from ganc.evaluation.sampling import Sampler, iterate_batches
from ganc.evaluation.task import Measurement, Networks, Settings, Task, latent_generator
from ganc.models.model import Model
from ganc.progress import Progress, Warn, ignore, silent
from ganc.version import __version__

DEFAULT_METRICS = ("macs", "params", "latency")
DEFAULT_WITH_TEACHER = (*DEFAULT_METRICS, "l1", "psnr")


@dataclass(frozen=True)
class Plan:
    """What an evaluation measures.

    Attributes:
        metrics: Of the model: those asked for and those that a requirement speaks of.
        teacher_metrics: Of the teacher, as a requirement's bound.
        requirements: To be checked at the end.
    """

    metrics: list[str]
    teacher_metrics: list[str]
    requirements: list[Requirement]


def make_plan(
    metrics: Iterable[str] | None, require: Iterable[str], *, has_teacher: bool, has_data: bool
) -> Plan:
    """Check everything that can be checked without opening a file.

    Args:
        metrics: Names; None takes cheap ones that always work, or, where ``require`` is given,
            just what that needs.
        require: Conditions, see ``requirements``.
    Raises:
        UsageError: A name is unknown, a condition does not parse, or there is no teacher, or no
            real images, for what needs them.
    """
    requirements = [parse_requirement(text) for text in require]
    if metrics is None and not requirements:
        metrics = DEFAULT_WITH_TEACHER if has_teacher else DEFAULT_METRICS
    wanted = [*(metrics or ()), *(requirement.metric for requirement in requirements)]
    names = check_metrics(wanted, has_teacher=has_teacher, has_data=has_data)
    relative = [requirement for requirement in requirements if requirement.of_teacher]
    for requirement in relative:
        check_of_teacher(requirement, has_teacher=has_teacher, has_data=has_data)
    teacher_names = list(dict.fromkeys(requirement.metric for requirement in relative))
    return Plan(names, teacher_names, requirements)


def evaluate(
    model: Model,
    metrics: Sequence[str] | None = None,
    *,
    teacher: Model | None = None,
    data: str | os.PathLike[str] | None = None,
    require: Sequence[str] = (),
    samples: int = 2000,
    seed: int = 0,
    batch: int = 32,
    device: str | torch.device = "auto",
    truncation_psi: float = 1.0,
    noise_mode: str = "random",
    features: str = "effnet-lite0",
    perceptual: str = "lpips-alex",
    resize: bool = False,
    offline: bool = False,
    progress: Progress = silent,
    warn: Warn = ignore,
) -> dict[str, Any]:
    """Measure a model.

    Sample i depends only on (seed, i); student and teacher share latents, labels and noise. All
    metrics share one pass over the samples, and nothing grows with their number.

    Args:
        model: To be measured; it is left as it is, also where another device is asked for.
        metrics: Names in ``METRICS``; None takes cheap ones (see ``make_plan``).
        teacher: What ``l1``, ``psnr``, ``lpips`` and ``perceptual`` compare with, and, without
            ``data``, ``fid`` and ``fd`` as well.
        data: Folder or data-set zip of real images of the model's size; a broken one is an error.
        require: Conditions such as ``fd<=1.2*teacher`` (see ``requirements``).
        samples, seed, batch, truncation_psi, noise_mode, features, perceptual, offline: See
            ``Settings``.
        device: Where networks and models run.
        resize: Scale real images of another size instead of refusing them.
        progress: Told how far each pass is.
        warn: Told what makes a number doubtful.
    Returns:
        JSON data: "metrics" {name: number}, "settings" (the protocol of every number), and
        "requirements" [{expr, value, bound, met}] with the "teacher_metrics" they refer to.
    Raises:
        UsageError: See ``make_plan`` and ``Settings``.
        InputError: Teacher or data do not fit the model; data or weights are missing or broken.
        ComputationError: A sample or a value is not finite.
    """
    plan = make_plan(metrics, require, has_teacher=teacher is not None, has_data=data is not None)
    settings = Settings(samples, seed, batch, truncation_psi, noise_mode, features, perceptual,
                        offline)  # fmt: skip
    where = resolve_device(device)
    if teacher is not None:
        check_pair(model, teacher)
        teacher = _own_copy(teacher, where)
    dataset = None if data is None else _open_data(data, model, resize)
    networks = Networks(where, offline, progress)
    task = Task(_own_copy(model, where), teacher, dataset, settings, networks, progress, warn)
    values, protocols = _measure(task, plan.metrics)
    teacher_values: dict[str, float] = {}
    if plan.teacher_metrics:
        teacher_values, _ = _measure(task.of_teacher(), plan.teacher_metrics)
    return {
        "metrics": values,
        "settings": _describe(task, protocols),
        "requirements": [row.check(values, teacher_values) for row in plan.requirements],
        "teacher_metrics": teacher_values,
    }


def check_pair(model: Model, teacher: Model) -> None:
    """Check that the same latents make comparable images.

    Raises:
        InputError: Sizes of latents, labels or images differ.
    """
    ours, theirs = latent_generator(model, "the model"), latent_generator(teacher, "the teacher")
    for name in ("z_dim", "c_dim", "img_resolution", "img_channels"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine != other:
            raise InputError(
                f"the teacher's {name} is {other}, the model's is {mine}",
                "a model and its teacher share latents, labels and image size",
            )


def _open_data(path: str | os.PathLike[str], model: Model, resize: bool) -> ImageDataset:
    generator = latent_generator(model, "the model")
    dataset = open_dataset(
        path, resolution=generator.img_resolution, channels=generator.img_channels, resize=resize
    )
    dataset.image(0)  # images of another size are found now, not after the networks are loaded
    return dataset


def _own_copy(model: Model, device: torch.device) -> Model:
    """Return a copy on a device, in eval mode; the caller's model stays where and as it is."""
    own = copy.deepcopy(model).to(device)
    for _, network in own.networks():
        network.eval()
    return own


def _measure(task: Task, names: Sequence[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return values and protocols of some metrics of the task's model."""
    measurements = {name: METRICS[name].start(task) for name in names}
    for measurement in measurements.values():
        measurement.prepare()
    _feed(task, list(measurements.values()))
    values: dict[str, float] = {}
    for measurement in measurements.values():
        values |= measurement.result()
    _check_finite(values)
    return values, {name: measurement.protocol() for name, measurement in measurements.items()}


@torch.no_grad()
def _feed(task: Task, measurements: Sequence[Measurement]) -> None:
    """Make one pass over the samples, as far as each measurement wants to see them."""
    limits = [measurement.num_images for measurement in measurements]
    last = max(limits, default=0)
    if not last:
        return
    paired = [measurement.num_images for measurement in measurements if measurement.uses_teacher]
    batches = iterate_batches(
        _sampler(task, task.model, "the model"),
        None if task.teacher is None else _sampler(task, task.teacher, "the teacher"),
        limits=limits,
        teacher_limit=max(paired, default=0),
        batch=task.settings.batch,
    )
    for batch in batches:
        for measurement in measurements:
            if batch.indices.start < measurement.num_images:
                measurement.update(batch)
        task.progress("samples", batch.indices.stop, last)


def _sampler(task: Task, model: Model, name: str) -> Sampler:
    settings = task.settings
    generator = latent_generator(model, name)
    return Sampler(generator, settings.seed, settings.noise_mode, settings.truncation_psi, name)


def _check_finite(values: Mapping[str, float]) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise ComputationError(f"{', '.join(bad)} came out as {values[bad[0]]}, not as a number")


def _describe(task: Task, protocols: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that every number of a result carries."""
    data = task.dataset
    return {
        **asdict(task.settings),
        "device": str(task.device),
        "model": _identity(task.model),
        "teacher": None if task.teacher is None else _identity(task.teacher),
        "data": None if data is None else {
            "path": str(data.source.path), "content_hash": data.content_hash,
            "images": len(data), "resize": data.resize,
        },
        "protocols": protocols,
        "versions": {
            "ganc": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__, "pillow": PIL.__version__,
        },
    }  # fmt: skip


def _identity(model: Model) -> dict[str, str]:
    return {"architecture": model.architecture, "content_hash": model.content_hash()}
