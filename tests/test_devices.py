"""The switch for TF32: both of torch's switches, put back whatever happens."""

from typing import Any

import pytest
import torch

from ganc.devices import exact_float32, fp32_precision


def switches() -> list[str]:
    cudnn: Any = torch.backends.cudnn
    return [torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision]


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_products_and_convolutions_are_switched_together(precision: Any) -> None:
    before = switches()
    with fp32_precision(precision):
        assert switches() == [precision, precision]
        with exact_float32():
            assert switches() == ["ieee", "ieee"]
        assert switches() == [precision, precision]
    assert switches() == before


def test_the_switches_are_put_back_after_an_error() -> None:
    before = switches()
    with pytest.raises(RuntimeError, match="boom"), fp32_precision("tf32"):
        raise RuntimeError("boom")
    assert switches() == before
