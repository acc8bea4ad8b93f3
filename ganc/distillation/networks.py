"""What a run starts from: the student with the teacher's mapping, and a discriminator."""

import copy

import torch

from ganc import seeds
from ganc.errors import InputError
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.models.stylegan2_discriminator import Discriminator, group_resolutions
from ganc.progress import Warn


def check_pair(student: Model, teacher: Model) -> None:
    """Check that the student can learn from the teacher.

    Raises:
        InputError: One has no StyleGAN2 generator, or their sizes differ.
    """
    for role, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model.generator, Generator):
            found = model.architecture if model.generator else "no generator"
            raise InputError(f"the {role} holds {found}, distill needs a stylegan2 generator")
    own, other = student.generator, teacher.generator
    names = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    differences = [
        f"{name} is {getattr(own, name)}, the teacher's {getattr(other, name)}"
        for name in names
        if getattr(own, name) != getattr(other, name)
    ]
    if differences:
        raise InputError(
            "the student does not fit the teacher: " + "; ".join(differences),
            "start from a student that was pruned from this teacher",
        )


def starting_generator(student: Model, teacher: Model, warn: Warn) -> Generator:
    """Return a trainable copy of the student's generator with the teacher's mapping network.

    The same z then gives the same w, so both networks speak of the same image from the first step.
    Source: Xu et al. 2022 (StyleKD), Section 3.2. A mapping network of another depth or learning
    rate multiplier cannot take the teacher's weights; the student keeps its own, with a warning.
    """
    generator: Generator = copy.deepcopy(student.generator)
    own, other = (m.generator.config["mapping_kwargs"] for m in (student, teacher))
    if own == other:
        generator.mapping.load_state_dict(teacher.generator.mapping.state_dict())
    else:
        warn(f"the student keeps its own mapping network: it has {own}, the teacher {other}")
    return generator.requires_grad_(True)


def starting_discriminator(student: Model, teacher: Model, seed: int, warn: Warn) -> Discriminator:
    """Return a trainable copy of the teacher's discriminator, else the student's, else a new one.

    A new one is as wide at each resolution as the teacher's generator.
    """
    for model in (teacher, student):
        if model.discriminator is not None:
            trained: Discriminator = copy.deepcopy(model.discriminator)
            return trained.requires_grad_(True)
    warn("neither teacher nor student holds a discriminator: a new one learns from scratch")
    generator: Generator = teacher.generator
    widths = generator.config["widths"]
    sides = group_resolutions(generator.img_resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(seed, "discriminator"))
        return Discriminator(
            generator.c_dim,
            generator.img_resolution,
            generator.img_channels,
            widths={name: widths[f"b{side}.conv1"] for name, side in sides.items()},
            conv_clamp=generator.config["conv_clamp"],
        )
