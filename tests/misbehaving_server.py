"""A web server on this machine that misbehaves in every way a path asks for, and remembers what it was asked."""

import io
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from PIL import Image


def picture(number: int = 0, format_: str = "PNG") -> bytes:
    """Return a small image file; different numbers give different ones."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(buffer, format_)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """Return a sound square PNG of very few bytes for its pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(side * (side // 8 + 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class Server(ThreadingHTTPServer):
    """Serves `pages`: functions that take the handler, by path.

    Attributes:
        pages: what to do for a path; other paths are 404.
        asked: how often each path was asked for.
        ending: set when the server stops, so that pages that wait end at once.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: Counter[str] = Counter()
        self.ending = threading.Event()
        self.lock = threading.Lock()

    def url(self, path: str) -> str:
        """Return the address of a path, as it is written."""
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def page(self, path: str, content: bytes = b"", *, status: int = 200, **headers: str) -> str:
        """Answer a path with content, and give its address; underscores in the names of headers are hyphens."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            send(handler, content, status=status, **headers)

        self.pages[path] = answer
        return self.url(path)

    def handle_error(self, request, client_address) -> None:
        """Say nothing: clients that hang up are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path, server = unquote(self.path), self.server
        with server.lock:
            server.asked[path] += 1
        self.close_connection = True
        page = server.pages.get(path)
        if page is None:
            send(self, b"gone", status=404)
        else:
            page(self)

    def log_message(self, format, *arguments) -> None:
        pass


def send(handler: BaseHTTPRequestHandler, content: bytes, *, status: int = 200, **headers: str) -> None:
    """Send a whole answer; a header given replaces the usual one."""
    handler.send_response(status)
    usual = {"Content_Type": "image/png", "Content_Length": str(len(content))}
    for name, value in (usual | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


@contextmanager
def serving() -> Iterator[Server]:
    """Return a server that runs inside the block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
