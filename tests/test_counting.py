"""MACs and parameters against the published calculators' numbers."""

import json
from typing import Any

import pytest
import torch

from ganc.groups import count_macs, count_params, sliced_shapes
from ganc.models.stylegan2 import Generator
from tests.conftest import GOLDEN

ROWS: dict[str, Any] = json.loads((GOLDEN / "case7_flops" / "flops.json").read_text())["rows"]


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
