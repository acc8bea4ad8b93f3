"""Peak memory against a chain of layers that is counted by hand."""

import pytest
import torch
from torch import nn

from ganc.evaluation.evaluate import evaluate
from ganc.evaluation.memory import LiveStorages, peak_bytes, weight_bytes
from ganc.models.model import Model
from tests.families import FAMILIES


def measure(network: nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), LiveStorages() as live:
        network(x)
    return live.peak


def test_a_chain_of_layers() -> None:
    """While the last layer works, its input (20 floats) and its output (30) are alive."""
    network = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 30))
    assert measure(network, torch.zeros(1, 10)) == 4 * (20 + 30)
    assert measure(network, torch.zeros(7, 10)) == 7 * 4 * (20 + 30)
    assert weight_bytes(network) == 4 * (10 * 20 + 20 + 20 * 30 + 30)


def test_a_skip_connection_stays_alive() -> None:
    class Skip(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = x * 2  # 10 floats
            wide = first.repeat(1, 3)  # 30
            return first + wide.sum(dim=1, keepdim=True)  # the sum: 1, then 10

    assert measure(Skip(), torch.zeros(1, 10)) == 4 * (10 + 30 + 1 + 10)


def test_views_and_work_in_place_take_nothing() -> None:
    network = nn.Sequential(nn.Linear(10, 20), nn.ReLU(inplace=True), nn.Flatten(0))
    assert measure(network, torch.zeros(3, 10)) == 4 * 3 * 20
    assert measure(nn.Flatten(0), torch.zeros(3, 10)) == 0


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    assert weight_bytes(nn.Sequential(layer, nn.Linear(4, 4, bias=False), layer)) == 2 * 4 * 16
    layer.register_buffer("row", layer.weight.detach()[0])
    assert weight_bytes(layer) == 4 * 16


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_of_every_family(family: str) -> None:
    model: Model = FAMILIES[family]()
    result = evaluate(model, ["memory"])
    values = result["metrics"]
    generator = model.generator
    image = 4 * generator.img_channels * generator.img_resolution**2
    weights = sum(t.nbytes for t in [*generator.parameters(), *generator.buffers()])
    assert values["memory-weights"] == weights
    assert values["memory"] > weights + image
    grown = (values["memory-batch8"] - weights) / (values["memory"] - weights)
    assert 4 < grown <= 8  # what does not depend on the batch (styles of a constant) is small
    assert result["settings"]["protocols"]["memory"]["unit"] == "bytes"


@pytest.mark.gpu
def test_cuda_counts_what_is_alive() -> None:
    """Pointwise layers, which take no work space: cuBLAS' alone is 32 MiB on some cards."""
    network = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReLU(), nn.Upsample(scale_factor=2))
    x = torch.zeros(1, 8, 256, 256, device="cuda")

    @torch.no_grad()
    def run() -> torch.Tensor:
        result: torch.Tensor = network(x)
        return result

    alive = 4 * (4 + 16) * x.numel()  # while the last layer works: its input and its output
    # Of a block that is left over after an allocation, less than 1 MiB stays with it.
    slack = 2 * 2**20
    assert alive <= peak_bytes(run, torch.device("cuda")) <= alive + slack


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_counts_at_least_what_the_cpu_counts(family: str) -> None:
    """The allocator sees what operators return, and the work space that the CPU's count leaves out.

    The families go other ways on the CPU where that is quicker, and StyleGAN3's fused kernels keep
    what lies between its filters to themselves, so the two agree within a factor.
    """
    model = FAMILIES[family]()
    on_cpu, on_cuda = (
        evaluate(model, ["memory"], device=device)["metrics"] for device in ("cpu", "cuda")
    )
    assert on_cuda["memory-weights"] == on_cpu["memory-weights"]
    work = {name: values["memory-batch8"] - values["memory-weights"]
            for name, values in (("cpu", on_cpu), ("cuda", on_cuda))}  # fmt: skip
    assert work["cuda"] >= work["cpu"] / 4
    assert on_cuda["memory"] >= on_cuda["memory-weights"]
