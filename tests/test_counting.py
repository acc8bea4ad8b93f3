"""MACs and parameters against the published calculators' numbers."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ganc.groups import count_macs, count_params, sliced_shapes
from ganc.models.stylegan2 import BLOCK_ARCHITECTURES, Generator, SynthesisLayer
from tests.conftest import GOLDEN, make_model

ROWS: dict[str, Any] = json.loads((GOLDEN / "macs" / "counts.json").read_text())["rows"]


def full_size(resolution: int, **settings: Any) -> Generator:
    """Build StyleGAN2 config-f without memory: shapes alone count."""
    with torch.device("meta"):
        return Generator(512, 0, 512, resolution, 3, **settings)


@pytest.mark.parametrize(
    ("resolution", "macs", "pruned_macs"),
    [(256, 45_124_673_536, 4_123_578_080), (1024, 74_266_894_336, 6_990_183_648)],
)
def test_contract_figures(resolution: int, macs: int, pruned_macs: int) -> None:
    generator = full_size(resolution)
    assert generator.macs() == macs
    groups = generator.groups()
    widths = {g.name: g.width - int(0.7 * g.width) for g in groups}
    shapes = sliced_shapes(generator.shapes(), groups, widths)
    assert count_macs(shapes, generator.mac_positions()) == pruned_macs


@pytest.mark.parametrize("row", [name for name in ROWS if name.startswith(("full", "pruned"))])
def test_published_tables(row: str) -> None:
    _, resolution, multiplier = row.split("_")
    names = list(
        full_size(int(resolution), channel_base=16384 * int(multiplier[2:])).config["widths"]
    )
    widths = ROWS[row].get("pruned_net_shape", ROWS[row]["net_shape"])
    generator = full_size(int(resolution), widths=dict(zip(names, widths, strict=True)))
    assert generator.macs() == ROWS[row]["StyleGAN2_FLOPCal"]
    assert generator.params() == ROWS[row]["params_parameters"]


def test_counting_at_other_widths_equals_building_there() -> None:
    generator = full_size(64)
    widths = {name: n // 3 + i for i, (name, n) in enumerate(generator.config["widths"].items())}
    built = full_size(64, widths=widths)
    shapes = sliced_shapes(generator.shapes(), generator.groups(), widths)
    assert shapes == built.shapes()
    parameters = [name for name, _ in generator.named_parameters()]
    assert count_params(shapes, parameters) == built.params()


class Multiplications(TorchDispatchMode):
    """Counts the multiply-accumulates of every matrix product and dense convolution that runs."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name, tensors = func.overloadpacket.__name__, [a for a in args if isinstance(a, Tensor)]
        if name in ("mm", "addmm"):
            self.total += tensors[-2].numel() * tensors[-1].shape[1]
        elif name == "convolution" and args[-1] == 1:  # filters run depthwise and do not count
            is_transposed = args[6]
            side = (tensors[0] if is_transposed else result).shape[-1]
            self.total += tensors[1].numel() * side**2
        return result


@torch.no_grad()
@pytest.mark.parametrize("architecture", BLOCK_ARCHITECTURES)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_counts_are_what_runs(architecture: str, c_dim: int) -> None:
    model = make_model(architecture=(architecture, architecture), c_dim=c_dim)
    z, c, img = torch.zeros(1, 6), torch.zeros(1, c_dim), torch.zeros(1, 3, 16, 16)
    with Multiplications() as ran:
        model.generator(z, c)
    # Demodulation multiplies squared styles by squared weights; the papers do not count it.
    layers = [m for m in model.generator.modules() if isinstance(m, SynthesisLayer)]
    demodulation = sum(math.prod(layer.weight.shape[:2]) for layer in layers)
    assert model.generator.macs() == ran.total - demodulation
    with Multiplications() as ran:
        model.discriminator(img, c)
    assert model.discriminator.macs() == ran.total
