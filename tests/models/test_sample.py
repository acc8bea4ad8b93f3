"""``ganc.sample``: the same picture for the same seed, whatever stands around it."""

import pytest
import torch

from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.models.sampling import sample
from tests.conftest import make_model


def test_sample_depends_on_seed_and_index_alone(model: Model) -> None:
    many = sample(model, 7, batch=3)
    assert many.shape == (7, 3, 16, 16)
    for num, batch in ((1, 1), (2, 1), (5, 16), (6, 2)):
        assert torch.equal(sample(model, num, batch=batch), many[:num])
    assert not torch.allclose(sample(model, 2, seed=1), many[:2])


def test_teacher_and_student_share_latents(model: Model) -> None:
    from ganc.pruning import PrunePlan, apply_plan

    same = apply_plan(model, PrunePlan({"b4.const": range(8)}))
    assert torch.equal(sample(same, 3), sample(model, 3))


def test_labels_are_repeated_and_checked() -> None:
    model = make_model(c_dim=3)
    both = sample(model, 4, labels=[2, 0])
    assert torch.equal(both, sample(model, 4, labels=[2, 0, 2, 0]))
    assert not torch.allclose(both, sample(model, 4, labels=[1]))
    with pytest.raises(UsageError, match="has 3 classes"):
        sample(model, 1, labels=[3])


@pytest.mark.parametrize("arguments", [{"num": 0}, {"batch": 0}, {"labels": [0]}])
def test_bad_arguments_are_named(model: Model, arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        sample(model, **{"num": 1, **arguments})  # type: ignore[arg-type]


def test_model_stays_as_it_is(model: Model) -> None:
    model.generator.train()
    sample(model, 1)
    assert model.generator.training
