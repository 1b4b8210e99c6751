"""Fetching from hosts that nobody vouches for: bounded in bytes and time, and never from a private network.

Written on the standard library's `http.client`, because what is to be checked is the socket: a name is resolved once,
all its addresses are checked, and the connection is made to one of these, so that no second answer of the resolver can
lead elsewhere. Proxies and cookies are not used.
"""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import BinaryIO, Literal
from urllib.parse import urljoin

from halspan.data.addresses import Address, is_permitted, parse_address

State = Literal["there", "dead", "refused", "unreachable"]

_CHUNK = 64 * 1024  # bytes
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # a compressed body would have to be bounded twice
    "Connection": "close",
    "User-Agent": "halspan (fetches the images of a benchmark)",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a single download may take.

    Attributes:
        max_bytes: bytes of the body.
        connect_seconds: for a connection, its encryption included; for each step of it.
        read_seconds: of silence.
        total_seconds: from the first step to the last byte, redirects included.
        max_redirects: in a row.
    """

    max_bytes: int = 50 * 2**20
    connect_seconds: float = 10.0
    read_seconds: float = 20.0
    total_seconds: float = 120.0
    max_redirects: int = 5


class FetchError(Exception):
    """Why an address gives no image.

    Attributes:
        state: "dead" (the server says so), "refused" (it gives what is not to be taken) or "unreachable" (no answer).
        reason: a few words, the same for all cases alike.
        detail: what was seen.
        status: HTTP status, if that is what it is about.
        retry: whether trying again may help.
        wait_seconds: how long the server asks to be left alone; None where it does not say.
    """

    def __init__(
        self,
        state: State,
        reason: str,
        detail: str = "",
        *,
        status: int | None = None,
        retry: bool = False,
        wait_seconds: float | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.state = state
        self.reason = reason
        self.detail = detail
        self.status = status
        self.retry = retry
        self.wait_seconds = wait_seconds


class Client:
    """Gets files over http and https; any number of threads may share one.

    Args:
        limits: of each download.
        allow_loopback: also connect to this machine, for servers of tests; every other private address stays refused.
    """

    def __init__(self, limits: Limits, *, allow_loopback: bool = False) -> None:
        self.limits = limits
        self.allow_loopback = allow_loopback
        self._tls = ssl.create_default_context()
        self._sockets: set[socket.socket] = set()
        self._closed = False

    def close(self) -> None:
        """End all downloads at once, whatever they wait for; those threads meet a FetchError."""
        self._closed = True
        for open_socket in tuple(self._sockets):
            _shut_down(open_socket)

    def fetch(self, url: str, file: BinaryIO) -> str:
        """Write the body of an address to a file.

        Args:
            url: where to begin; each redirect is checked like it.
            file: holds no more than `limits.max_bytes` afterwards; unfinished where this raises.

        Returns:
            What the server calls its type, in lower case, without parameters; "" where it does not say.

        Raises:
            FetchError: there is no body, it is too long, or the address leads where it must not.
        """
        deadline = _Deadline(self.limits.total_seconds)
        for _ in range(self.limits.max_redirects + 1):
            address = _checked(url)
            with ExitStack() as stack:
                with _explained(deadline):
                    response = self._ask(address, deadline, stack)
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    _check_status(response)
                    self._copy(response, file, deadline)
                    return response.headers.get_content_type() if "Content-Type" in response.headers else ""
            url = _joined(url, _as_utf8(location))
        raise FetchError("refused", "too many redirects", f"more than {self.limits.max_redirects}, the last to {url}")

    def _ask(self, address: Address, deadline: "_Deadline", stack: ExitStack) -> http.client.HTTPResponse:
        connected = stack.enter_context(self._connected(address, deadline))
        connection = http.client.HTTPConnection(address.host, address.port)
        if address.scheme == "https":
            connection.default_port = 443  # or the Host header would name the port
        connection.sock = _BoundedSocket(connected, deadline, self.limits.read_seconds)
        connection.request("GET", address.target, headers=_HEADERS)
        return stack.enter_context(connection.getresponse())

    @contextmanager
    def _connected(self, address: Address, deadline: "_Deadline") -> Iterator[socket.socket]:
        """A connection to the first of the host's addresses that answers, all of them checked before."""
        last = OSError("the host has no address")
        for family, destination in self._resolve(address):
            with ExitStack() as stack:
                opened = stack.enter_context(self._registered(socket.socket(family, socket.SOCK_STREAM)))
                opened.settimeout(deadline.bound(self.limits.connect_seconds))
                try:
                    opened.connect(destination)
                except OSError as error:
                    last = error
                    continue
                if address.scheme == "https":
                    opened = self._tls.wrap_socket(opened, server_hostname=address.host, do_handshake_on_connect=False)
                    stack.enter_context(self._registered(opened))
                    opened.settimeout(deadline.bound(self.limits.connect_seconds))
                    opened.do_handshake()
                yield opened
                return
        raise last

    @contextmanager
    def _registered(self, opened: socket.socket) -> Iterator[socket.socket]:
        """Let `close` reach a socket for as long as it is open."""
        self._sockets.add(opened)
        try:
            if self._closed:
                raise FetchError("unreachable", "interrupted")
            yield opened
        finally:
            self._sockets.discard(opened)
            opened.close()

    def _resolve(self, address: Address) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        for *_, (ip, *_) in found:
            if not is_permitted(str(ip), allow_loopback=self.allow_loopback):
                shown = str(ip) if str(ip) == address.host else f"{address.host} is {ip}"
                raise FetchError("refused", "not on the public internet", shown)
        return [(family, destination) for family, _, _, _, destination in found]  # type: ignore[misc]

    def _copy(self, response: http.client.HTTPResponse, file: BinaryIO, deadline: "_Deadline") -> None:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("identity", ""):
            raise FetchError("refused", "compressed though not asked for", encoding)
        claimed, received = response.length, 0
        too_long = f"more than {self.limits.max_bytes / 2**20:g} MiB"
        if claimed is not None and claimed > self.limits.max_bytes:
            raise FetchError("refused", too_long, f"{claimed} bytes, as the server says")
        while True:
            with _explained(deadline):
                chunk = response.read1(_CHUNK)
            if not chunk:
                break
            received += len(chunk)
            if received > self.limits.max_bytes:
                raise FetchError("refused", too_long, f"cut after {received} bytes")
            file.write(chunk)
        if claimed is not None and received < claimed:
            raise FetchError("unreachable", "cut off", f"after {received} of {claimed} bytes", retry=True)


