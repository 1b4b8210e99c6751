"""HTTP requests to untrusted hosts: limited in bytes and time, and never sent to a private network.

HTTP is httpcore's, with another network backend. It resolves a name once, checks all its addresses, and connects to one
of these, so a second answer of the resolver cannot lead elsewhere. Proxies and cookies are not used.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, BinaryIO, Literal
from urllib.parse import urljoin

import httpcore2 as httpcore
from typing_extensions import override

from halspan.data.download.addresses import Address, is_permitted, parse_address

State = Literal["there", "dead", "refused", "unreachable"]

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS: dict[bytes | str, bytes | str] = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # a compressed body would need two limits
    "Connection": "close",
    "User-Agent": "halspan (fetches the images of a benchmark)",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a single download.

    Attributes:
        max_bytes: Largest size of the body, in bytes.
        connect_seconds: Time-out for each step of a connection, encryption included.
        read_seconds: Time-out for silence of the server.
        total_seconds: Time-out from the first step to the last byte, redirects included.
    """

    max_bytes: int = 50 * 2**20
    connect_seconds: float = 10.0
    read_seconds: float = 20.0
    total_seconds: float = 120.0


class FetchError(Exception):
    """The reason why an address yields no image.

    Attributes:
        state: "dead" (the server says so), "refused" (the answer is not acceptable) or "unreachable" (no answer).
        reason: A few words, the same for all similar cases.
        detail: Value or event that was seen.
        status: HTTP status, if that is the reason.
        retry: Whether another try may succeed.
        wait_seconds: Pause that the server asks for, in seconds; None where it does not ask.
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
    """HTTP and HTTPS client that any number of threads may share.

    Args:
        limits: Limits of each download.
        allow_loopback: Whether connections to this machine are allowed, for test servers; all other private addresses
            stay refused.
    """

    def __init__(self, limits: Limits, *, allow_loopback: bool = False) -> None:
        self.limits = limits
        self.allow_loopback = allow_loopback
        self._tls = httpcore.default_ssl_context()
        self._streams: set[_BoundedStream] = set()  # open ones
        self._closed = False

    def close(self) -> None:
        """End all downloads at once; waiting threads get a FetchError."""
        self._closed = True
        for stream in tuple(self._streams):
            with suppress(OSError):  # closed by its own thread in the meantime
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def fetch(self, url: str, file: BinaryIO) -> str:
        """Write the body of an address to a file.

        Args:
            url: First address; each redirect is checked in the same way.
            file: Output, which gets at most `limits.max_bytes`; incomplete if this raises.

        Returns:
            Content type from the server, in lower case without parameters; "" where it is absent.

        Raises:
            FetchError: There is no body, it is too long, or the address leads to a forbidden place.
        """
        deadline = _Deadline(self.limits.total_seconds)
        for _ in range(_MOST_REDIRECTS + 1):
            with ExitStack() as stack, _explained(deadline):
                response = self._ask(parse_address(url), deadline, stack)
                location = _header(response, "Location")
                if response.status not in _REDIRECTS or location is None:
                    _check_status(response)
                    self._copy(response, file)
                    return (_header(response, "Content-Type") or "").partition(";")[0].strip().lower()
                url = urljoin(url, location)
        raise FetchError("refused", "too many redirects", f"more than {_MOST_REDIRECTS}, the last to {url}")

    def _ask(self, address: Address, deadline: "_Deadline", stack: ExitStack) -> httpcore.Response:
        backend = _CheckedBackend(deadline, self.limits, self._streams, allow_loopback=self.allow_loopback)
        if self._closed:
            raise FetchError("unreachable", "interrupted")
        host = f"[{address.host}]" if ":" in address.host else address.host
        url = f"{address.scheme}://{host}:{address.port}{address.target}"
        pool = stack.enter_context(httpcore.ConnectionPool(ssl_context=self._tls, network_backend=backend))
        return stack.enter_context(pool.stream("GET", url, headers=_HEADERS))

    def _copy(self, response: httpcore.Response, file: BinaryIO) -> None:
        encoding = (_header(response, "Content-Encoding") or "identity").lower()
        if encoding != "identity":
            raise FetchError("refused", "compressed though not asked for", encoding)
        too_long = f"more than {self.limits.max_bytes / 2**20:g} MiB"
        claimed = _header(response, "Content-Length")
        if claimed is not None and int(claimed) > self.limits.max_bytes:
            raise FetchError("refused", too_long, f"{claimed} bytes, as the server says")
        received = 0
        for chunk in response.iter_stream():
            received += len(chunk)
            if received > self.limits.max_bytes:
                raise FetchError("refused", too_long, f"cut after {received} bytes")
            file.write(chunk)


class _Deadline:
    """The time at which a download has taken too long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def bound(self, seconds: float) -> float:
        """Limit a time-out to the time that is left; raises a FetchError where none is left."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise FetchError("unreachable", f"not done within {self.seconds:g} s")
        return min(seconds, left)


class _CheckedBackend(httpcore.NetworkBackend):
    """Connections to public addresses only; each step has a time-out, and all steps share a deadline."""

    def __init__(
        self, deadline: _Deadline, limits: Limits, streams: "set[_BoundedStream]", *, allow_loopback: bool
    ) -> None:
        self._deadline = deadline
        self._limits = limits
        self._streams = streams
        self._allow_loopback = allow_loopback

    @override
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first of the host's addresses that answers; all of them are checked before."""
        last: Exception = httpcore.ConnectError("the host has no address")
        for ip in self._resolve(host, port):
            seconds = self._deadline.bound(self._limits.connect_seconds)
            try:
                stream = httpcore.SyncBackend().connect_tcp(ip, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
                continue
            return _BoundedStream(stream, self._deadline, self._limits, self._streams)
        raise last

    def _resolve(self, host: str, port: int) -> list[str]:
        found = [str(ip) for *_, (ip, *_) in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for ip in found:
            if not is_permitted(ip, allow_loopback=self._allow_loopback):
                raise FetchError("refused", "not on the public internet", ip if ip == host else f"{host} is {ip}")
        return found


class _BoundedStream(httpcore.NetworkStream):
    """A connection with a time-out for each read and write, and one deadline for all of them."""

    def __init__(
        self, stream: httpcore.NetworkStream, deadline: _Deadline, limits: Limits, streams: "set[_BoundedStream]"
    ) -> None:
        self._stream = stream
        self._deadline = deadline
        self._limits = limits
        self._streams = streams
        streams.add(self)

    @override
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.bound(self._limits.read_seconds))

    @override
    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.bound(self._limits.read_seconds))

    @override
    def close(self) -> None:
        self._streams.discard(self)
        self._stream.close()

    @override
    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.bound(self._limits.connect_seconds)
        try:
            encrypted = self._stream.start_tls(ssl_context, server_hostname, seconds)
        except httpcore.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise FetchError("refused", "certificate not valid", error.__cause__.verify_message) from None
            raise
        finally:
            self._streams.discard(self)  # the encrypted one takes its place
        return _BoundedStream(encrypted, self._deadline, self._limits, self._streams)

    @override
    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@contextmanager
