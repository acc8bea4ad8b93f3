"""``ganc.evaluate``: metrics of models, alone, against their teacher, against real images."""

import math
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack, overload

import numpy as np
import PIL
import torch

from ganc.data.dataset import ImageDataset, open_dataset
from ganc.data.inputs import ImageInputs, open_source
from ganc.data.label_tables import data_labels
from ganc.devices import exact_float32, resolve_device
from ganc.errors import ComputationError, InputError, UsageError
from ganc.evaluation.metrics import METRICS, of_teacher
from ganc.evaluation.options import RECORDED, EvalOptions, EvalSettings
from ganc.evaluation.partners import open_targets
from ganc.evaluation.plan import Plan, plan_of
from ganc.evaluation.sampling import Sampler, iterate_batches
from ganc.evaluation.segmentation import open_labels, open_segmenter
from ganc.evaluation.task import SAMPLING, Measurement, Networks, Task
from ganc.models.model import Model
from ganc.models.network import ImageGenerator, LatentGenerator
from ganc.models.sampling import InputSource, Latents, pick_generator
from ganc.options import options_of
from ganc.progress import Progress, Warn, ignore, silent
from ganc.version import __version__

Result = dict[str, Any]
"""JSON data: what was measured of one model, and how."""


class EvalArguments(EvalSettings, total=False):
    """The keywords of ``evaluate``."""

    teacher: Model | None
    require: Sequence[str]
    device: str | torch.device
    teacher_values: Mapping[str, float] | None
    progress: Progress
    warn: Warn


@overload
def evaluate(
    model: Model, metrics: Sequence[str] | None = None, **arguments: Unpack[EvalArguments]
) -> Result: ...
@overload
def evaluate(
    model: Mapping[str, Model],
    metrics: Sequence[str] | None = None,
    **arguments: Unpack[EvalArguments],
) -> list[Result]: ...
def evaluate(
    model: Model | Mapping[str, Model],
    metrics: Sequence[str] | None = None,
    *,
    teacher: Model | None = None,
    require: Sequence[str] = (),
    device: str | torch.device = "auto",
    teacher_values: Mapping[str, float] | None = None,
    progress: Progress = silent,
    warn: Warn = ignore,
    **settings: Unpack[EvalSettings],
) -> Result | list[Result]:
    """Measure a model, or several in the same way.

    Sample i depends only on (seed, i), of a translator on the i-th input; student and teacher share
    all inputs. All metrics share one pass over the samples, and nothing grows with their number.

    Args:
        model: To be measured, or name → model; models are left as they are, also where another
            device is asked for.
        metrics: Names in ``METRICS``; None takes cheap ones (see ``plan.make_plan``).
        teacher: What ``l1``, ``psnr``, ``lpips`` and ``perceptual`` compare with, and, without
            ``data``, ``fid`` and ``fd`` as well. It may be one of several models: its own result
            then has the metrics that do not compare with it, and no requirements.
        require: Conditions such as ``fd<=1.2*teacher`` (see ``requirements``).
        device: Where networks and models run.
        teacher_values: What is known of the teacher from an earlier call with the same settings;
            requirements that need other values measure it, once for several models.
        progress: Told how far each pass is.
        warn: Told what makes a number doubtful.
        settings: See ``EvalOptions``.
    Returns:
        JSON data: "metrics" {name: number}, "settings" (the protocol of every number), and
        "requirements" [{expr, value, bound, met}] with the "teacher_metrics" they refer to. After
        several repeats also "std" {name: sample standard deviation} and "repeats", each one's
        values. Of several models a list of such results, in their order, with the name as
        "checkpoint".
    Raises:
        UsageError: See ``plan.make_plan`` and ``EvalOptions``; or a translator lacks the images
            that a metric needs; or there is no model beside the teacher.
        InputError: Teacher, inputs or data do not fit the model; images or weights are missing or
            broken.
        ComputationError: A sample or a value is not finite.
    """
    options = options_of(EvalOptions, settings)
    plan = plan_of(metrics, require, options, has_teacher=teacher is not None)
    open_task = partial(
        _open_task, settings=options, device=resolve_device(device),
        progress=progress, warn=warn,
    )  # fmt: skip
    known = teacher_values or {}
    if isinstance(model, Model):
        return _evaluate(open_task(model, teacher), plan, known)
    return _evaluate_several(model, teacher, plan, known, open_task)


def _check_models(models: Any, teacher: Model | None) -> None:
    """Refuse what is neither a model nor models by name.

    Raises:
        UsageError: It is something else, or there is nothing to measure.
    """
    if not isinstance(models, Mapping):
        raise UsageError(
            f"evaluate takes a model, or a dict of models by name, got a {type(models).__name__}"
        )
    if all(model is teacher for model in models.values()):
        beside = " beside the teacher" if models else ""
        raise UsageError(f"evaluate needs at least one model{beside}, got none")


