"""A loopback server for one file, as a content network serves it, with faults to order."""

import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

CONTENT = bytes(range(256)) * 40


class Asked(NamedTuple):
    """One request: where, and from which byte on."""

    path: str
    range: str | None


class Handler(BaseHTTPRequestHandler):
    """Answer with the next fault, or with the file."""

    server: "Host"

    def do_GET(self) -> None:
        self.server.asked.append(Asked(self.path, self.headers.get("Range")))
        answer = self.server.faults.pop(0) if self.server.faults else whole
        answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


Answer = Callable[[Handler], None]


class Host(ThreadingHTTPServer):
    """The server: ``content`` under every path, ``faults`` first, ``asked`` counts requests."""

    daemon_threads = True

    def __init__(self, content: bytes = CONTENT, marks: dict[str, str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.marks = {"ETag": '"v1"'} if marks is None else marks
        self.faults: list[Answer] = []
        self.asked: list[Asked] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/file.pth"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are what these tests are about


@contextmanager
def serving(host: Host) -> Iterator[Host]:
    """Run a server in a thread."""
    thread = threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.released.set()
        host.shutdown()
        thread.join()
        host.server_close()


def whole(handler: Handler, stop: int | None = None) -> None:
    """Send the file, or the range that is asked for if it is still the same file."""
    host, start = handler.server, 0
    asked = handler.headers.get("Range")
    if asked and handler.headers.get("If-Range") in host.marks.values():
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206)
        last = len(host.content) - 1
        handler.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
    else:
        handler.send_response(200)
    handler.send_header("Content-Length", str(len(host.content) - start))
    for name, value in host.marks.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(host.content[start:stop])
    handler.wfile.flush()


def cut(stop: int) -> Answer:
    """Break off before byte ``stop``."""
    return lambda handler: whole(handler, stop)


def stall(stop: int) -> Answer:
    """Send nothing from byte ``stop`` on, and keep the connection."""

    def answer(handler: Handler) -> None:
        whole(handler, stop)
        handler.server.released.wait(30)

    return answer


def status(code: int, **headers: str) -> Answer:
    """Answer with a status alone."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


def make_certificate(folder: Path, *names: str) -> Path:
    """Make a self-signed certificate with its key in one file."""
    path = folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", path, "-out", folder / "c.pem",
         "-addext", "subjectAltName=" + ",".join(names)],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + (folder / "c.pem").read_bytes())
    return path


def over_tls(host: Host, certificate: Path) -> Host:
    """Speak HTTPS instead of HTTP."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    host.socket = context.wrap_socket(host.socket, server_side=True)
    host.url = host.url.replace("http:", "https:")
    return host
