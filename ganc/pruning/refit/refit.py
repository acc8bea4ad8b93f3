"""Fit what pruning left to the teacher, layer by layer: ``prune --refit``.

Slicing throws away what the removed channels gave to each layer. Which channel of the student is
which of the teacher's is known, so each layer can be given its own target, before any image is
compared: what the teacher's layer gives in the channels that stay.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ganc.data.inputs import open_source
from ganc.devices import exact_float32, resolve_device
from ganc.errors import InputError, UsageError
from ganc.models.model import Model
from ganc.models.network import ImageGenerator, Translator
from ganc.models.sampling import GENERATORS, InputSource, Latents
from ganc.options import flag_of
from ganc.progress import Progress, Warn
from ganc.pruning.options import PruneOptions
from ganc.pruning.refit.joint import fit_jointly
from ganc.pruning.refit.rows import ROWS, Samples, student_rows, teacher_targets
from ganc.pruning.refit.solve import Errors, fit_layer
from ganc.pruning.slicing import PrunePlan

SAMPLES = 1024
"""Inputs that a fit looks at where nobody says it."""
STEPS = 300
"""Steps of all layers together where nobody says it: about as long as the layers took."""
PIXELS_AT_ONCE = 2**16
"""Pixels of the images that are made at once where no ``batch`` says otherwise."""
DATA = {"generator": "data", "generator_b": "data_b"}
"""Generator → the setting that names its images."""

Keep = Mapping[str, Sequence[int]]


def fitted(
    student: Model,
    model: Model,
    plan: PrunePlan,
    teacher: Model | None,
    options: PruneOptions,
    *,
    device: str | torch.device,
    progress: Progress,
    warn: Warn,
) -> Model:
    """Return what ``prune`` has sliced from a model, fitted to it or to the teacher before it.

    Raises:
        InputError: The model was not pruned from the teacher. Others: see ``refit``.
    """
    keep = plan.keep if teacher is None else composed(kept_since(model, teacher), plan.keep)
    return refit(
        student, teacher or model, keep, options, device=resolve_device(device), progress=progress,
        warn=warn,
    )  # fmt: skip


def refit(
    student: Model,
    teacher: Model,
    keep: Keep,
    options: PruneOptions,
    *,
    device: torch.device,
    progress: Progress,
    warn: Warn,
) -> Model:
    """Return a sliced model whose generators are fitted to those of the model it came from.

    Args:
        student: Sliced; it stays as it is.
        teacher: What its layers are to give.
        keep: Group → the teacher's channels that the student has, as in ``PrunePlan``.
        options: ``refit_samples``, ``refit_steps``, ``batch``, ``seed``, ``data``, ``data_b``.
        device: Where the layers are fitted; the result is on the CPU.
    Raises:
        UsageError: Images are given to a model that takes latents, or not to one that needs them.
        InputError, DataError: The images cannot serve, or are too few.
        ComputationError: Features are not finite.
    """
    steps = STEPS if options.refit_steps is None else options.refit_steps
    copies: dict[str, Any] = {n: network.copy_on(device) for n, network in student.networks()}
    own = Model(**copies)
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    generators = [(n, g) for n, g in own.networks() if isinstance(g, ImageGenerator)]
    _check_data(options, [name for name, _ in generators], teacher)
    problems = []  # all of them before any is solved: what is missing is found at once
    for name, generator in generators:
        whole = dict(teacher.networks())[name]
        assert isinstance(whole, ImageGenerator)
        prefix = "" if name == "generator" else f"{name}."
        kept = {group.name: keep.get(f"{prefix}{group.name}") for group in whole.groups()}
        chosen = {group: channels for group, channels in kept.items() if channels is not None}
        samples = _samples(name, whole, options, warn)
        problems.append((prefix, generator, whole.copy_on(device), chosen, samples))
        settings |= {f"{prefix}samples": samples.count, f"{prefix}input": _name(samples.source)}
    for prefix, generator, whole, chosen, samples in problems:
        errors = refit_generator(generator, whole, chosen, samples, progress=progress)
        found |= {f"{prefix}{layer}": list(error) for layer, error in errors.items()}
        if steps:
            with exact_float32():
                images = fit_jointly(generator, whole, samples, steps, progress)
            found[f"{prefix}images"] = list(images)
    settings |= {"seed": options.seed, "steps": steps, "errors": found}
    there: dict[str, Any] = {name: network.cpu() for name, network in own.networks()}
    return Model(
        **there,
        provenance=student.with_step("refit", teacher=teacher.content_hash(), settings=settings),
    )


def refit_generator(
    student: ImageGenerator,
    teacher: ImageGenerator,
    keep: Keep,
    samples: Samples,
    *,
    progress: Progress,
) -> dict[str, Errors]:
    """Fit a sliced generator's layers in the order they run, in place.

    Every layer sees what the layers before it, already fitted, really give.

    Args:
        student: Sliced from ``teacher``; both in eval mode on one device.
        keep: Group → the teacher's channels that the student has; groups that are absent are whole.
        samples: Inputs of both.
    Returns:
        Layer → its error before and after.
    Raises:
        InputError: The samples have fewer pixels than a layer has weights per channel.
        ComputationError: Features are not finite.
    """
    layers = student.fit_layers()
    found: dict[str, Errors] = {}
    with exact_float32(), torch.no_grad():
        targets = teacher_targets(
            teacher, keep, samples, lambda done: progress("teacher's layers", done, samples.count)
        )
        for number, layer in enumerate(layers, start=1):
            rows = student_rows(student, layer, targets.pop(layer.name), samples)
            _check_enough(layer.name, rows.columns.shape, samples)
            found[layer.name] = fit_layer(layer, rows)
            progress("fitting layers", number, len(layers))
    return found


def kept_since(model: Model, teacher: Model) -> dict[str, list[int]]:
    """Return which of a teacher's channels a model still has, by all that was pruned since.

    Raises:
        InputError: The model's provenance does not lead back to the teacher.
    """
    origin = teacher.content_hash()
    keep = {group.name: list(range(group.width)) for group in teacher.groups}
    parents = [step.get("parent") for step in model.provenance]
    if origin not in (*parents, model.content_hash()):
        raise InputError(
            f"the checkpoint does not come from the teacher ({origin[:12]}…): its provenance names"
            f" {', '.join(str(parent)[:12] for parent in parents) or 'no other'}",
            "name the model that it was pruned from: ganc info CKPT shows the provenance",
        )
    steps = model.provenance[parents.index(origin) :] if origin in parents else []
    for step in steps:
        for group, channels in step.get("kept", {}).items():
            keep[group] = [keep[group][channel] for channel in channels]
    if {name: len(channels) for name, channels in keep.items()} != model.widths:
        raise InputError(
            "the widths of the checkpoint are not those that its provenance leads to",
            "fit it to the model that it was last pruned from: leave --teacher out",
        )
    return keep


def composed(before: Keep, plan: Keep) -> dict[str, list[int]]:
    """Return the channels that are left of ``before`` after a plan."""
    return {
        name: [channels[i] for i in plan.get(name, range(len(channels)))]
        for name, channels in before.items()
    }


def _samples(name: str, generator: ImageGenerator, options: PruneOptions, warn: Warn) -> Samples:
    """Return the inputs of one generator.

    Raises:
        UsageError: A translator has no images.
        InputError, DataError: They cannot serve.
    """
    data: str | os.PathLike[str] | None = getattr(options, DATA[name])
    if isinstance(generator, Translator) and data is None:
        flag = flag_of(DATA[name])
        raise UsageError(
            f"--refit needs images for a {generator.architecture} ({name}) to translate",
            f"add {flag} DIR|ZIP",
        )
    source: InputSource[Any] | None = Latents(options.seed)
    if data is not None:
        source = open_source(generator, Latents(), data, defaults=Latents(), warn=warn)
    assert source is not None
    count = options.refit_samples or SAMPLES
    count = count if source.count is None else min(count, source.count)
    batch = options.batch or max(1, PIXELS_AT_ONCE // generator.img_resolution**2)
    return Samples(source, count, min(batch, count), options.seed)


def _check_data(options: PruneOptions, generators: Sequence[str], teacher: Model) -> None:
    """Refuse images that nobody would translate.

    Raises:
        UsageError: The model takes latents, or has no such direction.
    """
    for name in GENERATORS:
        if getattr(options, DATA[name]) is None:
            continue
        flag = flag_of(DATA[name])
        if name not in generators:
            raise UsageError(f"{flag} goes with {name}, which the model does not hold")
        if not isinstance(dict(teacher.networks())[name], Translator):
            raise UsageError(
                f"{flag} goes with translators, the model is a {teacher.architecture} that starts"
                " from latents",
                f"leave {flag} out",
            )


def _check_enough(layer: str, shape: Sequence[int], samples: Samples) -> None:
    inputs, pixels, unknown = shape
    if inputs * pixels < unknown:
        raise InputError(
            f"{samples.count} samples give layer {layer} {inputs * pixels} pixels to fit {unknown}"
            " weights per channel to",
            f"raise --refit-samples, or give more images ({ROWS // pixels} fill what a fit takes)",
        )


def _name(source: InputSource[Any]) -> Any:
    return getattr(source, "content_hash", None)
