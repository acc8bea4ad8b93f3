"""The whole way of a CycleGAN through the command line: score, prune, info, distill, eval."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ganc.checkpoints.store import load
from ganc.data.images import to_float
from ganc.data.pairs import open_pairs
from ganc.models.model import Model
from ganc.scores import Scores
from tests.conftest import GOLDEN, Outcome
from tests.evaluation.witnesses import write_images
from tests.scoring.density.cases import FLAGS

Ganc = Callable[..., Outcome]
TEACHER = GOLDEN / "trained" / "cyclegan-faces2sketches-32.safetensors"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Faces, and what the teacher sketches of others."""
    pairs = open_pairs(
        GOLDEN / "trained" / "edges2faces.zip", channels=(1, 3), resolution=64, resize=False
    )
    images = to_float(torch.stack([pairs.image(i)[1:] for i in range(len(pairs))]))
    small = F.interpolate(images, scale_factor=0.5, mode="area")
    write_images(small[:8], tmp_path / "data" / "trainA")
    with torch.no_grad():
        write_images(load(TEACHER).generator(small[8:]), tmp_path / "data" / "trainB")
    return tmp_path / "data"


def ran(outcome: Outcome) -> dict[str, object]:
    assert outcome.code == 0, outcome.err
    result: dict[str, object] = json.loads(outcome.out)
    return result


@pytest.mark.slow
def test_both_directions_are_pruned_and_distilled(
    ganc: Ganc, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ("--device", "cpu", "--quiet", "--json")
    scored = ran(ganc("score", TEACHER, "--method", "density", "--data", "data", *FLAGS, *common))
    assert scored["output"] == f"{TEACHER.stem}.density.scores.safetensors"
    assert scored["samples"] == 8
    scores, teacher = Scores.load(str(scored["output"])), load(TEACHER)
    kept = {group["name"]: group["kept"] for group in scored["groups"]}
    pruned = ran(
        ganc("prune", TEACHER, "--scores", scored["output"], "-o", "small.safetensors", "--quiet",
             "--json")
    )  # fmt: skip
    assert pruned["widths"] == {**teacher.widths, **kept}
    facts = scores.settings
    assert pruned["macs"]["after"] == facts["generator"]["macs"] <= pruned["macs"]["before"] / 1.8
    info = ran(ganc("info", "small.safetensors", "--json"))
    assert info["widths"] == pruned["widths"]
    assert [step["command"] for step in info["provenance"]][-1] == "prune"

    distilled = ran(
        ganc("distill", "small.safetensors", "--teacher", TEACHER, "--data", "data", "-o", "run",
             "--recipe", "i2i", "--steps", "2", "--perceptual", "none", "--batch", "1", *common)
    )  # fmt: skip
    assert distilled["steps"] == 2
    student = load("run/student.safetensors")
    assert student.widths == pruned["widths"]  # discriminators, which learned on, included
    assert_moved(load("small.safetensors"), student)

    evaluated = ran(
        ganc("eval", "run/student.safetensors", "--teacher", TEACHER, "--input", "data/trainA",
             "--metrics", "l1,macs,params", *common)
    )  # fmt: skip
    metrics = evaluated["metrics"]
    assert metrics["macs"] == pruned["macs"]["after"]
    assert metrics["params"] == pruned["params"]["after"]
    assert 0 < metrics["l1"] < 1


def assert_moved(before: Model, after: Model) -> None:
    for (name, old), (_, new) in zip(before.networks(), after.networks(), strict=True):
        moved = [not torch.equal(a, b) for a, b in zip(
            old.parameters(), new.parameters(), strict=True)]  # fmt: skip
        assert any(moved), name
