"""On CUDA every method computes in exact float32, however torch's switches stand."""

from typing import Any

import pytest
import torch

from ganc.scoring.features import MeanActivation
from ganc.scoring.score import score
from tests.conftest import make_model


def test_features_are_read_in_exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn: Any = torch.backends.cudnn
    read, found = MeanActivation.read, []

    def look(*arguments: Any) -> None:
        found.append((torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision))
        read(*arguments)

    before = torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision
    monkeypatch.setattr(MeanActivation, "read", look)
    score(make_model(), "activation", samples=2, device="cpu")
    assert set(found) == {("ieee", "ieee")}
    assert (torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision) == before
