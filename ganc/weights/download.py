"""Fetch one large file so that a cut connection costs what is missing, not everything.

Standard library: torch.hub and pooch start over after a cut, huggingface_hub speaks to its own
server only, and requests overlooks SSL_CERT_FILE, which networks that inspect TLS rely on.
"""

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ganc import strict_json
from ganc.errors import WeightsError
from ganc.files import write_error
from ganc.progress import Progress

TIMEOUT_SEC = 10.0  # to connect, and between two pieces; a dead network is reported, not waited for
BACKOFF_SEC = (1.0, 2.0, 4.0)  # before each further attempt; one that got far starts the row anew
_CHUNK = 1 << 20


class DownloadError(Exception):
    """Why a file could not be fetched, as the rest of a sentence."""


class _Interruption(DownloadError):
    """The transfer ended early; another attempt may go on."""


@dataclass(frozen=True)
class _Origin:
    """What the part of a file is a part of; kept beside it.

    Attributes:
        url: The address asked, before redirects.
        validator: The server's mark of this version: a strong ETag, else Last-Modified, else "".
        total: Bytes of the whole file, where the server said.
    """

    url: str
    validator: str
    total: int | None


def download(url: str, part: Path, what: str, progress: Progress) -> None:
    """Fetch an address into ``part``, going on where an earlier attempt stopped.

    Proxies and certificates are taken from the usual variables (``HTTPS_PROXY``, ``NO_PROXY``,
    ``SSL_CERT_FILE``). What was received stays when the attempt fails, so that the next call, in
    this process or another, asks for the rest. The caller verifies the content.

    Args:
        url: HTTPS; a redirect to anything less is refused. HTTP is taken only if asked for.
        part: Where the bytes go; its origin is kept beside it.
        what: For ``progress``, which is told the bytes so far and in all.
    Raises:
        DownloadError: The server refuses, cannot be reached, or keeps breaking off.
        OutputError: The part cannot be written.
    """
    attempt = 0
    while True:
        before = _usable(part, url)
        try:
            _attempt(url, part, what, progress)
        except _Interruption as error:
            after = _usable(part, url)
            attempt = 0 if after >= before + _CHUNK else attempt + 1
            if attempt > len(BACKOFF_SEC):
                kept = f"; {after} bytes are kept, the next attempt goes on there" if after else ""
                raise DownloadError(f"{error}{kept}") from error
            time.sleep(BACKOFF_SEC[max(attempt - 1, 0)])
        else:
            return


def discard(part: Path) -> None:
    """Throw a part and its origin away."""
    part.unlink(missing_ok=True)
    _origin_path(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, what: str, progress: Progress) -> None:
    """Receive what is missing, or all of it where the server cannot or must not go on."""
    known = _read_origin(part, url)
    if known is None:
        discard(part)
    elif _size(part) == known.total:  # ended between the last byte and the check
        return
    with _connect(url, known, part) as response:
        is_rest = response.status == http.HTTPStatus.PARTIAL_CONTENT
        origin = known if is_rest and known else _origin(url, response)
        if is_rest and _start(response) != _size(part):
            discard(part)
            raise _Interruption(f"{url} answered with another range than was asked for")
        if not is_rest:
            discard(part)
            _write_origin(part, origin)
        _receive(url, response, part, origin.total, lambda n: progress(what, n, origin.total or n))


def _receive(
    url: str, response: Any, part: Path, total: int | None, told: Callable[[int], None]
) -> None:
    """Append the answer's bytes to the part."""
    received = _size(part)
    try:
        with part.open("ab") as output:
            for chunk in _chunks(url, response):
                output.write(chunk)
                received += len(chunk)
                told(received)
    except OSError as error:
        raise write_error(part, error) from error
    if total is not None and received < total:
        raise _Interruption(f"{url} broke off after {received} of {total} bytes")


def _chunks(url: str, response: Any) -> Iterator[bytes]:
    """Yield what arrives; every way in which a connection can break becomes an interruption."""
    while True:
        try:
            # read1, not read: a piece that has arrived is kept though the next one never comes.
            chunk = response.read1(_CHUNK)
        except TimeoutError as error:
            raise _Interruption(f"{url} sent nothing for {TIMEOUT_SEC:g} s (timed out)") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Interruption(f"{url} broke off: {error}") from error
        if not chunk:
            return
        yield chunk


@contextmanager
def _connect(url: str, known: _Origin | None, part: Path) -> Iterator[Any]:
    """Ask for a file, or for the rest of it if it is still the same one."""
    request = urllib.request.Request(url)
    if known is not None:
        request.add_header("Range", f"bytes={_size(part)}-")
        request.add_header("If-Range", known.validator)
    try:
        response = urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT_SEC)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(url, error, part) from error
    except urllib.error.URLError as error:
        raise DownloadError(f"{url} failed: {_cause(error.reason)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interruption(f"{url} did not answer: {error}") from error
    with response:
        yield response


def _refusal(url: str, error: urllib.error.HTTPError, part: Path) -> DownloadError:
    reason = f"{url} answered {error.code} {error.reason}"
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        discard(part)
        return _Interruption(reason)
    is_passing = error.code >= 500 or error.code == http.HTTPStatus.TOO_MANY_REQUESTS
    return _Interruption(reason) if is_passing else DownloadError(reason)


def _cause(reason: object) -> str:
    text = str(reason)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        text += "; where a proxy inspects TLS, set SSL_CERT_FILE to its certificate"
    return text


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never from HTTPS to a connection that anyone can alter."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        if req.type == "https" and not newurl.startswith("https:"):
            raise DownloadError(f"{req.full_url} leads to {newurl}, which is not HTTPS")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _origin(url: str, response: Any) -> _Origin:
    tag = response.headers.get("ETag", "")
    strong = "" if tag.startswith("W/") else tag  # If-Range takes no weak ones (RFC 9110, 13.1.5)
    length = response.headers.get("Content-Length")
    return _Origin(
        url=url,
        validator=strong or response.headers.get("Last-Modified", ""),
        total=int(length) if length and length.isdecimal() else None,
    )


def _start(response: Any) -> int | None:
    """Return the first byte's number of a partial answer."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _read_origin(part: Path, url: str) -> _Origin | None:
    """Return where a part comes from, or None if it cannot be gone on with."""
    if not _size(part):
        return None
    try:
        text = _origin_path(part).read_bytes()
        origin = strict_json.read(text, _Origin, "the origin", WeightsError)
    except (OSError, WeightsError):  # never written, or half: the part is worth nothing
        return None
    return origin if origin.url == url and origin.validator else None


def _write_origin(part: Path, origin: _Origin) -> None:
    try:
        _origin_path(part).write_text(json.dumps(asdict(origin)))
    except OSError as error:
        raise write_error(part, error) from error


def _origin_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _usable(part: Path, url: str) -> int:
    """Return how many bytes the next attempt need not ask for."""
    return _size(part) if _read_origin(part, url) else 0


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
