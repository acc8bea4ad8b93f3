"""Files that people take for a checkpoint: what each is, and the way out."""

import gzip
import io
import json
import pathlib
import pickle
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ganc.checkpoints.store import load
from ganc.errors import CheckpointError
from ganc.scores import Scores
from tests.conftest import Outcome

PAGES = {
    "doctype": b"<!DOCTYPE html><html>virus scan warning</html>",
    "lower case, blanks": b"\xef\xbb\xbf \n<!doctype HTML>\n<title>x</title>",
    "no doctype": b"<html><head></head></html>",
    "a comment first": b"<!-- saved from url --><html></html>",
    "sixteen bits": "\ufeff<!DOCTYPE html><html></html>".encode("utf-16-le"),
}


def refused(content: bytes, folder: Path) -> CheckpointError:
    path = folder / "net.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return file.getvalue()


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_a_web_page(page: bytes, tmp_path: Path) -> None:
    assert "is a web page, not a checkpoint" in refused(page, tmp_path).message


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    error = refused(pointer, tmp_path)
    assert "Git LFS pointer" in error.message
    assert "git lfs pull" in str(error.hint)


def test_compressed_and_archived(tmp_path: Path) -> None:
    assert "compressed file" in refused(gzip.compress(b"x" * 100), tmp_path).message
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        made.addfile(tarfile.TarInfo("net.pt"), io.BytesIO())
    assert "tar archive" in refused(file.getvalue(), tmp_path).message
    error = refused(archive("model/net_G.pth", "model/README"), tmp_path)
    assert "zip archive with model/net_G.pth inside" in error.message
    for inner in ("ffhq.pkl", "images/0.png"):
        error = refused(archive(inner), tmp_path)
        assert f"zip archive with {inner} inside" in error.message
    file = io.BytesIO()
    np.savez(file, a=np.zeros(2))
    assert "NumPy arrays" in refused(file.getvalue(), tmp_path).message


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_whole_pickled_module(legacy: bool, tmp_path: Path) -> None:
    content = saved(nn.Sequential(nn.Conv2d(3, 3, 1)), _use_new_zipfile_serialization=not legacy)
    error = refused(content, tmp_path)
    assert "whole pickled module (torch.nn.modules.container.Sequential)" in error.message
    assert "torch.load(FILE, weights_only=False)" in str(error.hint)
    assert "torch.save(model.state_dict(), NEW)" in str(error.hint)


def test_a_module_inside_a_training_checkpoint(tmp_path: Path) -> None:
    error = refused(saved({"epoch": 3, "model": nn.Linear(2, 2)}), tmp_path)
    assert "whole pickled module" in error.message


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_file(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), file)
    error = refused(file.getvalue(), tmp_path)
    assert "TorchScript program" in error.message
    assert "torch.jit.load(FILE).state_dict()" in str(error.hint)


def test_an_exported_program(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), file)
    assert "exported program" in refused(file.getvalue(), tmp_path).message


def test_an_onnx_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "g", [], [])
    model = onnx.helper.make_model(graph, producer_name="pytorch")
    assert "ONNX model" in refused(model.SerializeToString(), tmp_path).message


def test_networks_of_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Network:
        def __getstate__(self) -> dict[str, Any]:
            return {"version": 4, "name": "G", "variables": [("lod", np.float32(0))]}

    for name in ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    Network.__module__, Network.__qualname__ = "dnnlib.tflib.network", "Network"
    monkeypatch.setattr(sys.modules["dnnlib.tflib.network"], "Network", Network, raising=False)
    for protocol in (2, 3, 4):
        error = refused(pickle.dumps((Network(), Network()), protocol), tmp_path)
        assert "NVIDIA's TensorFlow code (dnnlib.tflib.network.Network)" in error.message
        assert "legacy.py" in str(error.hint)


def test_scores_in_place_of_a_model(tmp_path: Path) -> None:
    scores = Scores({"b4.conv1": torch.ones(3)}, "random", {}, None)
    assert "holds scores" in refused(scores.to_bytes(), tmp_path).message


@pytest.mark.parametrize("address", ["https://host/x/faces.pt", "hf://user/model", "s3://b/x.pt"])
def test_an_address_in_place_of_a_path(address: str, ganc: Callable[..., Outcome]) -> None:
    done = ganc("info", address)
    assert done.code == 3
    assert f"{address} is a web address" in done.err
    assert "download it and pass the file" in done.err


def test_a_text_in_json(tmp_path: Path) -> None:
    for text in (b'{"err": {"code": 404}}', b' [{"message": "Not Found"}]'):
        assert "text in JSON" in refused(text, tmp_path).message


def test_a_path_that_no_system_takes(ganc: Callable[..., Outcome]) -> None:
    done = ganc("info", "x" * 5000)
    assert done.code == 3
    assert "cannot be read: File name too long" in done.err


def test_a_dict_with_such_words_is_no_module(tmp_path: Path) -> None:
    class Options:
        freeze_modules = init_parameters = True

        def __reduce__(self) -> tuple[Any, ...]:
            return pathlib.Path.cwd, (), {"freeze_modules": 1, "init_parameters": 2}

    error = refused(saved({"model": {}, "options": Options()}), tmp_path)
    assert "whole pickled module" not in error.message


def test_a_path_that_is_missing_is_no_address(ganc: Callable[..., Outcome]) -> None:
    done = ganc("info", "C:/faces.pt")
    assert "C:/faces.pt does not exist" in done.err


def test_another_programs_safetensors(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "lm.safetensors"
    safetensors.torch.save_file({"model.embed.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r"no known layout \(it holds model\.embed\.weight\)"):
        load(path)
    text = json.dumps({"a": 1}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)
