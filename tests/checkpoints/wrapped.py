"""Recorded networks in the wrappings that people bring them in."""

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganc.checkpoints.store import load
from ganc.models.model import Model
from tests.conftest import GOLDEN

State = dict[str, Tensor]
ROSINALITY = GOLDEN / "files" / "rosinality"


def stylegan2() -> tuple[State, State, Tensor]:
    """Return rosinality's recorded generator, discriminator and mean of w."""
    tree = torch.load(ROSINALITY / "networks.pt", weights_only=True)
    average = torch.load(ROSINALITY / "converted.pt", weights_only=True)
    return dict(tree["g_ema"]), dict(tree["d"]), average["latent_avg"]


def cyclegan() -> State:
    """Return a recorded ResNet translator."""
    path = GOLDEN / "files" / "junyanz-cyclegan" / "latest_net_G_A.pth"
    return dict(torch.load(path, weights_only=True))


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    """Put a prefix before every name."""
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(tree: Any, **options: Any) -> Model:
    """Save a tree as torch does, and load it."""
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return load(file, **options)


def inferred(model: Model) -> dict[str, Any]:
    """Return what the import says it inferred."""
    step: dict[str, Any] = model.provenance[0]["inferred"]
    return step
