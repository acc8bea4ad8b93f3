"""Training draws: keyed by sample, steps apart, the mixing cut within its range."""

import pytest
import torch

from ganc.distillation.draws import Draws, MixedLatents, draw_latents

CPU = torch.device("cpu")


def latents(batch: int, step: int, mixing_prob: float = 0.9, seed: int = 0) -> MixedLatents:
    return draw_latents(
        Draws(seed, batch, CPU), "phase", step, z_dim=3, num_ws=6,
        noise_shapes=[(1, 4, 4), (1, 8, 8)], mixing_prob=mixing_prob, c=None,
    )  # fmt: skip


def test_a_sample_depends_on_its_global_index_alone() -> None:
    whole, second = latents(8, 0), latents(4, 1)
    torch.testing.assert_close(whole.z[4:], second.z, rtol=0, atol=0)
    torch.testing.assert_close(whole.cut[4:], second.cut, rtol=0, atol=0)
    torch.testing.assert_close(whole.noise[1][4:], second.noise[1], rtol=0, atol=0)


def test_streams_seeds_and_steps_differ() -> None:
    draws = Draws(0, 4, CPU)
    drawn = [
        draws.normal("a", 0, 5), draws.normal("b", 0, 5), draws.normal("a", 1, 5),
        Draws(1, 4, CPU).normal("a", 0, 5),
    ]  # fmt: skip
    flat = torch.stack(drawn).flatten(0, 1)
    assert len(flat.unique(dim=0)) == len(flat)


def test_shapes() -> None:
    drawn = latents(5, 2)
    assert drawn.z.shape == (5, 2, 3)
    assert [m.shape for m in drawn.noise] == [(5, 1, 4, 4), (5, 1, 8, 8)]
    assert drawn.head(2).z.shape == (2, 2, 3)


def test_moments_are_those_of_the_distributions() -> None:
    draws = Draws(3, 64, CPU)
    normal, uniform = draws.normal("n", 0, 500), draws.uniform("u", 0, 500)
    # 32 000 draws: standard errors are 0.006 and 0.0016; four of them.
    assert normal.mean().item() == pytest.approx(0, abs=0.024)
    assert normal.std().item() == pytest.approx(1, abs=0.024)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.007)
    assert 0 <= uniform.min() < uniform.max() < 1


def test_cuts_cover_every_layer_and_mix_as_often_as_asked() -> None:
    cut = latents(2000, 0).cut.flatten()
    assert sorted(cut.unique().tolist()) == [1, 2, 3, 4, 5, 6]
    # Unmixed are 10 %: of 2 000 that is 200 ± 13 (one standard deviation), so four of them.
    assert (cut == 6).sum().item() == pytest.approx(200, abs=54)
    assert (latents(50, 0, mixing_prob=0.0).cut == 6).all()