def _evaluate_several(
    models: Mapping[str, Model],
    teacher: Model | None,
    plan: Plan,
    known: Mapping[str, float],
    open_task: Callable[[Model, Model | None], Task],
) -> list[Result]:
    """Measure the teacher first, if it is one of the models: requirements speak of its values."""
    _check_models(models, teacher)
    found: dict[str, Result] = {}
    for name, model in sorted(models.items(), key=lambda item: item[1] is not teacher):
        if model is teacher:
            task = open_task(model, None)
            alone = of_teacher(plan.metrics, has_data=task.dataset is not None)
            result = _evaluate(task, Plan(alone, [], []), {})
            known = {**known, **result["metrics"]}
        else:
            result = _evaluate(open_task(model, teacher), plan, known)
            known = {**known, **result["teacher_metrics"]}
        found[name] = {"checkpoint": name, **result}
    return [found[name] for name in models]


def _evaluate(task: Task, plan: Plan, teacher_values: Mapping[str, float]) -> Result:
    """Measure the task's model, and what requirements need of its teacher and is not known yet."""
    options = task.settings
    chosen = range(options.seed, options.seed + options.repeats)
    values, protocols = _measure_repeatedly(task, plan.metrics, chosen)
    known = {name: value for name, value in teacher_values.items() if name in plan.of_teacher}
    if known.keys() < plan.of_teacher:
        runs, _ = _measure_repeatedly(task.of_teacher(), plan.teacher_metrics, chosen)
        known = _means(runs)
    means = _means(values)
    spread = {} if options.repeats == 1 else {"std": _deviations(values), "repeats": values}
    return {
        "metrics": means,
        **spread,
        "settings": _describe(task, protocols) | {"repeats": options.repeats},
        "requirements": [row.check(means, known) for row in plan.requirements],
        "teacher_metrics": known,
    }


