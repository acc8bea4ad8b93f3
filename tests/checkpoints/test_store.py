"""Checkpoints: round trips, foreign files, damage, and no code from a file."""

import contextlib
import io
import json
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ganc.checkpoints.header import read_header
from ganc.checkpoints.store import import_checkpoints, load, save
from ganc.errors import CheckpointError, GancError, OutputError, UsageError
from ganc.models.model import Model
from tests.conftest import GOLDEN, make_model

ROSINALITY = GOLDEN / "files" / "rosinality"
DCP = GOLDEN / "files" / "dcp" / "dcp_0.7_32px_a5.0_n4_t1.00_model.pt"


@pytest.mark.parametrize("settings_", [{}, {"c_dim": 3}, {"img_channels": 4}])
def test_round_trip_bit_for_bit(settings_: dict[str, int], tmp_path: Path) -> None:
    model = make_model(**settings_)
    model.provenance.append({"command": "test", "umlaut": "ü", "number": 0.1})
    save(model, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert again.architecture == "stylegan2"
    assert again.config == model.config
    assert again.provenance == model.provenance
    assert again.widths == model.widths
    before, after = model.tensors(), again.tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.content_hash() == model.content_hash()
    assert not again.generator.training


def test_saving_twice_gives_the_same_bytes(model: Model, tmp_path: Path) -> None:
    save(model, tmp_path / "a.safetensors")
    save(load(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_header_answers_without_weights(checkpoint: Path, model: Model) -> None:
    header = read_header(checkpoint)
    assert header.architecture == "stylegan2"
    assert header.resolution == 16
    assert header.params == sum(p.numel() for p in model.generator.parameters())
    assert header.macs == model.macs()
    assert header.widths == model.widths
    assert header.config == model.config


def test_streams(model: Model) -> None:
    stream = io.BytesIO()
    save(model, stream)
    stream.seek(0)
    assert load(stream).content_hash() == model.content_hash()


@pytest.mark.parametrize("missing", ["generator", "discriminator"])
def test_one_network_alone(model: Model, tmp_path: Path, missing: str) -> None:
    setattr(model, missing, None)
    save(model, tmp_path / "one.safetensors")
    again = load(tmp_path / "one.safetensors")
    assert getattr(again, missing) is None
    assert again.architecture == "stylegan2"
    assert again.params() == read_header(tmp_path / "one.safetensors").params > 0
    assert again.widths == model.widths


def test_import_joins_files(model: Model, tmp_path: Path) -> None:
    save(Model(generator=model.generator), tmp_path / "g.safetensors")
    save(Model(discriminator=model.discriminator), tmp_path / "d.safetensors")
    joined = import_checkpoints([tmp_path / "g.safetensors", tmp_path / "d.safetensors"])
    assert joined.content_hash() == model.content_hash()
    with pytest.raises(CheckpointError, match="holds a generator"):
        import_checkpoints([tmp_path / "g.safetensors", tmp_path / "g.safetensors"])


# --- foreign files -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(ROSINALITY.iterdir()), ids=lambda path: path.name)
@torch.no_grad()
def test_rosinality_files(path: Path, golden: Callable[[str], Mapping[str, Tensor]]) -> None:
    io_ = golden("rosinality-stylegan2-32")
    model = load(path)
    got = model.generator(io_["z"], noise=[io_[f"noise_{i}"] for i in range(7)])
    torch.testing.assert_close(got, io_["img"], atol=1e-5, rtol=0)
    assert (model.discriminator is not None) == (path.stem in ("networks", "000100"))
    if model.discriminator is not None:
        logits = model.discriminator(io_["img"])
        torch.testing.assert_close(logits, io_["d_logits_b4"], rtol=1e-4, atol=1e-5)
    assert model.params() == 77427
    assert model.provenance[0]["layout"] == "rosinality"


def test_latent_avg_is_taken_or_computed() -> None:
    given_ = load(ROSINALITY / "converted.pt")
    stored = torch.load(ROSINALITY / "converted.pt", weights_only=True)
    assert torch.equal(given_.generator.w_avg, stored["latent_avg"].reshape(-1))
    assert "w_avg" not in given_.provenance[0]["inferred"]
    computed = load(ROSINALITY / "legacy.pt")
    assert "10000" in computed.provenance[0]["inferred"]["w_avg"]
    z = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        w = computed.generator.mapping(z)[:, 0]
    # Two independent means of 10 000 and 20 000 samples: within five standard errors.
    error = w.std(dim=0) * (1 / 10_000 + 1 / 20_000) ** 0.5
    assert ((computed.generator.w_avg - w.mean(dim=0)).abs() < 5 * error).all()


@torch.no_grad()
def test_checkpoint_that_was_pruned_elsewhere(
    golden: Callable[[str], Mapping[str, Tensor]],
) -> None:
    io_ = golden("diversity-scores")
    model = load(DCP)
    noise = [io_[f"eval_noise_{i}"] for i in range(7)]
    got = model.generator(io_["eval_z"], noise=noise)
    torch.testing.assert_close(got, io_["prune.official.pruned_img"], atol=1e-5, rtol=0)
    assert model.params() == 27132
    assert model.macs() == 631424


@pytest.mark.parametrize("wrap", [lambda g: g, lambda g: {f"module.{k}": v for k, v in g.items()}])
def test_bare_state_dict_and_module_prefix(
    wrap: Callable[[dict[str, Tensor]], dict[str, Tensor]], tmp_path: Path
) -> None:
    state = torch.load(ROSINALITY / "legacy.pt", weights_only=True)["g_ema"]
    torch.save(wrap(state), tmp_path / "g.pth")
    assert load(tmp_path / "g.pth").params() == 77427


def test_first_key_that_does_not_fit_is_named(tmp_path: Path) -> None:
    tree = torch.load(ROSINALITY / "legacy.pt", weights_only=True)
    tree["g_ema"]["convs.0.attention.weight"] = torch.zeros(3)
    torch.save(tree, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"convs\.0\.attention\.weight does not fit"):
        load(tmp_path / "odd.pt")


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    tree = torch.load(ROSINALITY / "legacy.pt", weights_only=True)
    del tree["g_ema"]["convs.2.conv.modulation.bias"]
    torch.save(tree, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"b16\.conv0\.affine\.bias is missing"):
        load(tmp_path / "odd.pt")


# --- damage --------------------------------------------------------------------------------------


def rewrite_metadata(path: Path, change: Callable[[dict[str, str]], Any]) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_bit_flip_is_found(checkpoint: Path, position: float, bit: int) -> None:
    content = bytearray(checkpoint.read_bytes())
    index = int(position * len(content))
    content[index] ^= 1 << bit
    damaged = checkpoint.with_name("flipped.safetensors")
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError):
        load(damaged)


@settings(max_examples=40, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(share=st.floats(0, 0.9999))
@pytest.mark.parametrize("kind", ["native", "torch"])
def test_every_truncation_is_found(checkpoint: Path, kind: str, share: float) -> None:
    source = checkpoint if kind == "native" else DCP
    content = source.read_bytes()
    cut = checkpoint.with_name("cut.safetensors")
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError):
        load(cut)
    if kind == "native":
        with pytest.raises(CheckpointError):
            read_header(cut)


@settings(max_examples=40, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_mutated_torch_files_give_clean_errors_or_a_model(
    tmp_path: Path, position: float, value: int
) -> None:
    content = bytearray(DCP.read_bytes())
    content[int(position * len(content))] = value
    path = tmp_path / "mutated.pt"
    path.write_bytes(content)
    with contextlib.suppress(GancError):
        assert isinstance(load(path), Model)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"", "empty"),
        (b"just some text, renamed", "not a checkpoint"),
        (b"PK\x03\x04garbage", "damaged"),
        (struct.pack("<Q", 2**40) + b"{}", "not valid|damaged"),
        (struct.pack("<Q", 2) + b"{}", "no known layout"),
        (b"\x80\x02]q\x00.", "no known layout"),
    ],
)
def test_files_that_are_something_else(content: bytes, finding: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=finding) as caught:
        load(path)
    assert str(path) in caught.value.message


