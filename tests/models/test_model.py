"""What all models share: copies on a device, and what generators have to agree on."""

import pytest
import torch

from ganc.models.model import Model
from tests.conftest import make_model
from tests.families import make_cyclegan, make_unet


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_copy_leaves_the_model_as_it_is(device: str) -> None:
    model = make_cyclegan()
    model.provenance.append({"command": "test"})
    frozen = next(model.generator.parameters())
    frozen.requires_grad_(False)
    frozen.grad = torch.ones_like(frozen)
    for _, network in model.networks():
        network.train()
    before = model.content_hash()
    copy = model.copy_on(device)
    assert [name for name, _ in copy.networks()] == [name for name, _ in model.networks()]
    for name, network in copy.networks():
        assert not any(module.training for module in network.modules())
        assert {tensor.device.type for tensor in network.state_dict().values()} == {device}
        assert getattr(model, name) is not network
    copied = next(copy.generator.parameters())
    assert copied.grad is None
    assert not copied.requires_grad
    copy.provenance[0]["command"] = "other"
    if device == "cpu":
        assert copy.content_hash() == before
        with torch.no_grad():
            for tensor in copy.tensors().values():
                tensor.zero_()
    assert model.content_hash() == before
    assert model.provenance == [{"command": "test"}]
    assert all(module.training for _, net in model.networks() for module in net.modules())
    assert frozen.grad.eq(1).all()


def test_one_network_is_copied_alone() -> None:
    generator = make_model().generator.train()
    copy = generator.copy_on("cpu")
    assert type(copy) is type(generator)
    assert not copy.training
    assert generator.training
    ours, theirs = Model(generator).tensors(), Model(copy).tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    pointers = {tensor.data_ptr() for tensor in ours.values()}
    assert not pointers & {tensor.data_ptr() for tensor in theirs.values()}


def test_interfaces_are_the_sizes_of_inputs_and_images() -> None:
    style = make_model(c_dim=2).generator
    assert style.interface() == {"z_dim": 6, "c_dim": 2, "img_resolution": 16, "img_channels": 3}
    translator = make_unet().generator
    assert translator.interface() == {"in_channels": 1, "img_resolution": 16, "img_channels": 3}
