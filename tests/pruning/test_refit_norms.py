"""Batch norms that take over the statistics of what they get."""

import pytest
import torch
from torch import nn

from ganc.models.sampling import Latents, latent_inputs, stand_ins
from ganc.pruning.refit.norms import settle_norms
from ganc.pruning.refit.rows import SharedInputs
from tests.families import FAMILIES, make_unet


@pytest.mark.parametrize("batch", [5, 16])
@torch.no_grad()
def test_training_starts_from_the_images_of_eval_mode(batch: int) -> None:
    generator = FAMILIES["sngan"]().generator.eval()
    torch.manual_seed(0)
    for norm in generator.modules():
        if isinstance(norm, nn.BatchNorm2d):  # statistics that are not those of its features
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            norm.weight.normal_(1.0, 0.3)
    z = latent_inputs(generator, range(16), 0).z
    images = generator(z)
    settle_norms(generator, SharedInputs(Latents(0), 16, batch, 0))
    torch.testing.assert_close(generator(z), images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(generator.train()(z), images, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_norms_that_take_each_images_statistics_are_left_alone() -> None:
    generator = make_unet(statistics="batch").generator
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    settle_norms(generator, SharedInputs(stand_ins(generator, 0), 8, 4, 0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