def _measure_repeatedly(
    task: Task, names: Sequence[str], chosen: range
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Return the values with each seed, and how those with the first one were measured."""
    measured = [_measure(task.with_seed(seed), names) for seed in chosen]
    return [values for values, _ in measured], measured[0][1]


def _means(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means; what is the same in every run, such as a count, stays what it is."""
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    return {
        name: values[0] if len(set(values)) == 1 else statistics.fmean(values)
        for name, values in columns.items()
    }


def _deviations(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.stdev(run[name] for run in runs) for name in runs[0]}


def _open_task(
    model: Model,
    teacher: Model | None,
    settings: EvalOptions,
    device: torch.device,
    progress: Progress,
    warn: Warn,
) -> Task:
    """Open everything that an evaluation reads; raises as ``evaluate`` does."""
    network = settings.network
    if teacher is not None:
        check_pair(pick_generator(model, network),
                   pick_generator(teacher, network, what="the teacher"))  # fmt: skip
        teacher = teacher.copy_on(device)
    source = _open_source(model, settings, warn)
    dataset = _open_data(model, settings, source, warn)
    count = None if source is None else source.count
    if count is not None and count < settings.samples:
        warn(f"--input holds {count} images, less than --samples {settings.samples}: all are taken")
    source = _with_labels(source, dataset, model, settings)
    networks = Networks(device, settings.offline, progress)
    return Task(
        model.copy_on(device), teacher, source, dataset, settings, networks, progress, warn,
        targets=None if settings.target is None else open_targets(
            settings.target, _inputs_of(source, "--target"), pick_generator(model, network), warn
        ),
        labels=None if settings.labels is None else open_labels(
            settings.labels, _inputs_of(source, "--labels"), warn
        ),
        segmenter=None if settings.segmenter is None else open_segmenter(settings.segmenter),
    )  # fmt: skip


def _with_labels(
    source: InputSource[Any] | None,
    dataset: ImageDataset | None,
    model: Model,
    settings: EvalOptions,
) -> InputSource[Any] | None:
    """Let the samples of a conditional model draw their labels from labelled real images.

    Raises:
        DataError: The labels do not fit the model.
    """
    if dataset is None or not isinstance(source, Latents):
        return source
    generator = pick_generator(model, settings.network)
    assert isinstance(generator, LatentGenerator)  # what takes latents
    return replace(source, labels=data_labels(dataset, generator.c_dim))


def _inputs_of(source: InputSource[Any] | None, flag: str) -> ImageInputs:
    """Return the images that ground truth belongs to.

    Raises:
        UsageError: There are none.
    """
    if not isinstance(source, ImageInputs):
        raise UsageError(
            f"{flag} belongs to the images of --input, got none",
            f"pass --input with images; {flag} goes with translators",
        )
    return source


def check_pair(generator: ImageGenerator, teacher: ImageGenerator) -> None:
    """Check that the same inputs make comparable images.

    Raises:
        InputError: One takes latents and the other images, or sizes differ.
    """
    ours, theirs = generator.interface(), teacher.interface()
    if ours.keys() != theirs.keys():
        raise InputError(
            f"the teacher is a {teacher.architecture}, the model a {generator.architecture}",
            "a model and its teacher take the same inputs: latents, or images",
        )
    for name, mine in ours.items():
        if mine != theirs[name]:
            raise InputError(
                f"the teacher's {name} is {theirs[name]}, the model's is {mine}",
                "a model and its teacher share the sizes of inputs and images",
            )


def _open_source(model: Model, settings: EvalOptions, warn: Warn) -> InputSource[Any] | None:
    """Return where the generator's inputs come from; None where it has none, or there is none."""
    if settings.input is None and settings.network not in dict(model.networks()):
        return None  # a discriminator alone can be counted
    generator = pick_generator(model, settings.network)
    return open_source(
        generator, latents_of(settings), settings.input, defaults=latents_of(EvalOptions()),
        resize=settings.resize, warn=warn,
    )  # fmt: skip


def latents_of(settings: EvalOptions) -> Latents:
    """Return where the inputs of a generator that takes latents come from."""
    return Latents(settings.seed, settings.noise_mode, settings.truncation_psi)


def _open_data(
    model: Model, settings: EvalOptions, source: InputSource[Any] | None, warn: Warn
) -> ImageDataset | None:
    """Open the real images, if any, which must have the size of the generated ones.

    Raises:
        InputError: They have another; or translations that are no squares ask for real ones.
    """
    if settings.data is None:
        return None
    generator = pick_generator(model, settings.network)
    side = generator.img_resolution
    if isinstance(source, ImageInputs):
        side, width = source.size
        if side != width:
            raise InputError(
                f"the images of --input are {width}x{side}, --data compares squares",
                "crop or pad both to one square size",
            )
    dataset = open_dataset(
        settings.data, resolution=side, channels=generator.img_channels, resize=settings.resize,
        warn=warn,
    )  # fmt: skip
    dataset.image(0)  # images of another size are found now, not after the networks are loaded
    return dataset


def _measure(task: Task, names: Sequence[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return values and protocols of some metrics of the task's model."""
    measurements = {name: METRICS[name].start(task) for name in names}
    with exact_float32():  # so that a GPU finds what a CPU does; latency is timed as users run
        for measurement in measurements.values():
            measurement.prepare()
        _feed(task, list(measurements.values()))
    values: dict[str, float] = {}
    for measurement in measurements.values():
        values |= measurement.result()
    _check_finite(values)
    return values, {name: _protocol(task, m) for name, m in measurements.items()}


def _protocol(task: Task, measurement: Measurement) -> dict[str, Any]:
    """Return how one number was measured: what its samples are of, and the metric's own part."""
    own = measurement.protocol()
    settings, source = task.settings, task.source
    protocol: dict[str, Any] = {"generator": settings.network} if own else {}
    if measurement.num_images:
        protocol |= {name: getattr(settings, name) for name in SAMPLING}
        protocol |= task.labels_protocol
        protocol["input"] = source.content_hash if isinstance(source, ImageInputs) else None
    if measurement.uses_teacher:
        assert task.teacher is not None
        protocol["teacher"] = task.teacher.content_hash()
    if own.get("reference") == "data" and task.dataset is not None:
        protocol["data"] = task.dataset.content_hash
    protocol |= own
    if "data" in protocol and task.dataset is not None:
        protocol["left_out"] = task.dataset.source.listing.left_out
    return protocol


@torch.no_grad()
def _feed(task: Task, measurements: Sequence[Measurement]) -> None:
    """Make one pass over the samples, as far as each measurement wants to see them."""
    limits = [measurement.num_images for measurement in measurements]
    last = max(limits, default=0)
    if not last:
        return
    assert task.source is not None  # a measurement that wants samples has asked for it
    paired = [measurement.num_images for measurement in measurements if measurement.uses_teacher]
    batches = iterate_batches(
        Sampler(task.generator, task.source, "the model"),
        None
        if task.teacher is None
        else Sampler(
            pick_generator(task.teacher, task.settings.network), task.source, "the teacher"
        ),
        limits=limits,
        teacher_limit=max(paired, default=0),
        batch=task.settings.batch,
    )
    for batch in batches:
        for measurement in measurements:
            if batch.indices.start < measurement.num_images:
                measurement.update(batch)
        task.progress("samples", batch.indices.stop, last)


def _check_finite(values: Mapping[str, float]) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise ComputationError(f"{', '.join(bad)} came out as {values[bad[0]]}, not as a number")


def _describe(task: Task, protocols: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that every number of a result carries."""
    data, source = task.dataset, task.source
    return {
        **{name: getattr(task.settings, name) for name in RECORDED},
        "device": str(task.device),
        "model": _identity(task.model),
        "teacher": None if task.teacher is None else _identity(task.teacher),
        "input": None if not isinstance(source, ImageInputs) else {
            "path": str(source.path), "content_hash": source.content_hash,
            "images": source.count, "left_out": source.source.listing.left_out,
            "size": list(source.size), "resize": source.resize,
        },
        "data": None if data is None else {
            "path": str(data.source.path), "content_hash": data.content_hash,
            "images": len(data), "left_out": data.source.listing.left_out, "resize": data.resize,
        },
        "protocols": protocols,
        "versions": {
            "ganc": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__, "pillow": PIL.__version__,
        },
    }  # fmt: skip


def _identity(model: Model) -> dict[str, str]:
    return {"architecture": model.architecture, "content_hash": model.content_hash()}
