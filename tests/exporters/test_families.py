"""Every family leaves PyTorch: same images at other batch sizes, pruned to odd widths as well.

An export takes seconds, by the number of layers: models have as few as there are kinds.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from ganc.errors import InputError, UsageError
from ganc.exporters.export import export
from ganc.models.model import Model
from ganc.pruning.slicing import PrunePlan, apply_plan
from ganc.runtimes.graph import build_graph
from tests.conftest import Outcome
from tests.families import (
    make_cyclegan,
    make_patchgan,
    make_resnet,
    make_sngan,
    make_stylegan3,
    make_unet,
)


def narrowed(model: Model) -> Model:
    """Cut every second group of the generator to one channel, the others by one."""
    groups = model.generator.groups()
    keep = {g.name: range(1 if i % 2 else g.width - 1) for i, g in enumerate(groups)}
    return apply_plan(Model(generator=model.generator), PrunePlan(keep))


small_stylegan3 = partial(make_stylegan3, num_layers=2)

MODELS: dict[str, Callable[[], Model]] = {
    "stylegan3-t": small_stylegan3,
    "stylegan3-r": lambda: small_stylegan3(is_rotation_equivariant=True),
    "stylegan3-labels-pruned": lambda: narrowed(small_stylegan3(c_dim=3)),
    "sngan": make_sngan,
    "sngan-pruned": lambda: narrowed(make_sngan()),
    "resnet": make_resnet,
    "resnet-pruned": lambda: narrowed(make_resnet()),
    "unet": make_unet,
    "unet-pruned": lambda: narrowed(make_unet()),
    "unet-own-statistics": lambda: make_unet(statistics="batch"),
}

# These become the files of the pruned ones, but for the sizes of tensors. They are exported in
# ``test_export`` (by the command), ``test_precision`` and below (own statistics).
WHOLE = ("sngan", "resnet", "unet")


def fresh_inputs(model: Model, batch: int) -> dict[str, Tensor]:
    """Draw inputs by the generator's own declaration, not by the exporter's.

    Of a translator: 8x8 images (the innermost map of the U-Net is one pixel) in batches of 1, else
    24x56 (what was traced is of another size).
    """
    random = torch.Generator().manual_seed(batch)
    generator = model.generator
    if hasattr(generator, "in_channels"):
        sides = (8, 8) if batch == 1 else (24, 56)
        shape = (batch, generator.in_channels, *sides)
        return {"x": torch.rand(shape, generator=random) * 2 - 1}
    inputs = {"z": torch.randn(batch, generator.z_dim, generator=random)}
    if generator.c_dim:
        inputs["c"] = torch.eye(generator.c_dim)[torch.arange(batch) % generator.c_dim]
    return inputs


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Export a model of ``MODELS`` to ONNX, once per module."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("onnx") / "m.onnx"
            assert export(MODELS[name](), made[name]).max_abs_error < 1e-4
        return made[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in WHOLE])
@torch.no_grad()
def test_onnx_gives_the_images_of_pytorch(exported: Callable[[str], Path], name: str) -> None:
    model, path = MODELS[name](), exported(name)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        inputs = fresh_inputs(model, batch)
        psi = {"truncation_psi": 0.6} if name.startswith("stylegan3") else {}
        feed = {k: v.numpy() for k, v in inputs.items()}
        feed |= {k: torch.tensor(v).numpy() for k, v in psi.items()}
        (images,) = session.run(["image"], feed)
        expected = model.generator(**inputs, **psi)
        torch.testing.assert_close(torch.from_numpy(images), expected, atol=1e-4, rtol=0)
    side, channels = model.generator.img_resolution, model.generator.img_channels
    multiple = {"r": 4, "u": 8}.get(name[0])  # of the tiny ResNet's and the tiny U-Net's sizes
    sides = [f"{multiple}*height", f"{multiple}*width"] if multiple else [side, side]
    assert session.get_outputs()[0].shape == ["batch", channels, *sides]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stylegan3-r", "sngan-pruned", "resnet", "unet-own-statistics"])
@torch.no_grad()
def test_torch_archive_gives_the_images_of_pytorch(tmp_path: Path, name: str) -> None:
    model = MODELS[name]()
    export(model, tmp_path / "m.pt2", format="torch")
    module = torch.export.load(tmp_path / "m.pt2").module()
    inputs = fresh_inputs(model, 6)
    psi = {"truncation_psi": 0.6} if name.startswith("stylegan3") else {}
    images = module(**inputs, **{k: torch.tensor(v) for k, v in psi.items()})
    torch.testing.assert_close(images, model.generator(**inputs, **psi), atol=1e-4, rtol=0)
    if "x" in inputs:
        x = fresh_inputs(model, 1)["x"]
        torch.testing.assert_close(module(x=x), model.generator(x), atol=1e-4, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_stylegan3_takes_ws(tmp_path: Path) -> None:
    generator = (model := small_stylegan3()).generator
    assert export(model, tmp_path / "m.onnx", inputs="ws").inputs == ("ws",)
    ws = torch.randn(4, generator.num_ws, 8, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (images,) = session.run(["image"], {"ws": ws.numpy()})
    expected = generator.synthesis(ws)
    torch.testing.assert_close(torch.from_numpy(images), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stylegan3-t", *(f"{name}-pruned" for name in WHOLE)])
def test_weights_are_constants(exported: Callable[[str], Path], name: str) -> None:
    file = onnx.load(exported(name))
    constants = {tensor.name for tensor in file.graph.initializer}
    convolutions = [n for n in file.graph.node if n.op_type in ("Conv", "ConvTranspose")]
    assert convolutions
    assert [n.name for n in convolutions if n.input[1] not in constants] == []
    assert {n.op_type for n in file.graph.node} & {"Dropout", "RandomNormal", "GridSample"} == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stylegan3-t", *(f"{name}-pruned" for name in WHOLE)])
def test_metadata_says_what_goes_in(exported: Callable[[str], Path], name: str) -> None:
    model = MODELS[name]()
    entries = {e.key: e.value for e in onnx.load(exported(name)).metadata_props}
    assert entries["architecture"] == model.architecture
    rebuilt = type(model.generator)(**json.loads(entries["config"]))
    assert rebuilt.shapes() == model.generator.shapes()
    inputs = json.loads(entries["inputs"])
    if model.architecture.endswith("translator"):
        multiple = model.generator.size_multiple
        sides = [f"{multiple}*height", f"{multiple}*width"]
        assert inputs["x"]["axes"] == ["batch", model.generator.in_channels, *sides]
        assert "[-1, 1]" in inputs["x"]["meaning"]
    else:
        assert inputs["z"]["axes"] == ["batch", 6]
    assert json.loads(entries["output"])["range"] == [-1, 1]


@pytest.mark.slow
@torch.no_grad()
def test_the_other_direction(ganc: Callable[..., Outcome], tmp_path: Path) -> None:
    from ganc.checkpoints.store import save

    model = make_cyclegan()
    save(model, tmp_path / "m.safetensors")
    output = tmp_path / "b.onnx"
    arguments = ("export", tmp_path / "m.safetensors", "-o", output, "--network", "generator_b")
    assert json.loads(ganc(*arguments, "--json").out)["network"] == "generator_b"
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    x = fresh_inputs(model, 3)["x"]
    (images,) = session.run(["image"], {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(images), model.generator_b(x), atol=1e-4, rtol=0)
    step = json.loads(session.get_modelmeta().custom_metadata_map["provenance"])[-1]
    assert (step["network"], step["parent"]) == ("generator_b", model.content_hash())


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_graph_is_the_generator(name: str) -> None:
    graph = build_graph(MODELS[name]())
    drawn = graph.draw(range(3))
    assert set(drawn) == set(graph.inputs)
    torch.testing.assert_close(graph.module(**drawn), graph.reference(drawn), atol=1e-5, rtol=0)
    for key, tensor in graph.draw(range(1, 2)).items():
        if tensor.ndim:
            assert torch.equal(tensor[0], drawn[key][1])  # sample 1, whatever stands beside it


def test_what_a_family_does_not_take_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(UsageError, match="unknown --inputs `z`; allowed: x"):
        export(make_resnet(), path, inputs="z")
    with pytest.raises(UsageError, match="unknown --inputs `ws`; allowed: z"):
        export(make_sngan(), path, inputs="ws")
    with pytest.raises(UsageError, match="unknown --network `discriminator`"):
        export(make_resnet(), path, network="discriminator")
    with pytest.raises(InputError, match="holds no generator_b, but generator"):
        export(make_resnet(), path, network="generator_b")
    with pytest.raises(InputError, match="holds no generator, but discriminator"):
        export(make_patchgan(), path)
    assert not path.exists()
