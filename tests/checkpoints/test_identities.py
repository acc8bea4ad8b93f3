"""Sizes that agree in the public code must agree in a file, or it is another model."""

from collections.abc import Callable, Mapping

import pytest
import torch

from ganc.errors import CheckpointError
from tests.checkpoints.test_nvidia_bare import bare
from tests.checkpoints.wrapped import inferred, loaded, stylegan2
from tests.conftest import GOLDEN

G, D, W_AVG = stylegan2()


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_rosinalitys_mapping_layers_are_square(layer: int) -> None:
    name = f"style.{layer}.weight"
    with pytest.raises(CheckpointError, match=rf"style\.{layer}\.weight is \[64, 128\]") as caught:
        loaded({"g_ema": {**G, name: torch.cat([G[name]] * 2, dim=1)}, "latent_avg": W_AVG})
    assert "label embedding was dropped" in caught.value.message
    assert "import the original file" in (caught.value.hint or "")


def test_a_mean_of_w_of_another_size_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"w_avg has shape \(32,\)"):
        loaded({"g_ema": G, "latent_avg": W_AVG.reshape(-1)[:32]})


def test_a_file_without_blur_kernels_says_that_the_usual_are_assumed() -> None:
    assert "resample_filter" not in inferred(loaded({"g_ema": G}))
    bare_of_kernels = {name: t for name, t in G.items() if not name.endswith(".kernel")}
    assert inferred(loaded(bare_of_kernels))["resample_filter"] == "[1, 3, 3, 1] (assumed)"


@pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
def test_images_that_are_not_square(layout: str) -> None:
    if layout == "rosinality":
        state = {**G, "input.input": torch.zeros(1, 32, 4, 8)}
    else:
        state = bare("nvidia-stylegan2-16-labels")
        state["synthesis.b4.const"] = torch.zeros(len(state["synthesis.b4.const"]), 4, 8)
    with pytest.raises(CheckpointError, match="is 4x8: its images are not square"):
        loaded(state)


def test_an_sngan_begins_and_ends_at_mimicrys_sizes() -> None:
    path = GOLDEN / "files" / "mimicry" / "netG_100000_steps.pth"
    state = torch.load(path, weights_only=True)["model_state_dict"]
    rows = len(state["block2.b1.weight"]) * 25
    wide = {**state, "l1.weight": torch.zeros(rows, 24), "l1.bias": torch.zeros(rows)}
    with pytest.raises(CheckpointError, match="begins at 5 px and makes 40 px"):
        loaded(wide)


def test_what_was_inferred_always_names_z_dim() -> None:
    path = GOLDEN / "files" / "mimicry" / "netG_100000_steps.pth"
    trees = [G, bare("nvidia-stylegan2-16-labels"), bare("nvidia-stylegan3-r-16"),
             torch.load(path, weights_only=True)]  # fmt: skip
    for tree in trees:
        model = loaded(tree)
        assert inferred(model)["z_dim"] == model.generator.z_dim


def test_counters_that_an_old_sngan_lacks_are_filled() -> None:
    path = GOLDEN / "files" / "mimicry" / "netG_100000_steps.pth"
    state = torch.load(path, weights_only=True)["model_state_dict"]
    old = {name: t for name, t in state.items() if "num_batches" not in name}
    model = loaded(old)
    assert inferred(model)["filled"] == "7 num_batches_tracked, which are never used"
    z = torch.randn(2, 24)
    with torch.no_grad():
        assert torch.equal(model.generator(z), loaded(state).generator(z))


@torch.no_grad()
def test_noise_maps_from_before_they_were_stored(
    golden: Callable[[str], Mapping[str, torch.Tensor]],
) -> None:
    io = golden("rosinality-stylegan2-32")
    lean = {name: t for name, t in G.items() if not name.startswith("noises.")}
    model = loaded({"g_ema": lean, "latent_avg": W_AVG})
    assert inferred(model)["noise_maps"] == "7 drawn from seed 0"
    # With the recorded noise the images are the recorded ones; the drawn maps never change.
    images = model.generator(io["z"], noise=[io[f"noise_{i}"] for i in range(7)])
    torch.testing.assert_close(images, io["img"], atol=1e-5, rtol=0)
    again = loaded({"g_ema": lean, "latent_avg": W_AVG})
    assert again.content_hash() == model.content_hash()
    maps = model.generator.synthesis.b32.conv1.noise_const
    assert abs(float(maps.mean())) < 5 / 32
    assert 0.8 < float(maps.std()) < 1.2
    some = {name: t for name, t in G.items() if name != "noises.noise_3"}
    with pytest.raises(CheckpointError, match="is missing, though other noise maps are there"):
        loaded(some)
