import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from ganc.errors import OutputError, UsageError, WeightsError
from ganc.perceptual import cache as cache_module
from ganc.perceptual.cache import WEIGHTS, WeightsFile, cache_folder, read_tensors, weights_path

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/ok")
            self.end_headers()
        else:
            self.reply()

    def reply(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/slow":
            self.wfile.write(CONTENT[:10])
            self.wfile.flush()
            time.sleep(2)
        elif self.path == "/cut":
            self.wfile.write(CONTENT[:5000])
        elif self.path == "/wrong":
            self.wfile.write(CONTENT[::-1])
        else:
            self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> Path:
    """Make `vgg16` a small file at ``url``; return where it belongs."""
    monkeypatch.setitem(WEIGHTS, "vgg16", WeightsFile("vgg.pth", url, SHA256, len(CONTENT)))
    return cache_folder() / "weights" / "vgg.pth"


@pytest.mark.parametrize("route", ["/ok", "/moved"])
def test_fetches_verifies_and_keeps(
    server: str, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = point_at(monkeypatch, server + route)
    reports: list[tuple[str, int, int]] = []
    path = weights_path("vgg16", progress=lambda *report: reports.append(report))
    assert path == target
    assert path.read_bytes() == CONTENT
    assert reports[-1] == ("fetching vgg.pth", len(CONTENT), len(CONTENT))
    point_at(monkeypatch, server + "/missing")
    assert weights_path("vgg16") == path  # not asked for twice


@pytest.mark.parametrize(
    ("route", "finding"),
    [
        ("/missing", "answered 404"),
        ("/cut", f"ended after 5000 of {len(CONTENT)} bytes"),
        ("/wrong", "sent other content, SHA-256"),
        ("/slow", "timed out"),
    ],
)
def test_failed_download_leaves_nothing(
    server: str, route: str, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "TIMEOUT_SEC", 0.5)
    target = point_at(monkeypatch, server + route)
    with pytest.raises(WeightsError, match=finding) as caught:
        weights_path("vgg16")
    assert list(target.parent.iterdir()) == []
    assert "\n" not in caught.value.message
    assert f"put it at {target}" in str(caught.value.hint)


def test_no_network_is_reported_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        target = point_at(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}/x")
        start = time.monotonic()
        with pytest.raises(WeightsError) as caught:
            weights_path("vgg16")
    assert time.monotonic() - start < 5
    assert caught.value.exit_code == 3
    for fact in ("`vgg16`", SHA256, str(target), "refused"):
        assert fact in caught.value.message


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_offline_never_asks(server: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = point_at(monkeypatch, server + "/ok")
    if by == "variable":
        monkeypatch.setenv("GANC_OFFLINE", "1")
    with pytest.raises(WeightsError, match="network is off limits") as caught:
        weights_path("vgg16", offline=by == "argument")
    assert not target.exists()
    assert f"{server}/ok" in str(caught.value.hint)


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
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GANC_CACHE", str(tmp_path / "file" / "cache"))
    point_at(monkeypatch, server + "/ok")
    with pytest.raises(OutputError, match="cannot be written"):
        weights_path("vgg16")


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown weights `vgg-16`") as caught:
        weights_path("vgg-16")
    assert caught.value.hint == "did you mean `vgg16`?"


@pytest.mark.parametrize("name", WEIGHTS)
def test_table_agrees_with_the_publishers(name: str) -> None:
    row = WEIGHTS[name]
    assert row.url.startswith("https://")
    assert row.url.endswith("/" + row.file_name)
    assert len(row.sha256) == 64
    if name != "inception":  # torchvision's names carry the first eight digits
        assert row.file_name.rsplit("-", 1)[1] == f"{row.sha256[:8]}.pth"


def test_cache_folder_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANC_CACHE")
    assert cache_folder().name == "ganc"


def test_weights_run_no_code(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pth")
    assert read_tensors(tmp_path / "good.pth")["a"].tolist() == [1, 1]
    torch.save(Handler, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="cannot be read as PyTorch weights"):
        read_tensors(tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        read_tensors(tmp_path / "list.pth")
