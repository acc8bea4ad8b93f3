"""Code runs where the caller names it, never because a file does."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ganc.checkpoints.store import save
from ganc.content.forms import NAMED, names_code
from ganc.content.sources import KINDS, check_masks
from ganc.distillation.recipes import resolve_recipe
from ganc.distillation.settings import Choices
from ganc.errors import InputError, UsageError
from ganc.scoring.density.encoders import check_name
from tests.conftest import Outcome, make_model

MODULE = """
from pathlib import Path
import torch

Path("ran").touch()

def whole(images):
    return torch.ones(len(images), 4, 4, dtype=torch.bool)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder that tells when it is imported."""
    name = f"own_code_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_names_of_code_are_told_from_the_others() -> None:
    assert set(NAMED) == set(KINDS)
    others = ["none", "center", "bisenet", "bisenet:a.pt", "torchvision:dog", "masks:folder"]
    assert not any(map(names_code, others))
    assert names_code("module:function")


def test_a_resumed_run_asks_for_its_code_again(train: Callable[..., Any], own: str) -> None:
    recipe = {"overrides": {"perceptual": "none", "batch": 4, "content": f"{own}:whole"}}
    train("run", recipe="cagan", steps=1, **recipe)
    sys.modules.pop(own)
    Path("ran").unlink()
    with pytest.raises(InputError, match=f"run names code to run, content = {own}:whole") as caught:
        train("run", steps=2, resume="latest", overrides={})
    assert not Path("ran").exists()
    assert caught.value.hint == f"pass --content {own}:whole where you trust it"
    train("run", steps=2, resume="latest", overrides={"content": f"{own}:whole"})
    assert Path("ran").exists()


def test_a_recipe_file_may_not_choose_code(own: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.toml"
    path.write_text(f'base = "cagan"\ncontent = "{own}:whole"\n')
    with pytest.raises(InputError, match=r"theirs\.toml names code to run"):
        Choices(str(path)).check()
    named = Choices(str(path), {"content": f"{own}:whole"})
    named.check()
    assert named.resolve(str(path)).content == f"{own}:whole"
    recipe = resolve_recipe("cagan", {"content": f"{own}:whole"})  # the caller's own
    Choices(recipe).check_code(recipe, "run")
    assert not Path("ran").exists()


@pytest.mark.parametrize("check", [lambda name: check_masks(name, 1), check_name])
def test_a_check_runs_no_code(own: str, check: Callable[[str], None]) -> None:
    check(f"{own}:whole")
    with pytest.raises(UsageError, match="unknown function of module") as caught:
        check(f"{own}:whol")
    assert caught.value.hint == "did you mean `whole`?"
    for text in ("from os.path import *\n", "def __getattr__(name): return len\n", "def (:\n"):
        Path("unclear_code.py").write_text(text)
        check("unclear_code:anything")  # only running it tells
    assert not Path("ran").exists()
    path = list(sys.path)
    for name in ("nowhere_at_all:whole", "..:whole"):
        with pytest.raises(UsageError, match="no module"):
            check(name)
    assert sys.path == path


def test_a_dry_run_runs_no_code(ganc: Callable[..., Outcome], own: str, tmp_path: Path) -> None:
    save(make_model(), tmp_path / "model.safetensors")
    for arguments in (
        ("score", "model.safetensors", "--method", "content", "--content", f"{own}:whole"),
        ("distill", "model.safetensors", "--teacher", "model.safetensors", "--recipe", "cagan",
         "--content", f"{own}:whole", "-o", "run"),
    ):  # fmt: skip
        assert ganc(*arguments, "--dry-run").code == 0
    assert not Path("ran").exists()