class _Deadline:
    """The moment at which a download has taken too long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def bound(self, seconds: float) -> float:
        """Cut a time-out down to what is left; a FetchError where nothing is."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise FetchError("unreachable", f"not done within {self.seconds:g} s")
        return min(seconds, left)


class _BoundedSocket:
    """What `http.client` needs of a socket, with a time-out for each read and a deadline for all of them together.

    `http.client` closes its socket when it has read the headers of a last response, and reads on from the file; the
    socket itself is closed by `Client._connected`.
    """

    def __init__(self, connected: socket.socket, deadline: _Deadline, read_seconds: float) -> None:
        self._socket = connected
        self._deadline = deadline
        self._read_seconds = read_seconds

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(self._deadline.bound(self._read_seconds))
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedStream(self._socket, self._deadline, self._read_seconds))

    def close(self) -> None:
        pass


class _BoundedStream(io.RawIOBase):
    def __init__(self, connected: socket.socket, deadline: _Deadline, read_seconds: float) -> None:
        self._socket = connected
        self._deadline = deadline
        self._read_seconds = read_seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._socket.settimeout(self._deadline.bound(self._read_seconds))
        return self._socket.recv_into(buffer)


@contextmanager
def _explained(deadline: _Deadline) -> Iterator[None]:
    """Turn what the network raises inside the block into a FetchError."""
    try:
        yield
    except TimeoutError:
        deadline.bound(0)
        raise FetchError("unreachable", "no answer in time", retry=True) from None
    except socket.gaierror as error:
        retry = error.errno not in (socket.EAI_NONAME, socket.EAI_NODATA)
        raise FetchError("unreachable", "host not found", error.strerror or "", retry=retry) from None
    except ssl.SSLCertVerificationError as error:
        raise FetchError("refused", "certificate not valid", error.verify_message) from None
    except (http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionError) as error:
        raise FetchError("unreachable", "connection broken", str(error), retry=True) from None
    except (http.client.HTTPException, ValueError) as error:
        raise FetchError("refused", "not an HTTP answer", f"{type(error).__name__} {error}".strip()) from None
    except OSError as error:
        raise FetchError("unreachable", "no connection", error.strerror or str(error), retry=True) from None


def _checked(url: str) -> Address:
    try:
        return parse_address(url)
    except ValueError as error:  # also what the IDNA codec and urllib raise
        raise FetchError("refused", "not a web address", f"{url[:200]!r}: {error}") from None


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise FetchError("refused", "not a web address", f"redirected to {location[:200]!r}: {error}") from None


def _check_status(response: http.client.HTTPResponse) -> None:
    status, reason = response.status, f"HTTP {response.status}"
    if status == http.HTTPStatus.OK:
        return
    if status == http.HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
        wait = _seconds_to_wait(response.headers.get("Retry-After"))
        raise FetchError("unreachable", reason, response.reason, status=status, retry=True, wait_seconds=wait)
    raise FetchError("dead", reason, response.reason, status=status)


def _seconds_to_wait(retry_after: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
        left = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (left - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def _as_utf8(header: str) -> str:
    """A header's text: `http.client` reads its bytes as Latin-1, servers write UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _shut_down(open_socket: socket.socket) -> None:
    with suppress(OSError):  # closed by its own thread in the meantime
        open_socket.shutdown(socket.SHUT_RDWR)
