"""Downloads over real sockets: what a cut, a slow, a lying and a moved server do to them."""

import errno
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ganc.errors import OutputError
from ganc.progress import silent
from ganc.weights import download as module
from ganc.weights.download import DownloadError, discard, download
from tests.weights.host import (
    CONTENT,
    Host,
    cut,
    make_certificate,
    over_tls,
    serving,
    stall,
    status,
)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SEC", 0.3)
    monkeypatch.setattr(module, "BACKOFF_SEC", (0.0, 0.0, 0.0))


@pytest.fixture
def host() -> Iterator[Host]:
    with serving(Host()) as host:
        yield host


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "file.part"


def fetch(url: str, part: Path) -> bytes:
    download(url, part, "fetching", silent)
    return part.read_bytes()


def test_whole_file_with_progress(host: Host, part: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    download(host.url, part, "fetching x", lambda *report: reports.append(report))
    assert part.read_bytes() == CONTENT
    assert reports[-1] == ("fetching x", len(CONTENT), len(CONTENT))
    assert len(host.asked) == 1


def test_cut_connection_goes_on_where_it_stopped(host: Host, part: Path) -> None:
    host.faults = [cut(5000), cut(7000)]
    assert fetch(host.url, part) == CONTENT
    assert [asked.range for asked in host.asked] == [None, "bytes=5000-", "bytes=7000-"]


def test_next_call_goes_on_where_the_last_one_gave_up(host: Host, part: Path) -> None:
    host.faults = [cut(100), cut(200), cut(300), cut(400)]
    with pytest.raises(DownloadError, match=r"broke off after 400 of 10240 bytes; 400 bytes are"):
        download(host.url, part, "fetching", silent)
    assert part.read_bytes() == CONTENT[:400]
    assert fetch(host.url, part) == CONTENT
    assert host.asked[-1].range == "bytes=400-"
    assert len(host.asked) == 5


def test_attempts_that_get_far_are_not_counted(
    host: Host, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1000)
    host.faults = [cut(stop) for stop in range(1000, 10000, 1000)]
    assert fetch(host.url, part) == CONTENT
    assert len(host.asked) == 10


@pytest.mark.parametrize("killed_at", [5000, len(CONTENT)])
def test_killed_process_leaves_a_part_that_goes_on(host: Host, part: Path, killed_at: int) -> None:
    host.faults = [stall(killed_at)]
    text = (
        "import sys, time; from pathlib import Path; from ganc.weights import download as d\n"
        "d.download(sys.argv[1], Path(sys.argv[2]), 'x', lambda *_: None); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", text, host.url, str(part)]) as process:
        deadline = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size == killed_at):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert fetch(host.url, part) == CONTENT
    rest = [] if killed_at == len(CONTENT) else [f"bytes={killed_at}-"]
    assert [asked.range for asked in host.asked] == [None, *rest]


def test_changed_file_starts_over(host: Host, part: Path) -> None:
    host.faults = [cut(5000), status(404)]
    with pytest.raises(DownloadError):
        download(host.url, part, "fetching", silent)
    host.marks, host.content = {"ETag": '"v2"'}, CONTENT[::-1]
    assert fetch(host.url, part) == CONTENT[::-1]
    assert host.asked[-1].range == "bytes=5000-"  # asked for, but If-Range no longer holds


@pytest.mark.parametrize("marks", [{}, {"ETag": 'W/"weak"'}])
def test_file_without_a_strong_mark_starts_over(part: Path, marks: dict[str, str]) -> None:
    with serving(Host(marks=marks)) as host:
        host.faults = [cut(5000)]
        assert fetch(host.url, part) == CONTENT
        assert [asked.range for asked in host.asked] == [None, None]


def test_date_serves_as_a_mark(part: Path) -> None:
    with serving(Host(marks={"Last-Modified": "Sat, 01 Aug 2026 00:00:00 GMT"})) as host:
        host.faults = [cut(5000)]
        assert fetch(host.url, part) == CONTENT
        assert host.asked[-1].range == "bytes=5000-"


@pytest.mark.parametrize("origin", ["", "{", "[]", '{"url": "http://elsewhere/", "validator": "1", '
                                    '"total": 9}', '{"url": 1}'])  # fmt: skip
def test_part_of_unknown_origin_is_thrown_away(host: Host, part: Path, origin: str) -> None:
    part.write_bytes(b"something else")
    part.with_name(part.name + ".json").write_text(origin)
    assert fetch(host.url, part) == CONTENT
    assert host.asked[0].range is None


