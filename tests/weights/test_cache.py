import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ganc.errors import OutputError, UsageError, WeightsError
from ganc.weights import download as download_module
from ganc.weights.cache import (
    cache_folder,
    check_weights,
    install_weights,
    known_sha256,
    read_tensors,
    weights_path,
)
from ganc.weights.published import WEIGHTS, WeightsFile
from tests import forked
from tests.weights.host import CONTENT, Host, cut, serving, stall, status

SHA256 = hashlib.sha256(CONTENT).hexdigest()
UNPUBLISHED = [name for name, row in WEIGHTS.items() if not row.sha256]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(download_module, "TIMEOUT_SEC", 0.3)
    monkeypatch.setattr(download_module, "BACKOFF_SEC", (0.0,))
    with serving(Host()) as host:
        yield host


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> Path:
    """Make `vgg16` a small file at ``url``; return where it belongs."""
    monkeypatch.setitem(WEIGHTS, "vgg16", WeightsFile("vgg.pth", url, SHA256, len(CONTENT)))
    return cache_folder() / "weights" / "vgg.pth"


def kept(target: Path) -> set[str]:
    """Return what lies beside ``target``, its lock left out."""
    return {path.name for path in target.parent.iterdir()} - {f".{target.name}.lock"}


def test_fetches_verifies_and_keeps(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    target = point_at(monkeypatch, host.url)
    reports: list[tuple[str, int, int]] = []
    path = weights_path("vgg16", progress=lambda *report: reports.append(report))
    assert path == target
    assert path.read_bytes() == CONTENT
    assert kept(target) == {"vgg.pth"}
    assert reports[-1] == ("fetching vgg.pth", len(CONTENT), len(CONTENT))
    assert weights_path("vgg16") == path
    assert len(host.asked) == 1


@pytest.mark.parametrize(
    ("fault", "finding", "left"),
    [
        (status(404), "answered 404", set()),
        (cut(5000), f"broke off after 5000 of {len(CONTENT)} bytes", {".part", ".part.json"}),
        (stall(5000), "timed out", {".part", ".part.json"}),
    ],
)
def test_failed_download_is_one_line_with_both_ways_out(
    host: Host, fault: object, finding: str, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = point_at(monkeypatch, host.url)
    host.faults = [fault] * 2
    with pytest.raises(WeightsError, match=finding) as caught:
        weights_path("vgg16")
    assert kept(target) == {"vgg.pth" + ending for ending in left}
    assert caught.value.exit_code == 3
    assert "\n" not in caught.value.message
    for fact in ("`vgg16`", SHA256, str(target), host.url):
        assert fact in caught.value.message
    hint = str(caught.value.hint)
    assert "allow the network" in hint
    assert f"fetch {host.url} elsewhere" in hint
    assert "ganc weights fetch vgg16 --from FILE" in hint
    host.faults = []
    assert weights_path("vgg16").read_bytes() == CONTENT


def test_wrong_content_is_thrown_away(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    target = point_at(monkeypatch, host.url)
    host.content = CONTENT[::-1]
    wrong = hashlib.sha256(host.content).hexdigest()
    with pytest.raises(WeightsError, match=f"sent other content, SHA-256 {wrong}, which was"):
        weights_path("vgg16")
    assert kept(target) == set()
    host.content = CONTENT
    assert weights_path("vgg16") == target
    assert host.asked[-1].range is None


def test_part_of_an_older_file_never_becomes_weights(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = point_at(monkeypatch, host.url)
    host.faults = [cut(5000)] * 2
    with pytest.raises(WeightsError):
        weights_path("vgg16")
    (target.parent / "vgg.pth.part").write_bytes(CONTENT[1:5001])  # damaged on the disk
    with pytest.raises(WeightsError, match="sent other content"):
        weights_path("vgg16")
    assert weights_path("vgg16").read_bytes() == CONTENT


def test_two_threads_fetch_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, host.url)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(weights_path("vgg16").read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert len(host.asked) == 1


def fetch_in_process(cache: str, url: str) -> None:
    os.environ["GANC_CACHE"] = cache
    WEIGHTS["vgg16"] = WeightsFile("vgg.pth", url, SHA256, 0)
    assert weights_path("vgg16").read_bytes() == CONTENT


def test_two_processes_fetch_once(host: Host) -> None:
    given = (os.environ["GANC_CACHE"], host.url)
    both = [forked.start(fetch_in_process, *given) for _ in range(2)]
    assert [forked.exit_code(process) for process in both] == [0, 0]
    assert len(host.asked) == 1


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_offline_never_asks(host: Host, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = point_at(monkeypatch, host.url)
    if by == "variable":
        monkeypatch.setenv("GANC_OFFLINE", "1")
    with pytest.raises(WeightsError, match="network is off limits") as caught:
        weights_path("vgg16", offline=by == "argument")
    assert not target.exists()
    assert host.asked == []
    assert host.url in str(caught.value.hint)


def test_file_put_there_by_hand_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    target = point_at(monkeypatch, "http://127.0.0.1:9/never")
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)
    assert weights_path("vgg16", offline=True) == target
    target.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=f"expected {SHA256}"):
        weights_path("vgg16", offline=True)
    assert target.exists()  # the user's file: ours to refuse, not to delete


def test_cache_that_cannot_be_written(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "file" / "cache"))
    point_at(monkeypatch, host.url)
    with pytest.raises(OutputError, match="cannot be written"):
        weights_path("vgg16")


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown weights `vgg-16`") as caught:
        weights_path("vgg-16")
    assert caught.value.hint == "did you mean `vgg16`?"


def test_file_from_elsewhere_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = point_at(monkeypatch, "https://127.0.0.1:9/never")
    (tmp_path / "download").write_bytes(CONTENT)
    assert install_weights("vgg16", tmp_path / "download") == target
    assert weights_path("vgg16", offline=True) == target
    assert (tmp_path / "download").exists()
    target.write_bytes(b"damaged")
    assert install_weights("vgg16", tmp_path / "download").read_bytes() == CONTENT


def test_a_pipe_from_elsewhere_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, "https://127.0.0.1:9/never")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(CONTENT,))
    writer.start()
    assert install_weights("vgg16", pipe).read_bytes() == CONTENT
    writer.join()


