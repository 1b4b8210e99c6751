"""Addresses in object stores, such as `s3://bucket/folder/captions.jsonl`."""

import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from halspan.core.checks import show
from halspan.core.errors import ConfigError, DataError

PACKAGES = {"s3": "'halspan[s3]'", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}
_SEPARATOR = "://"
_MOST_BYTES = 1024  # of an object's name, in all of these stores


@dataclass(frozen=True, slots=True)
class StorePath:
    """The address of an object or of a folder in a store; `parse_place` makes it.

    Attributes:
        scheme: Kind of the store, a key of `PACKAGES`.
        key: Bucket and name.
    """

    scheme: str
    key: PurePosixPath

    def __str__(self) -> str:
        return f"{self.scheme}{_SEPARATOR}{self.key}"

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self.key.name

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return self.key.suffix

    @property
    def parent(self) -> "StorePath":
        """The folder."""
        return replace(self, key=self.key.parent)

    @property
    def root(self) -> "StorePath":
        """The bucket, or the repository of `hf://`."""
        is_typed = self.key.parts[0] in ("datasets", "models", "spaces")
        n_parts = (3 if is_typed else 2) if self.scheme == "hf" else 1
        return replace(self, key=PurePosixPath(*self.key.parts[:n_parts]))

    def __truediv__(self, name: str) -> "StorePath":
        return replace(self, key=self.key / name)

    def below(self, text: str) -> "StorePath":
        r"""Return the address of a file that a record names, relative to this folder or in full.

        Records come from other people, and are read with the credentials of this user: they reach nothing outside of
        the folder. Clients resolve `..` in requests, and some take `\\` for `/`.

        Raises:
            DataError: The file is not below this folder.

        >>> str(parse_place("s3://bucket/photos", "--images").below("a/1.jpg"))
        's3://bucket/photos/a/1.jpg'
        """
        name = text.removeprefix(f"{self}/")
        parts = PurePosixPath(name).parts
        is_plain = _is_plain(name) and _SEPARATOR not in name
        if not (is_plain and parts and ".." not in parts and not name.startswith("/")):
            raise DataError(
                f"image: {show(text)} is not below {self}, and records may name only images there; correct it, or "
                "give --images"
            )
        if len(str(self.key / name).encode()) > _MOST_BYTES:
            raise DataError(f"image: {show(text)} has more than the {_MOST_BYTES} bytes that a name may have")
        return self / name


Place = Path | StorePath


def is_store_address(text: str) -> bool:
    """Return whether the text is an address with a scheme of a store, in letters of any case."""
    return text.lower().startswith(tuple(f"{scheme}{_SEPARATOR}" for scheme in PACKAGES))


def parse_place(text: str, option: str) -> Place:
    """Parse what an option gives: the path of a file or folder, or an address in an object store.

    Args:
        text: What the user has typed.
        option: The option, for messages.

    Raises:
        ConfigError: It is an address, but not one in a store that can be used.

    >>> parse_place("s3://bucket/captions.jsonl", "--input").name
    'captions.jsonl'
    """
    scheme, separator, key = text.partition(_SEPARATOR)
    if not separator:
        return Path(text)
    if scheme not in PACKAGES:
        raise ConfigError(f"{option}: {scheme}:// cannot be used; one of {', '.join(PACKAGES)}, or a path without ://")
    parts = key.removesuffix("/").split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or not _is_plain(key):
        raise ConfigError(
            f"{option}: {text!r} is no address of an object; write {scheme}://BUCKET/FOLDER/NAME, without empty parts, "
            ". and .."
        )
    return StorePath(scheme, PurePosixPath(*parts))


def _is_plain(name: str) -> bool:
    """Return whether a name has neither control characters nor halves of characters nor backslashes."""
    return "\\" not in name and not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
