"""Web addresses of images: how they are parsed, where they may lead, and the names of their local files."""

import ipaddress
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from urllib.parse import quote, unquote, urlsplit

DOWNLOADS = "downloaded"  # subfolder of the images' folder for downloads
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".ppm", ".webp", ".tif", ".tiff", ".jp2"})
_STEM = 60  # characters of the address's own file name that are kept
_DIGEST = 20  # hexadecimal digits, 80 bits: among a billion addresses, two coincide in one of two million corpora
_PORTS = {"http": 80, "https": 443}
_AS_WRITTEN = "/%:@!$&'()*+,;=~[]|"  # kept as they are in a path; all other characters are percent-encoded
# Prefix under which DNS64 maps all IPv4 addresses (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed web address, ready for a request.

    Attributes:
        scheme: "http" or "https".
        host: In ASCII (IDNA), without brackets.
        port: TCP port.
        target: Path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    target: str


def is_address(text: str) -> bool:
    """Return whether the text is a web address rather than the path of a file.

    >>> is_address("https://images.example/1.jpg"), is_address("images/1.jpg")
    (True, False)
    """
    return text.lower().startswith(("http://", "https://"))


def parse_address(url: str) -> Address:
    """Parse an address as a browser would: spaces and non-ASCII letters are encoded, a fragment is dropped.

    Raises:
        ValueError: The text is not a web address; the message says why.

    >>> parse_address("http://images.example/a cat.jpg#top")
    Address(scheme='http', host='images.example', port=80, target='/a%20cat.jpg')
    """
    parts = urlsplit(url.strip())
    scheme = parts.scheme.lower()
    if scheme not in _PORTS:
        raise ValueError(f"its scheme is {scheme!r}, and only http and https are fetched")
    if not parts.hostname:
        raise ValueError("it names no host")
    host = parts.hostname.encode("idna").decode()
    port = _PORTS[scheme] if parts.port is None else parts.port
    query = f"?{quote(parts.query, safe=_AS_WRITTEN + '?')}" if parts.query else ""
    return Address(scheme, host, port, quote(parts.path or "/", safe=_AS_WRITTEN) + query)


def host_of(url: str) -> str:
    """Return the address's host, or "" where it cannot be parsed; used for turns between hosts."""
    try:
        return urlsplit(url.strip()).hostname or ""
    except ValueError:
        return ""


def is_permitted(ip: str, *, allow_loopback: bool) -> bool:
    """Return whether an IP address belongs to the public internet.

    Private, loopback, link-local, shared, multicast, reserved and unspecified addresses do not. An IPv4 address inside
    an IPv6 one (mapped, or translated by NAT64) is judged as an IPv4 address. Tunnels (6to4, Teredo) can lead anywhere
    and are not permitted.

    Args:
        ip: Address as the resolver returns it.
        allow_loopback: Permit this machine itself, for servers of tests.

    >>> is_permitted("1.1.1.1", allow_loopback=False), is_permitted("192.168.0.1", allow_loopback=False)
    (True, False)
    """
    address = _plain(ipaddress.ip_address(ip))
    if address.is_loopback:
        return allow_loopback
    if isinstance(address, ipaddress.IPv6Address) and (address.sixtofour or address.teredo or address.is_site_local):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def downloaded_file(url: str) -> PurePosixPath:
    """Return the path of an address's downloaded image, relative to the folder that image paths start from.

    The name is a function of the address alone, so a reader needs no list. It consists of the usable characters of the
    address's file name, a digest of the whole address, and its suffix if that is an image's. Two addresses never share
    a file, and every name is short, visible and valid on any file system.

    >>> str(downloaded_file("http://images.example/a cat.jpg"))
    'downloaded/a_cat-c8c221faa45b993dc516.jpg'
    """
    digest = sha256(url.strip().encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    try:
        own = PurePosixPath(unquote(urlsplit(url.strip()).path))
    except ValueError:
        own = PurePosixPath()
    suffix = own.suffix.lower()
    stem = re.sub(r"[^A-Za-z0-9]+", "_", own.stem).strip("_")[:_STEM] or "image"
    return PurePosixPath(DOWNLOADS, f"{stem}-{digest}{suffix if suffix in SUFFIXES else ''}")


def _plain(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv6 address stands for, if it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address
