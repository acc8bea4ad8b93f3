"""Fit what pruning left to the teacher, layer by layer: ``prune --refit``.

Slicing throws away what the removed channels gave to each layer. Which channel of the student is
which of the teacher's is known, so each layer can be given its own target, before any image is
compared: what the teacher's layer gives in the channels that stay.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ganc import seeds
from ganc.data.inputs import open_source
from ganc.devices import exact_float32
from ganc.errors import InputError, UsageError
from ganc.models.model import Model
from ganc.models.network import ImageGenerator, Translator
from ganc.models.sampling import GENERATORS, InputSource, Latents
from ganc.options import flag_of
from ganc.progress import Progress, Warn
from ganc.pruning.options import PruneOptions
from ganc.pruning.refit.joint import fit_jointly
from ganc.pruning.refit.norms import settle_norms
from ganc.pruning.refit.rows import SharedInputs, student_rows, teacher_targets
from ganc.pruning.refit.solve import UNSEEN, Errors, fit_layer

LEAST_SAMPLES = UNSEEN
PIXELS_AT_ONCE = 2**16
"""Pixels of the images that are made at once where no ``refit_batch`` says otherwise."""
DATA = {"generator": "data", "generator_b": "data_b"}
"""Generator → the setting that names its images."""

Keep = Mapping[str, Sequence[int]]


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
        options: ``refit_samples``, ``refit_steps``, ``refit_batch``, ``seed``, ``data``,
            ``data_b``.
        device: Where the layers are fitted; the result is on the CPU.
    Raises:
        UsageError: Images are given to a model that takes latents, or not to one that needs them.
        InputError, DataError: The images cannot serve, or are too few.
        ComputationError: Features are not finite.
    """
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
        if options.refit_steps:
            with exact_float32():
                images = fit_jointly(generator, whole, samples, options.refit_steps, progress)
            found[f"{prefix}images"] = list(images)
        if generator.shapes() != whole.shapes():  # what is not pruned stays what it is, to the bit
            with exact_float32():
                settle_norms(generator, samples)
    settings |= {"seed": options.seed, "steps": options.refit_steps, "errors": found}
    there: dict[str, Any] = {name: network.cpu() for name, network in own.networks()}
    for name, network in student.networks():  # the joint part freezes what it does not move
        for mine, was in zip(there[name].parameters(), network.parameters(), strict=True):
            mine.requires_grad_(was.requires_grad)
    return Model(
        **there,
        provenance=student.with_step("refit", teacher=teacher.content_hash(), settings=settings),
    )


def refit_generator(
    student: ImageGenerator,
    teacher: ImageGenerator,
    keep: Keep,
    samples: SharedInputs,
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
        ComputationError: Features are not finite.
    """
    layers = student.fit_layers()
    found: dict[str, Errors] = {}
    scales: dict[str, Tensor] = {}
    with exact_float32(), torch.no_grad():
        targets = teacher_targets(
            teacher, keep, samples, lambda done: progress("teacher's layers", done, samples.count)
        )
        for number, layer in enumerate(layers, start=1):
            target = targets.pop(layer.name)
            if layer.total is not None and layer.group in scales:
                target = target * scales[layer.group].cpu()  # of the sum's other part
            fit = fit_layer(layer, student_rows(student, layer, target, samples))
            found[layer.name] = fit.errors
            if fit.scale is not None and layer.group is not None:
                scales[layer.group] = fit.scale
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


def _samples(
    name: str, generator: ImageGenerator, options: PruneOptions, warn: Warn
) -> SharedInputs:
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
            f"add {flag} with a folder or zip of images",
        )
    # Latents of its own: those of the same seed are what an evaluation measures with.
    source: InputSource[Any] | None = Latents(seeds.torch_seed(options.seed, "refit"))
    if data is not None:
        source = open_source(generator, Latents(), data, defaults=Latents(), warn=warn)
    assert source is not None
    count = min(options.refit_samples, source.count or options.refit_samples)
    if count < LEAST_SAMPLES:
        where = "--refit-samples" if source.count is None else str(data)
        raise InputError(
            f"{where} gives {count} samples, a fit needs {LEAST_SAMPLES}: some of them judge it",
            "some hundred are usual",
        )
    batch = options.refit_batch or max(1, PIXELS_AT_ONCE // generator.img_resolution**2)
    return SharedInputs(source, count, min(batch, count), options.seed)


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


def _name(source: InputSource[Any]) -> Any:
    return getattr(source, "content_hash", None)
