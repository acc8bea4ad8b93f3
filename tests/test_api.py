"""The public Python API: the names other programs use, and the README's walk through them."""

import importlib
import json
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ganc
from ganc.checkpoints.header import read_header
from ganc.models.model import Model
from ganc.pruning.plan import prune
from ganc.showcase.settings import DemoSettings
from tests.conftest import GOLDEN, Outcome, make_model


def test_no_module_shadows_a_public_name() -> None:
    # Importing ganc.x sets the attribute ganc.x: a function of that name would be gone.
    for module in pkgutil.walk_packages(ganc.__path__, "ganc."):
        if module.name != "ganc.__main__":
            importlib.import_module(module.name)
    for name in ganc.__all__:
        assert callable(getattr(ganc, name)), name
        assert name in dir(ganc)
    with pytest.raises(AttributeError, match="no attribute 'scroe'"):
        ganc.scroe  # noqa: B018


def test_model_has_the_contract_s_attributes(model: Model) -> None:
    assert model.architecture == "stylegan2"
    assert model.config["img_resolution"] == 16
    assert model.config["widths"]["b8.conv0"] == 6
    assert model.config["discriminator"]["config"]["widths"]["b4.fc"] == 9
    assert model.provenance == []
    assert (model.generator_b, model.discriminator_b) == (None, None)
    assert [group.name for group in model.groups][:3] == ["b4.const", "b4.conv1", "b8.conv0"]
    assert model.groups[-1].name == "discriminator.b4.fc"
    assert model.groups[-1].slices[0].tensor == "discriminator.b4.fc.weight"


def test_a_second_pair_of_networks_has_its_place(model: Model, tmp_path: Path) -> None:
    other = make_model(seed=4)
    both = Model(model.generator, model.discriminator, other.generator, other.discriminator)
    ganc.save(both, tmp_path / "both.safetensors")
    again = ganc.load(tmp_path / "both.safetensors")
    assert again.content_hash() == both.content_hash()
    widths = read_header(tmp_path / "both.safetensors").widths
    assert widths == both.widths
    assert widths["generator_b.b8.conv0"] == 6
    assert widths["discriminator_b.b4.fc"] == 9
    z = torch.zeros(1, 6)
    with torch.no_grad():
        assert torch.equal(again.generator_b(z), other.generator(z))


SHORTER = {
    "--method rebuild": "--method rebuild --samples 16",
    "--refit ": "--refit --refit-steps 1 --refit-samples 16 ",
    "--steps 20000": "--steps 1 --batch 4",
    "--metrics ": "--samples 8 --metrics ",
}
"""What README's commands do in minutes, in seconds."""


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a latency after a tenth of the usual time."""
    monkeypatch.setattr("ganc.runtimes.measure.ENOUGH_SEC", 0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("packaged_weights", "hasty")
def test_readme_s_commands_run_on_a_foreign_file(
    ganc: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = GOLDEN / "files" / "nvidia" / "nvidia-stylegan2-32.pkl"
    shutil.copy(foreign, tmp_path / "faces.pkl")
    monkeypatch.chdir(tmp_path)
    readme = (GOLDEN.parent.parent / "README.md").read_text()
    block = readme.split("From somebody's file")[1].split("```sh\n")[1].split("```")[0]
    commands = [line.split("#")[0] for line in block.splitlines()]
    verbs = [line.split()[1] for line in commands]
    assert verbs == ["info", "score", "prune", "distill", "eval", "export"]
    for command in commands:
        for written, shorter in SHORTER.items():
            command = command.replace(written, shorter)
        done = ganc(*command.split()[1:], "--json")
        assert done.code == 0, done.err
    assert json.loads(done.out)["max_abs_error"] < 1e-3


@pytest.mark.slow
def test_walk_through(model: Model, tmp_path: Path) -> None:
    scores = ganc.score(model, "diversity", samples=4, batch=2, num_directions=4, device="cpu")
    small = ganc.prune(model, scores, prune_ratio=0.5)
    assert small.macs() < model.macs()
    result = ganc.distill(
        small, model, tmp_path / "run", steps=2, overrides={"perceptual": "none"}, device="cpu"
    )
    assert result.steps == 2
    student = ganc.load(tmp_path / "run" / "student.safetensors")
    assert student.widths == small.widths
    assert [step["command"] for step in student.provenance] == ["prune", "distill"]
    measured = ganc.evaluate(
        student, ["l1", "psnr", "macs"], teacher=model, samples=8, seed=0, device="cpu"
    )
    assert measured["metrics"]["macs"] == small.macs()
    assert measured["settings"]["samples"] == 8
    exported = ganc.export(student, tmp_path / "student.onnx", format="onnx")
    assert exported.max_abs_error < 1e-3
    assert ganc.sample(student, 2).shape == (2, 3, 16, 16)
    assert ganc.info(tmp_path / "run" / "student.safetensors")["macs"] == small.macs()


@pytest.mark.slow
@pytest.mark.usefixtures("packaged_weights", "hasty")
def test_demo_in_small(
    ganc: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_to_fewer(*arguments: Any, **settings: Any) -> Model:
        fewer = {"refit_samples": 64} if "refit" in settings else {}  # of 1024
        return prune(*arguments, **settings, **fewer)

    monkeypatch.setattr("ganc.showcase.pipeline.prune", fit_to_fewer)
    folder = tmp_path / "demo"
    small = ("--score-samples", 5, "--refit-steps", 2, "--steps", 2, "--eval-samples", 8)
    outcome = ganc("demo", "-o", folder, *small, "--json", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert list(result["models"]) == ["teacher", "pruned", "fitted", "distilled"]
    teacher, pruned, fitted, distilled = result["models"].values()
    assert teacher["macs"] == 42_907_648
    assert pruned["macs"] == fitted["macs"] == distilled["macs"] <= teacher["macs"] / 10
    assert fitted["fd"] < pruned["fd"]
    assert pruned["params"] == distilled["params"] < teacher["params"]
    for row in result["models"].values():
        assert row["fd"] > 0
        assert row["lpips-diversity"] > 0
        assert row["lpips-diversity"] > 0
        assert row["latency"] > 0
    assert all(Path(path).exists() for path in result["outputs"].values())
    assert set(result["seconds"]) == {
        "score", "prune", "refit", "distill", "eval", "export", "report"
    }  # fmt: skip
    page = (folder / "report.html").read_text()
    assert page.count('alt="distilled: sample') == page.count('alt="teacher: sample') > 16
    again = ganc("demo", "-o", folder)
    assert again.code == 3
    assert "exists already" in again.err


def test_demo_settings_are_the_command_s_defaults(ganc: Callable[..., Outcome]) -> None:
    shown = json.loads(ganc("demo", "--dry-run", "--json").out)["settings"]
    assert shown.items() >= vars(DemoSettings()).items()
