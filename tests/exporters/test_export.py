"""Exported files give PyTorch's images, whatever the batch; what does not is never left behind."""

import json
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from ganc.checkpoints.native import build_model
from ganc.checkpoints.store import save
from ganc.cli import run
from ganc.errors import (
    ComputationError,
    InputError,
    MissingDependencyError,
    OutputError,
    UsageError,
)
from ganc.exporters import export as exporting
from ganc.exporters import format as formats
from ganc.exporters.export import ExportResult, export
from ganc.groups import slice_tensors
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.runtimes.graph import build_graph
from ganc.runtimes.runtime import Conditions, Executable
from tests.conftest import Outcome, make_model, randomise
from tests.families import make_sngan

# Channels that stay: odd widths, and single ones in the middle and at both ends.
KEEPS = {
    "odd": {"b4.const": [0, 3, 7], "b4.conv1": [1, 2, 4, 5, 6], "b8.conv1": [0, 1, 4]},
    "single": {
        "b4.const": [2], "b4.conv1": [0], "b8.conv0": [5], "b8.conv1": [3],
    },
}  # fmt: skip


def pruned(model: Model, keep: dict[str, list[int]]) -> Model:
    config = model.config
    config["widths"] = {**config["widths"], **{name: len(kept) for name, kept in keep.items()}}
    tensors = slice_tensors(model.tensors(), model.groups, keep)
    return build_model(model.architecture, config, tensors, model.provenance)


def small_model(*, c_dim: int = 0, img_channels: int = 3) -> Model:
    """A StyleGAN2 of 8 px: every kind of layer, in two thirds of an export's time."""
    torch.manual_seed(0)
    widths = {"b4.const": 8, "b4.conv1": 7, "b8.conv0": 6, "b8.conv1": 5}
    mapping = {"num_layers": 2}
    generator = Generator(6, c_dim, 8, 8, img_channels, mapping_kwargs=mapping, widths=widths)
    randomise(generator, 0)
    return Model(generator=generator.eval())


def wide_model() -> Model:
    """Layers so large that torch's exporter leaves their weights to be computed at run time."""
    torch.manual_seed(0)
    widths = {"b4.const": 192, "b4.conv1": 192, "b8.conv0": 192, "b8.conv1": 16}
    mapping = {"num_layers": 1}
    return Model(generator=Generator(8, 0, 8, 8, 3, mapping_kwargs=mapping, widths=widths).eval())


MODELS: dict[str, Callable[[], Model]] = {
    "whole": make_model,
    "odd": lambda: pruned(small_model(), KEEPS["odd"]),
    "single": lambda: pruned(small_model(), KEEPS["single"]),
    "labels, grey": lambda: small_model(c_dim=3, img_channels=1),
    "wide": wide_model,
}


