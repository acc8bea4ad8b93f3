"""What a CUDA graph of a generator needs: everything stays on the device, nothing waits for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ganc.models.model import Model
from ganc.models.style import StyleGenerator
from ganc.ops.operators import Operators
from tests.conftest import make_model
from tests.families import make_stylegan3

FAMILIES: dict[str, Callable[[], Model]] = {"stylegan2": make_model, "stylegan3": make_stylegan3}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_noise = pytest.mark.parametrize("noise_mode", ["const", "random", "none"])


class _OnDevice(TorchDispatchMode):
    """Refuses tensors on the host. To read a number of a fake one is an error by itself."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        assert all(x.device.type == "cuda" for x in tensors), func
        return result


def _pretend(network: nn.Module, mode: FakeTensorMode) -> None:
    """Put a network on a CUDA device that need not exist."""
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = mode.from_tensor(tensor).to("cuda")


@every_family
@every_noise
def test_a_forward_pass_stays_on_its_device(
    family: str, noise_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Kernels are built and loaded for the GPUs that are there.
    monkeypatch.setattr(Operators, "build_for", lambda *_: False)
    generator: Any = FAMILIES[family]().generator
    with FakeTensorMode() as mode, torch.no_grad():
        _pretend(generator, mode)
        z = torch.empty(2, generator.z_dim, device="cuda")
        with _OnDevice():
            images = generator(z, noise_mode=noise_mode, truncation_psi=0.7)
    assert images.shape == (2, 3, generator.img_resolution, generator.img_resolution)


@pytest.mark.gpu
@every_family
def test_a_captured_forward_pass_gives_the_same_images(family: str) -> None:
    generator = FAMILIES[family]().generator.cuda().eval()
    assert isinstance(generator, StyleGenerator)
    first, second = torch.randn(2, 3, generator.z_dim, device="cuda")
    z = first.clone()
    with torch.no_grad():
        expected = generator(second)  # and sets up what libraries need
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            images = generator(z)
    z.copy_(second)
    graph.replay()
    torch.testing.assert_close(images, expected)