def test_newer_format_names_the_version_to_install(checkpoint: Path) -> None:
    rewrite_metadata(checkpoint, lambda m: m.update(ganc_format="9", ganc_version="3.1"))
    for read in (load, read_header):
        with pytest.raises(CheckpointError, match="format 9") as caught:
            read(checkpoint)
        assert "ganc>=3.1" in (caught.value.hint or "")


def test_metadata_cannot_be_edited_unnoticed(checkpoint: Path) -> None:
    rewrite_metadata(checkpoint, lambda m: m.update(macs="1"))
    with pytest.raises(CheckpointError, match="checksum"):
        read_header(checkpoint)


def test_unknown_tree_is_described(tmp_path: Path) -> None:
    torch.save({"weights": {"layer.weight": torch.zeros(2)}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"no known layout \(it holds weights\)"):
        load(tmp_path / "x.pt")
    with pytest.raises(UsageError, match="stylegan9"):
        load(DCP, architecture="stylegan9")


class Canary:
    """Pickles into a call that would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_from_a_file_runs(tmp_path: Path, legacy: bool) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pt"
    torch.save({"g_ema": Canary(canary)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"global posix\.system"):
        load(path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Canary(canary), protocol=2))
    with pytest.raises(CheckpointError, match=r"global posix\.system"):
        load(tmp_path / "evil.pkl")
    assert not canary.exists()


# --- writing -------------------------------------------------------------------------------------


def test_nothing_is_overwritten_without_force(checkpoint: Path, model: Model) -> None:
    before = checkpoint.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save(model, checkpoint)
    assert checkpoint.read_bytes() == before
    save(make_model(seed=9), checkpoint, force=True)
    assert checkpoint.read_bytes() != before


def test_failed_write_leaves_the_old_file(
    checkpoint: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoint.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="no space left"):
        save(model, checkpoint, force=True)
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
