"""Fact sheets: one for every generator there is, and none that is guessed."""

import subprocess
import sys
from pathlib import Path

import pytest

import ganc
from ganc.adversarial import FORMS
from ganc.distillation.networks import new_generator
from ganc.errors import UsageError
from ganc.families import ADVERSARIAL_NAMES, FAMILIES, family_of, task_form
from ganc.models.model import ARCHITECTURES
from ganc.models.network import LatentGenerator, Translator


def test_every_generator_has_one() -> None:
    assert sorted(FAMILIES) == sorted(n for n, row in ARCHITECTURES.items() if row.generator)


def test_forms_are_those_that_are_computed() -> None:
    assert tuple(FORMS) == ADVERSARIAL_NAMES
    forms = {family.adversarial for family in FAMILIES.values()} - {None}
    forms |= {task_form(is_paired=is_paired) for is_paired in (False, True)}
    assert forms <= set(FORMS)


@pytest.mark.parametrize("name", FAMILIES)
def test_facts_go_with_what_the_generator_takes(name: str) -> None:
    family, network_class = family_of(name), ARCHITECTURES[name].generator
    assert network_class is not None
    takes_latents = issubclass(network_class, LatentGenerator)
    assert issubclass(network_class, Translator) == (family.is_paired is not None)
    for fact in (family.adversarial, family.alpha, family.gradient):
        assert (fact is not None) == takes_latents
    made = new_generator(name, {"img_resolution": 32 if name == "sngan" else 256}, None, 0)
    assert {size: getattr(made, size) for size in family.sizes} == dict(family.sizes)


def test_no_family_is_guessed() -> None:
    with pytest.raises(UsageError, match="stylegan2"):
        family_of("stylegan")


def test_they_load_no_torch() -> None:
    code = "import sys, ganc.families; sys.exit('torch' in sys.modules)"
    root = Path(ganc.__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