def _explained(deadline: _Deadline) -> Iterator[None]:
    """Turn network errors inside the block into a FetchError."""
    try:
        yield
    except httpcore.TimeoutException:
        deadline.bound(0)
        raise FetchError("unreachable", "no answer in time", retry=True) from None
    except socket.gaierror as error:
        retry = error.errno not in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
        raise FetchError("unreachable", "host not found", error.strerror or "", retry=retry) from None
    except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError) as error:
        raise FetchError("unreachable", "connection broken", str(error), retry=True) from None
    except httpcore.ConnectError as error:
        raise FetchError("unreachable", "no connection", str(error), retry=True) from None
    except (httpcore.LocalProtocolError, ValueError) as error:  # the IDNA codec and urllib raise it, too
        raise FetchError("refused", "not a web address", str(error)) from None


def _header(response: httpcore.Response, name: str) -> str | None:
    """Return a header's text; None where the header is absent."""
    values = (value for key, value in response.headers if key.lower() == name.lower().encode())
    return next((value.decode(errors="replace") for value in values), None)


def _check_status(response: httpcore.Response) -> None:
    status, reason = response.status, f"HTTP {response.status}"
    words = response.extensions.get("reason_phrase", b"").decode("latin-1")
    if status == HTTPStatus.OK:
        return
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
        wait = _seconds_to_wait(_header(response, "Retry-After"))
        raise FetchError("unreachable", reason, words, status=status, retry=True, wait_seconds=wait)
    raise FetchError("dead", reason, words, status=status)


def _seconds_to_wait(retry_after: str | None) -> float | None:
    """Parse a Retry-After header, which is a number of seconds or a date."""
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