class Exported(NamedTuple):
    model: Model
    path: Path
    result: ExportResult

    def run(self, **inputs: Tensor) -> Tensor:
        session = onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])
        (images,) = session.run(None, {name: x.numpy() for name, x in inputs.items()})
        return torch.from_numpy(images)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Export a model of ``MODELS`` to ONNX, once per session and settings."""
    made: dict[tuple[str, str, int], Exported] = {}

    def get(name: str, inputs: str = "z", opset: int = 18) -> Exported:
        if (name, inputs, opset) not in made:
            path = tmp_path_factory.mktemp("export") / "model.onnx"
            model = MODELS[name]()
            result = export(model, path, inputs=inputs, opset=opset)
            made[name, inputs, opset] = Exported(model, path, result)
        return made[name, inputs, opset]

    return get


def latents(model: Model, batch: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(batch)
    inputs = {"z": torch.randn(batch, model.generator.z_dim, generator=random)}
    if model.generator.c_dim:
        inputs["c"] = torch.eye(model.generator.c_dim)[torch.arange(batch) % 3]
    return inputs


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("batch", "truncation_psi"), [(1, 0.5), (7, 1.0)])
@torch.no_grad()
def test_onnx_gives_the_images_of_pytorch(
    exported: Callable[..., Exported], name: str, batch: int, truncation_psi: float
) -> None:
    made = exported(name)
    inputs = latents(made.model, batch)
    expected = made.model.generator(**inputs, truncation_psi=truncation_psi)
    images = made.run(**inputs, truncation_psi=torch.tensor(truncation_psi))
    assert images.dtype == torch.float32
    # Two float32 implementations of some 20 layers; images span about [-10, 10] here.
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_onnx_takes_ws(exported: Callable[..., Exported]) -> None:
    made = exported("odd", inputs="ws")
    generator = made.model.generator
    ws = torch.randn(
        4, generator.num_ws, generator.w_dim, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(made.run(ws=ws), generator.synthesis(ws), atol=1e-4, rtol=0)
    assert made.result.inputs == ("ws",)


@pytest.mark.slow
@torch.no_grad()
def test_truncation_zero_gives_the_mean_image(exported: Callable[..., Exported]) -> None:
    made = exported("whole")
    generator = made.model.generator
    mean = generator.synthesis(generator.w_avg.expand(1, generator.num_ws, -1))
    images = made.run(**latents(made.model, 3), truncation_psi=torch.tensor(0.0))
    torch.testing.assert_close(images, mean.expand(3, -1, -1, -1), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_onnx_weights_are_constants(exported: Callable[..., Exported], name: str) -> None:
    made = exported(name)
    graph = onnx.load(made.path).graph
    constants = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert [node.name for node in convolutions if node.input[1] not in constants] == []
    config = made.model.generator.config
    blocks = len(config["widths"]) // 2
    # Per block: torgb, conv1, and above 4 px conv0, its filter and the image's filter.
    assert len(convolutions) == 2 + 5 * (blocks - 1)
    groups = {a.i for node in convolutions for a in node.attribute if a.name == "group"}
    assert groups <= {1, config["img_channels"], *config["widths"].values()}  # no batch in it
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["RandomNormal"] + kinds["RandomNormalLike"] == 0
    assert kinds["ReduceSum"] == 0  # the demodulation's weight energies are constants as well
    assert onnx.load(made.path).functions == []


@pytest.mark.slow
def test_onnx_batch_is_dynamic_and_the_rest_is_not(exported: Callable[..., Exported]) -> None:
    made = exported("labels, grey")
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    shapes = {x.name: x.shape for x in [*session.get_inputs(), *session.get_outputs()]}
    assert shapes == {
        "z": ["batch", 6],
        "c": ["batch", 3],
        "truncation_psi": [],
        "image": ["batch", 1, 8, 8],
    }
    assert {x.type for x in session.get_inputs()} == {"tensor(float)"}


@pytest.mark.slow
def test_onnx_metadata(exported: Callable[..., Exported]) -> None:
    made = exported("odd")
    entries = onnxruntime.InferenceSession(made.path).get_modelmeta().custom_metadata_map
    assert entries["architecture"] == "stylegan2"
    rebuilt = Generator(**json.loads(entries["config"]))
    assert rebuilt.shapes() == made.model.generator.shapes()
    inputs = json.loads(entries["inputs"])
    assert inputs["z"]["axes"] == ["batch", 6]
    assert set(inputs) == {"z", "truncation_psi"}
    assert json.loads(entries["output"])["range"] == [-1, 1]
    (step,) = json.loads(entries["provenance"])
    assert (step["command"], step["parent"]) == ("export", made.model.content_hash())


@pytest.mark.slow
def test_onnx_file_is_one_valid_file_without_local_paths(exported: Callable[..., Exported]) -> None:
    made = exported("whole")
    onnx.checker.check_model(made.path, full_check=True)
    assert [entry.name for entry in made.path.parent.iterdir()] == ["model.onnx"]
    assert made.result.bytes == made.path.stat().st_size
    assert str(Path(exporting.__file__).parents[1]).encode() not in made.path.read_bytes()


@pytest.mark.slow
def test_onnx_operator_set_is_the_one_asked_for(exported: Callable[..., Exported]) -> None:
    for opset in (18, 23):
        sets = {
            s.domain: s.version for s in onnx.load(exported("odd", opset=opset).path).opset_import
        }
        assert sets == {"": opset}


@pytest.mark.slow
@torch.no_grad()
def test_torch_archive_gives_the_images_of_pytorch(tmp_path: Path) -> None:
    model = MODELS["odd"]()
    result = export(model, tmp_path / "model.pt2", format="torch")
    assert result.max_abs_error <= 1e-5
    extra = {"architecture": "", "inputs": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert extra["architecture"] == "stylegan2"
    inputs = latents(model, 7)
    images = program.module()(**inputs, truncation_psi=torch.tensor(0.5))
    expected = model.generator(**inputs, truncation_psi=0.5)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)
    assert (
        str(Path(exporting.__file__).parents[1]).encode()
        not in (tmp_path / "model.pt2").read_bytes()
    )


@pytest.mark.slow
def test_result_counts_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_sngan()  # with statistics, which training mode would move
    model.generator.train()
    before, steps = model.content_hash(), []
    path = tmp_path / "model.onnx"
    result = export(model, path, progress=lambda *step: steps.append(step))
    assert result.output == str(path)
    assert (result.format, result.dtype, result.batches) == ("onnx", "fp32", (1, 3, 5))
    assert 0 <= result.max_abs_error <= 1e-4
    assert steps == [("exporting", done, 5) for done in range(6)]
    assert capfd.readouterr() == ("", "")
    assert model.content_hash() == before
    assert model.generator.training
    assert all(p.requires_grad for p in model.generator.parameters())


def fake_format(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor], Tensor]) -> None:
    """Put a format into the table whose file gives PyTorch's images, spoilt."""
    graphs: list[Any] = []

    def write(job: formats.Job, path: Path) -> formats.Written:
        graphs.append(job.graph)
        path.write_bytes(b"file")
        return formats.Written()

    def load(path: Path, dtype: str) -> Executable:
        assert path.read_bytes() == b"file"
        conditions = Conditions("fake", dtype, 1, "fake")
        return Executable(lambda inputs: spoil(graphs[-1].reference(inputs)), conditions)

    def reduce(job: formats.Job, full: Path, path: Path) -> None:
        path.write_bytes(full.read_bytes())

    fake = formats.ExportFormat(lambda settings: None, write, load, ("fp32", "fp16"), reduce)
    monkeypatch.setitem(exporting.FORMATS, "fake", fake)


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (lambda x: x + 2e-3, "differs from PyTorch by 0.002"),
        (lambda x: x * torch.nan, "by nan"),
        (lambda x: x[:1] if len(x) == 3 else x, "at batch 3"),
    ],
)
def test_a_file_that_gives_other_images_is_removed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    spoil: Callable[[Tensor], Tensor],
    finding: str,
) -> None:
    fake_format(monkeypatch, spoil)
    with pytest.raises(ComputationError, match=finding) as caught:
        export(make_model(), tmp_path / "model.bin", format="fake")
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_old_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_format(monkeypatch, lambda x: x + 1)
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    with pytest.raises(ComputationError):
        export(make_model(), path, format="fake", force=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_largest_difference_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_format(monkeypatch, lambda x: x + (5e-4 if len(x) == 3 else 1e-4))
    result = export(make_model(), tmp_path / "model.bin", format="fake")
    assert result.max_abs_error == pytest.approx(5e-4, abs=2e-6)  # rounding of images near 10


def test_in_lower_precision_only_what_is_finite_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_format(monkeypatch, lambda x: x + 0.5)
    result = export(make_model(), tmp_path / "model.bin", format="fake", dtype="fp16")
    assert result.max_abs_error == pytest.approx(0.5, abs=2e-6)
    fake_format(monkeypatch, lambda x: x / 0)
    with pytest.raises(ComputationError, match=r"by (inf|nan)"):
        export(make_model(), tmp_path / "other.bin", format="fake", dtype="fp16")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.bin"]


def test_an_existing_output_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        export(make_model(), path)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            {"format": "onx"},
            f"unknown --format `onx`; allowed: {', '.join(exporting.FORMATS)}",
            "`onnx`",
        ),
        ({"dtype": "fp17"}, "unknown --dtype `fp17`; allowed: fp32, fp16, int8", "`fp16`"),
        (
            {"format": "torch", "dtype": "fp16"},
            "torch has no --dtype fp16, only fp32",
            "--format onnx",
        ),
        ({"inputs": "w"}, "unknown --inputs `w`; allowed: z, ws", "`ws`"),
        ({"opset": 17}, "--opset 17 is outside 18 to 23", "leave --opset out"),
        ({"format": "torch", "opset": 18}, "goes with --format onnx", "leave --opset out"),
    ],
)
def test_wrong_options_name_what_is_allowed(
    tmp_path: Path, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        export(make_model(), tmp_path / "model.onnx", **options)
    assert caught.value.hint is not None
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    def absent(name: str) -> ModuleType:
        if name == package:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return import_module(name)

    monkeypatch.setattr("ganc.extras.import_module", absent)
    with pytest.raises(MissingDependencyError, match=f"^{package} is needed") as caught:
        export(make_model(), tmp_path / "model.onnx")
    assert caught.value.hint == "pip install 'ganc[export]'"
    assert list(tmp_path.iterdir()) == []


def test_a_discriminator_alone_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no generator"):
        export(Model(discriminator=make_model().discriminator), tmp_path / "model.onnx")


@torch.no_grad()
def test_truncation_as_a_tensor_is_truncation_as_a_number() -> None:
    graph = build_graph(make_model())
    for truncation_psi in (0.0, 0.3, 1.0, 1.5):
        inputs = graph.draw(range(3)) | {"truncation_psi": torch.tensor(truncation_psi)}
        torch.testing.assert_close(
            graph.module(**inputs), graph.reference(inputs), atol=1e-5, rtol=0
        )


@pytest.fixture
def sngan(tmp_path: Path) -> Path:
    """A checkpoint that is exported in half the time."""
    save(make_sngan(), tmp_path / "sngan.safetensors")
    return tmp_path / "sngan.safetensors"


@pytest.mark.slow
def test_command_reports_the_check(
    ganc: Callable[..., Outcome], sngan: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model.onnx"
    outcome = ganc("export", sngan, "-o", output, "--json")
    assert (outcome.code, outcome.err) == (0, "exporting …\n")
    result = json.loads(outcome.out)
    assert {"output", "format", "max_abs_error", "bytes"} <= set(result)
    assert result["bytes"] == output.stat().st_size
    again = ganc("export", sngan, "-o", output)
    assert (again.code, again.out) == (3, "")
    assert again.err == f"error: {output} exists already\nhint: pass --force to overwrite it\n"


def test_the_table_has_an_error_of_zero_and_nothing_empty(
    ganc: Callable[..., Outcome], tmp_path: Path
) -> None:
    save(make_model(), tmp_path / "m.safetensors")
    words = ("export", tmp_path / "m.safetensors", "--format", "nvidia", "-o")
    result = json.loads(ganc(*words, tmp_path / "a.pt", "--json").out)
    assert result["max_abs_error"] == 0
    assert result["perceptual"] is None
    shown = ganc(*words, tmp_path / "b.pt").out
    assert "max_abs_error" in shown
    assert "perceptual" not in shown


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--format", "onx"], 2, "did you mean `onnx`?"),
        (["--opset", "9"], 2, "outside 18 to 23"),
        (["--dry-run", "--json"], 0, ""),
    ],
)
def test_command_checks_options_before_it_loads(
    ganc: Callable[..., Outcome], tmp_path: Path, options: list[str], code: int, error: str
) -> None:
    outcome = ganc("export", tmp_path / "missing", "-o", tmp_path / "model.onnx", *options)
    assert outcome.code == code
    assert error in outcome.err


def test_command_writes_a_checked_file_to_stdout(
    sngan: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(["export", str(sngan), "-o", "-", "-q"]) == 0
    session = onnxruntime.InferenceSession(
        capsysbinary.readouterr().out, providers=["CPUExecutionProvider"]
    )
    assert [described.name for described in session.get_inputs()] == ["z"]