def test_wrong_file_from_elsewhere_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = point_at(monkeypatch, "https://127.0.0.1:9/never")
    (tmp_path / "wrong").write_bytes(b"something else")
    with pytest.raises(WeightsError, match=f"wrong has SHA-256 .*`vgg16` needs {SHA256}") as caught:
        install_weights("vgg16", tmp_path / "wrong")
    assert "https://127.0.0.1:9/never" in str(caught.value.hint)
    assert kept(target) == set()
    with pytest.raises(WeightsError, match="there is no such file"):
        install_weights("vgg16", tmp_path / "gone")


@pytest.mark.parametrize("way", ["installed", "put there"])
def test_first_sha256_holds_where_none_is_published(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = WeightsFile("drn.pth", "", "", 0, page="https://example.org/models")
    monkeypatch.setitem(WEIGHTS, "drn_d_22", row)
    with pytest.raises(WeightsError, match=r"not published.*no address") as caught:
        weights_path("drn_d_22")
    assert "drn.pth from https://example.org/models with a browser" in str(caught.value.hint)
    target = cache_folder() / "weights" / "drn.pth"
    (tmp_path / "file").write_bytes(CONTENT)
    if way == "installed":
        install_weights("drn_d_22", tmp_path / "file")
    else:
        target.parent.mkdir(parents=True)
        target.write_bytes(CONTENT)
        weights_path("drn_d_22")
    assert known_sha256("drn_d_22") == SHA256
    done = subprocess.run(["sha256sum", "-c", "drn.pth.sha256"], cwd=target.parent, check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout == "drn.pth: OK\n"
    (tmp_path / "file").write_bytes(CONTENT[1:])
    with pytest.raises(WeightsError, match=f"needs {SHA256}") as caught:
        install_weights("drn_d_22", tmp_path / "file")
    assert f"delete {target}.sha256" in str(caught.value.hint)
    target.write_bytes(CONTENT[1:])
    with pytest.raises(WeightsError, match=f"expected {SHA256}"):
        weights_path("drn_d_22")


@pytest.mark.parametrize("name", WEIGHTS)
def test_table_agrees_with_the_publishers(name: str) -> None:
    row = WEIGHTS[name]
    assert row.purpose
    if name in UNPUBLISHED:
        assert not row.url
        assert row.page.startswith("https://")
        return
    assert row.url.startswith("https://")
    assert len(row.sha256) == 64
    if "torch.org" in row.url:  # torchvision's names carry the first eight digits
        assert row.url.endswith(f"/{row.file_name}")
        assert row.file_name.rsplit("-", 1)[1] == f"{row.sha256[:8]}.pth"


def test_missing_file_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, "https://127.0.0.1:9/never")
    check_weights("vgg16")
    monkeypatch.setenv("GANC_OFFLINE", "1")
    with pytest.raises(WeightsError, match="off limits"):
        check_weights("vgg16")
    with pytest.raises(WeightsError, match="no address"):
        check_weights(UNPUBLISHED[0], offline=False)


def test_cache_folder_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANC_CACHE")
    assert cache_folder().name == "ganc"


def test_weights_run_no_code(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pth")
    assert read_tensors(tmp_path / "good.pth")["a"].tolist() == [1, 1]
    torch.save(Path, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="cannot be read as PyTorch weights"):
        read_tensors(tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        read_tensors(tmp_path / "list.pth")