def test_part_that_the_server_cannot_go_on_with(host: Host, part: Path) -> None:
    part.write_bytes(CONTENT + b"too long")
    origin = {"url": host.url, "validator": '"v1"', "total": 1}
    part.with_name(part.name + ".json").write_text(json.dumps(origin))
    host.faults = [status(416)]
    assert fetch(host.url, part) == CONTENT
    part.write_bytes(CONTENT[:50])
    host.faults = [status(206, **{"Content-Range": "bytes 0-10239/10240"})]
    assert fetch(host.url, part) == CONTENT
    assert [asked.range for asked in host.asked] == ["bytes=10248-", None, "bytes=50-", None]


def test_slow_server_is_named_and_its_bytes_are_kept(host: Host, part: Path) -> None:
    host.faults = [stall(300)] * 4
    with pytest.raises(DownloadError, match=r"sent nothing for 0.3 s \(timed out\); 300 bytes"):
        download(host.url, part, "fetching", silent)
    assert part.read_bytes() == CONTENT[:300]


def test_server_that_never_answers(host: Host, part: Path) -> None:
    host.faults = [lambda handler: handler.server.released.wait(30)] * 4
    with pytest.raises(DownloadError, match=r"did not answer: .*timed out"):
        download(host.url, part, "fetching", silent)


@pytest.mark.parametrize("code", [500, 503, 429])
def test_passing_troubles_are_tried_again(host: Host, part: Path, code: int) -> None:
    host.faults = [status(code), status(code)]
    assert fetch(host.url, part) == CONTENT
    host.faults = [status(code)] * 9
    discard(part)
    with pytest.raises(DownloadError, match=f"answered {code}"):
        download(host.url, part, "fetching", silent)
    assert len(host.faults) == 5


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_lasting_troubles_are_not(host: Host, part: Path, code: int) -> None:
    host.faults = [status(code)]
    with pytest.raises(DownloadError, match=f"answered {code}"):
        download(host.url, part, "fetching", silent)
    assert len(host.asked) == 1
    assert not part.exists()


def test_redirects_are_followed_and_gone_on_behind(host: Host, part: Path) -> None:
    host.faults = [status(302, Location="/there"), cut(5000), status(302, Location="/there")]
    assert fetch(host.url, part) == CONTENT
    assert [asked.path for asked in host.asked] == ["/file.pth", "/there"] * 2
    assert host.asked[-1].range == "bytes=5000-"


def test_refused_connection_is_reported_at_once(part: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        start = time.monotonic()
        with pytest.raises(DownloadError, match="refused"):
            download(f"http://127.0.0.1:{unused.getsockname()[1]}/x", part, "fetching", silent)
    assert time.monotonic() - start < 1


def test_full_disk(host: Host, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    honest = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: Full() if self == part else honest(self, *a, **k)
    )
    with pytest.raises(OutputError, match="no space left"):
        download(host.url, part, "fetching", silent)
    assert len(host.asked) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder, "IP:127.0.0.1", "DNS:weights.example")


@needs_openssl
def test_https(certificate: Path, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(over_tls(Host(), certificate)) as host:
        host.faults = [cut(5000)]
        assert fetch(host.url, part) == CONTENT
        assert host.asked[-1].range == "bytes=5000-"


@needs_openssl
def test_unknown_certificate_is_refused_with_what_helps(certificate: Path, part: Path) -> None:
    with serving(over_tls(Host(), certificate)) as host:
        with pytest.raises(DownloadError, match=r"self.signed.*set SSL_CERT_FILE"):
            download(host.url, part, "fetching", silent)
        assert host.asked == []


@needs_openssl
def test_redirect_from_https_to_http_is_refused(
    certificate: Path, part: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(over_tls(Host(), certificate)) as safe:
        safe.faults = [status(302, Location=host.url)]
        with pytest.raises(DownloadError, match=f"leads to {host.url}, which is not HTTPS"):
            download(safe.url, part, "fetching", silent)
    assert host.asked == []


class Proxy(BaseHTTPRequestHandler):
    """A proxy that knows one host, by whatever name it is asked for."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CONTENT)

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        target = self.server.target  # type: ignore[attr-defined]
        with socket.create_connection(target) as other:
            back = threading.Thread(target=pump, args=(other, self.connection), daemon=True)
            back.start()
            pump(self.connection, other)
            back.join()

    def log_message(self, format: str, *args: object) -> None:
        pass


def pump(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(1 << 16):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(host: Host) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_proxy(proxy: Any, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
    assert fetch("http://weights.example/file.pth", part) == CONTENT
    assert proxy.asked == ["http://weights.example/file.pth"]


@needs_openssl
def test_https_proxy(
    proxy: Any, certificate: Path, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
    with serving(over_tls(Host(), certificate)) as host:
        proxy.target = host.server_address
        assert fetch("https://weights.example/file.pth", part) == CONTENT
    assert proxy.asked == ["weights.example:443"]
