"""State dicts whose tensors have shapes, types and names that fit nothing: a model or one line."""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.checkpoints.foreign import fill_noise
from ganc.checkpoints.readers import read_tree
from ganc.checkpoints.store import load
from ganc.errors import CheckpointError
from ganc.models.model import Model
from tests.conftest import GOLDEN

FILES = {
    path.parent.name + "/" + path.name: torch.load(path, weights_only=True)
    for folder in ("rosinality", "mimicry", "junyanz-cyclegan", "junyanz-pix2pix",
                   "junyanz-patchgan")
    for path in sorted((GOLDEN / "files" / folder).rglob("*.p*t*"))
    if path.name != "000100.pt"
}  # fmt: skip

CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda t: t.reshape(-1),
    "scalar": lambda t: torch.zeros(()),
    "one dimension more": lambda t: t[None],
    "empty": lambda t: t[:0] if t.ndim else torch.zeros(0),
    "empty at the end": lambda t: t[..., :0] if t.ndim else torch.zeros(0),
    "transposed": lambda t: t.transpose(0, -1) if t.ndim > 1 else torch.cat([t.reshape(-1)] * 2),
    "shorter": lambda t: t[:-1] if t.ndim else torch.zeros(3),
    "whole numbers": lambda t: (t.real if t.is_complex() else t).to(torch.int64),
    "complex": lambda t: t.to(torch.complex64),
}


def changed(tree: Mapping[str, Any], draw: Callable[..., Any]) -> dict[str, Any]:
    """Return a tree with up to two tensors misshapen, renamed or left out."""
    states = [
        k for k, v in tree.items() if isinstance(v, Mapping) and v and "param_groups" not in v
    ]
    key = draw(st.sampled_from(states)) if states else None
    state = dict(tree if key is None else tree[key])
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(state)))
        how = draw(st.sampled_from(["left out", "renamed", *CHANGES]))
        tensor = state.pop(name)
        if how == "renamed":
            state[f"{name}x"] = tensor
        elif how in CHANGES:
            state[name] = CHANGES[how](tensor)
    return state if key is None else {**tree, key: state}


@pytest.mark.parametrize("name", list(FILES))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_misshapen_state_is_refused_in_one_line(name: str, data: st.DataObject) -> None:
    file = io.BytesIO()
    torch.save(changed(FILES[name], data.draw), file)
    file.seek(0)
    try:
        model: Model | str = load(file)
    except CheckpointError as error:
        model = str(error)
    assert isinstance(model, Model) or "\n" not in model


def test_a_mapping_layer_that_does_not_fit_is_named() -> None:
    # Found by flipping bytes: w_avg is computed before the network is built.
    tree = FILES["rosinality/legacy.pt"]
    for shape, finding in (
        ((3, 64), r"style\.4\.weight is \[3, 64\], in this layout it is square"),
        ((65, 65), r"mapping\.fc3\.weight has shape \(65, 65\)"),
        ((0, 64), "empty"),
    ):
        state = tree["g_ema"] | {"style.4.weight": torch.zeros(shape)}
        with pytest.raises(CheckpointError, match=finding):
            read_tree({**tree, "g_ema": state})


def test_leading_dimensions_are_checked() -> None:
    tree = FILES["rosinality/legacy.pt"]
    weight = tree["g_ema"]["convs.0.conv.weight"]
    state = tree["g_ema"] | {"convs.0.conv.weight": torch.cat([weight, weight])}
    with pytest.raises(CheckpointError, match=r"b8\.conv0\.weight has shape \[2, .* \[1\]"):
        read_tree({**tree, "g_ema": state})


@pytest.mark.parametrize("number", ["4000", "1000000", "9" * 12, "9" * 900])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("rosinality/legacy.pt", "convs.0.conv.weight"),
        ("rosinality/legacy.pt", "style.1.weight"),
        ("mimicry/netG_100000_steps.pth", "block2.c1.weight"),
        ("junyanz-cyclegan/latest_net_G_A.pth", "model.1.weight"),
    ],
)
def test_numbers_in_names_drive_nothing(file: str, name: str, number: str) -> None:
    tree = FILES[file]
    key = next((k for k, v in tree.items() if isinstance(v, Mapping) and name in v), None)
    state = dict(tree if key is None else tree[key])
    digits = re.search(r"\d+", name)
    assert digits is not None
    state[name[: digits.start()] + number + name[digits.end() :]] = state.pop(name)
    file_like = io.BytesIO()
    torch.save(state if key is None else {key: state}, file_like)
    file_like.seek(0)
    with pytest.raises(CheckpointError, match="a number above 2048 in its name"):
        load(file_like)


def test_images_of_any_size_are_not_made_of_small_tensors() -> None:
    with pytest.raises(CheckpointError, match="images of 262144 px, at most 4096"):
        fill_noise({}, 262144, {})
