"""What a run starts from: a student, fresh or sliced, and the networks that it plays against."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from ganc import seeds
from ganc.distillation.options import INITS, SCRATCH
from ganc.distillation.recipes import INHERITED, RANDOM
from ganc.errors import InputError, UsageError, unknown_name
from ganc.families import FAMILIES, STYLE, TRANSLATION
from ganc.models import patchgan, sngan, stylegan2_discriminator
from ganc.models.config_types import finding
from ganc.models.model import ARCHITECTURES, Model
from ganc.models.network import IMAGE_SIZES, ImageGenerator, Network, Translator
from ganc.models.style import StyleGenerator
from ganc.models.translation import judges_pairs
from ganc.progress import Warn

AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def check_pair(student: Model, teacher: Model) -> None:
    """Check that the student can learn from the teacher.

    Raises:
        InputError: One has no generator that can be trained, or they differ in family or size.
    """
    for role, model in (("student", student), ("teacher", teacher)):
        check_trainable(role, model)
    if student.architecture != teacher.architecture:
        raise InputError(
            f"the student is a {student.architecture}, the teacher a {teacher.architecture}"
        )
    if (student.generator_b is None) != (teacher.generator_b is None):
        raise InputError(
            "one of student and teacher translates in both directions, the other in one",
            "import both directions of both, or one of each",
        )
    own, other = student.generator, teacher.generator
    compared = (*own.input_sizes, "w_dim", *IMAGE_SIZES)  # w: both may share a mapping network
    differences = [
        f"{name} is {getattr(own, name)}, the teacher's {getattr(other, name)}"
        for name in compared
        if getattr(own, name, None) != getattr(other, name, None)
    ]
    if differences:
        raise InputError(
            "the student does not fit the teacher: " + "; ".join(differences),
            "start from a student that was pruned from this teacher",
        )


def check_trainable(role: str, model: Model) -> None:
    """Check that a model holds a generator that can be trained.

    Raises:
        InputError: It does not.
    """
    if model.generator is None or model.architecture not in FAMILIES:
        found = "no generator" if model.generator is None else model.architecture
        raise InputError(
            f"the {role} holds {found}, distill needs a generator of: {', '.join(FAMILIES)}"
        )


def new_generator(
    architecture: str, config: Mapping[str, Any], like: Model | None, seed: int
) -> ImageGenerator:
    """Return a generator with random weights.

    Args:
        architecture: A key of ``FAMILIES``.
        config: Arguments of its constructor. What it leaves out is as the teacher's where the
            families agree, widths aside; else as the fact sheet and the constructor have it.
        like: The teacher, or None.
        seed: Of the weights.
    Raises:
        UsageError: The architecture, a name or a value is not valid, or the size is missing.
    """
    if architecture not in FAMILIES:
        raise unknown_name("architecture", architecture, FAMILIES)
    network_class = ARCHITECTURES[architecture].generator
    assert network_class is not None
    parameters = inspect.signature(network_class.__init__).parameters
    for name in config:
        if name not in parameters or name == "self":
            raise unknown_name(f"setting of {architecture}", name, list(parameters)[1:])
    wrong = finding(network_class, config)
    if wrong is not None:
        raise UsageError(f"a new {architecture}: {wrong}")
    basis = dict(FAMILIES[architecture].sizes)
    if like is not None and like.architecture == architecture:
        basis = {k: v for k, v in like.generator.config.items() if k in parameters}
        basis.pop("widths")
    arguments = basis | dict(config)
    needed = [n for n, p in parameters.items() if p.default is p.empty and n != "self"]
    missing = [name for name in needed if name not in arguments]
    if missing:
        flag = "--resolution N" if missing == ["img_resolution"] else f"--set {missing[0]}=VALUE"
        raise UsageError(f"a new {architecture} needs {', '.join(missing)}", f"pass {flag}")
    try:
        made = _new(network_class, arguments, seed, "student")
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"a {architecture} cannot be built with these settings: {error}"
        ) from error
    assert isinstance(made, ImageGenerator)
    return made


def new_student(
    architecture: str,
    config: Mapping[str, Any],
    like: Model | None,
    seed: int,
    *,
    unpaired: bool | None = None,
) -> Model:
    """Return a generator with random weights, and CycleGAN's way back where there is to be one.

    Args:
        architecture, config, like, seed: See ``new_generator``.
        unpaired: Without a teacher, who has a way back or has none: whether a translator gets one.
            None asks the family.
    """
    generator = new_generator(architecture, config, like, seed)
    if not isinstance(generator, Translator):
        return Model(generator)
    if like is not None:
        has_way_back = like.generator_b is not None
    else:
        has_way_back = not FAMILIES[architecture].is_paired if unpaired is None else unpaired
    if not has_way_back:
        return Model(generator)
    channels = {"in_channels": generator.img_channels, "img_channels": generator.in_channels}
    return Model(
        generator,
        generator_b=_new(type(generator), generator.config | channels, seed, "student_b"),
    )


def starting_model(
    student: Model,
    teacher: Model | None,
    seed: int,
    init: str,
    warn: Warn,
    *,
    unpaired: bool | None = None,
    discriminators: str = INHERITED,
) -> Model:
    """Return the networks to train: copies, with everything that a run needs.

    Args:
        student: Its generators; discriminators where it has them.
        teacher: Lends its mapping network and its discriminators.
        seed: Of weights that are new.
        init: One of ``INITS``.
        unpaired: Of translators: whether they learn from unpaired images. None: as a second
            direction or a discriminator has it, else as the family.
        discriminators: One of ``DISCRIMINATOR_STARTS``; random ones judge what inherited ones
            would.
    Raises:
        UsageError: ``unpaired`` is not what the networks can do.
        InputError: A discriminator does not fit its generator.
    """
    if init not in INITS:
        raise unknown_name("--init", init, INITS)
    networks: dict[str, Any] = {}
    for name in ("generator", "generator_b"):
        own = getattr(student, name)
        if own is not None:
            fresh = init == SCRATCH
            made = _new(type(own), own.config, seed, name) if fresh else copy.deepcopy(own)
            networks[name] = made
    generator = networks["generator"]
    if isinstance(generator, StyleGenerator) and teacher is not None:
        _inherit_mapping(generator, teacher.generator, warn)
    for name in [n.replace("generator", "discriminator") for n in networks]:
        found = _starting_discriminator(name, student, teacher, warn)
        if found is None:
            is_paired = _is_paired(generator, "generator_b" in networks, unpaired)
            found = new_discriminator(name, teacher or student, seed, is_paired=is_paired)
        elif discriminators == RANDOM:
            found = _new(type(found), found.config, seed, name)
        networks[name] = found
    for network in networks.values():
        network.requires_grad_(True)
    model = Model(**networks)
    if isinstance(generator, Translator):
        _check_task(model, unpaired)
    return model


def _is_paired(generator: ImageGenerator, has_way_back: bool, unpaired: bool | None) -> bool:
    """Say whether a new discriminator is to judge pairs."""
    if has_way_back or not isinstance(generator, Translator):
        return False
    if unpaired is not None:
        return not unpaired
    return bool(FAMILIES[generator.architecture].is_paired)


def _check_task(model: Model, unpaired: bool | None) -> None:
    """Check that discriminators judge what the task gives them to see."""
    is_cycle = model.generator_b is not None
    judges = [judges_pairs(model.discriminator, model.generator)]
    if is_cycle:
        judges.append(judges_pairs(model.discriminator_b, model.generator_b))
    if is_cycle and any(judges):
        raise InputError(
            "a discriminator of this model judges input and image together, CycleGAN's judge the"
            " image alone",
            "import the discriminators that were trained with it, or leave them out",
        )
    is_unpaired = is_cycle or not judges[0]
    if unpaired is not None and unpaired != is_unpaired:
        judged = "images alone" if is_unpaired else "pairs"
        found = "both directions" if is_cycle else f"a discriminator of {judged}"
        flag = "--unpaired" if unpaired else "--no-unpaired"
        raise UsageError(f"{flag} does not go with this model: it has {found}", "leave it out")


def _inherit_mapping(generator: StyleGenerator, teacher: StyleGenerator, warn: Warn) -> None:
    """Give a student the teacher's mapping network.

    The same z then gives the same w, so both networks speak of the same image from the first step.
    Source: Xu et al. 2022 (StyleKD), Section 3.2. A mapping network of another depth or learning
    rate multiplier cannot take the teacher's weights; the student keeps its own, with a warning.
    """
    own, other = (g.config["mapping_kwargs"] for g in (generator, teacher))
    if own == other:
        generator.mapping.load_state_dict(teacher.mapping.state_dict())
    else:
        warn(f"the student keeps its own mapping network: it has {own}, the teacher {other}")


def _starting_discriminator(
    name: str, student: Model, teacher: Model | None, warn: Warn
) -> Network | None:
    """Return a trainable copy of the teacher's discriminator, else the student's, or None.

    A student's own one comes first where its widths differ: it was pruned to fit the student.
    """
    own, other = (getattr(m, name) if m is not None else None for m in (student, teacher))
    if own is not None and other is not None:
        is_pruned = own.config.get("widths") != other.config.get("widths")
        return copy.deepcopy(own if is_pruned else other)
    for found in (other, own):
        if found is not None:
            return copy.deepcopy(found)
    if teacher is not None:
        warn(f"neither teacher nor student holds a {name}: a new one learns from scratch")
    return None


def new_discriminator(name: str, model: Model, seed: int, *, is_paired: bool = False) -> Network:
    """Return a discriminator with random weights for a model's generator.

    StyleGAN2's is as wide at each resolution as the generator; a translator's has the norm of the
    generator, starts as wide, and has fewer layers where images are small; others are as published.

    Args:
        name: "discriminator" or "discriminator_b".
        is_paired: Of translators: judge condition and image together, as pix2pix does.
    """
    generator = getattr(model, name.replace("discriminator", "generator"))
    kind = FAMILIES[generator.architecture].training
    if kind == TRANSLATION:
        channels = generator.img_channels + (generator.in_channels if is_paired else 0)
        size = generator.img_resolution
        most_layers = max(1, (size // 3).bit_length() - 1)
        config = {
            "in_channels": channels, "img_resolution": size, "num_layers": min(3, most_layers),
            "norm": generator.config["norm"],
            "base_width": next(iter(generator.config["widths"].values())),
        }  # fmt: skip
        return _new(patchgan.Discriminator, config, seed, name)
    sizes = {n: getattr(generator, n) for n in IMAGE_SIZES}
    if kind != STYLE:
        return _new(sngan.Discriminator, sizes, seed, name)
    config = {"c_dim": generator.c_dim, **sizes, "conv_clamp": generator.config["conv_clamp"]}
    widths = generator.config["widths"]
    if generator.architecture == "stylegan2":
        sides = stylegan2_discriminator.group_resolutions(generator.img_resolution)
        config["widths"] = {name: widths[f"b{side}.conv1"] for name, side in sides.items()}
    else:  # StyleGAN3: the rule that its own widths follow
        *_, last = widths.values()
        config["channel_base"] = last * generator.img_resolution
        config["channel_max"] = max(widths.values())
    return _new(stylegan2_discriminator.Discriminator, config, seed, name)


def _new(
    network_class: type[AnyNetwork], config: Mapping[str, Any], seed: int, stream: str
) -> AnyNetwork:
    """Build a network whose random weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(seed, stream))
        return network_class(**config)
