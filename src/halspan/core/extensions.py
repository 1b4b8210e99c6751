"""Registries that other packages extend by entry points; a package is imported when one of its names is used."""

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from halspan.core.checks import ask_if_meant
from halspan.core.errors import ConfigError

CONF_GROUP = "halspan.conf"


class Registry:
    """Objects by name: halspan's own, and those that installed packages register in an entry point group.

    Both are written as entry points are, `module:object`, and imported by `find` alone, so listing names is cheap and
    runs no code of another package. A name of halspan's own cannot be taken by a package.

    Args:
        group: Entry point group, such as `halspan.heads`.
        what: Kind of the objects, for messages.
        own: Halspan's own objects, `module:object` by name.
        prefix: Beginning of the entry points' names, for groups that hold several kinds; not part of the name here.
    """

    def __init__(self, group: str, what: str, own: Mapping[str, str], *, prefix: str = "") -> None:
        self.group = group
        self.what = what
        self.own = {name: EntryPoint(prefix + name, value, group) for name, value in own.items()}
        self._prefix = prefix

    def names(self) -> list[str]:
        """Return every name, halspan's own first; nothing is imported."""
        others = sorted(name for name, _ in self._others() if name not in self.own)
        return [*self.own, *dict.fromkeys(others)]

    def targets(self) -> dict[str, str]:
        """Return each object's dotted path, as `_target_` has it, with its name; nothing is imported."""
        points = [*self._others(), *self.own.items()]
        return {point.value.replace(":", "."): name for name, point in points}

    def find(self, name: str) -> Any:
        """Import and return the object of a name.

        Raises:
            ConfigError: The name is not registered, two packages register it, or its package cannot be imported.
        """
        point = self.own.get(name) or self._of_package(name)
        try:
            return point.load()
        except Exception as error:  # the code of another package may raise anything on import
            raise ConfigError(
                f"{self.what} {name!r}: {_package(point)} cannot be imported ({type(error).__name__}: {error}); "
                f"repair, update or uninstall it (entry point {point.name} = {point.value} of the group {self.group})"
            ) from error

    def provider(self, name: str) -> str | None:
        """Return the package that provides a name, with its version; None for halspan's own and unknown names."""
        points = [] if name in self.own else [point for other, point in self._others() if other == name]
        return _package(points[0]) if points else None

    def _of_package(self, name: str) -> EntryPoint:
        points = [point for other, point in self._others() if other == name]
        if not points:
            names = self.names()
            hint = ask_if_meant(name, names)
            raise ConfigError(
                f"{self.what} {name!r} is not registered; {hint}{'if not, ' if hint else ''}install the package that "
                f"provides it (entry point group {self.group}); registered: {', '.join(names) or 'none'}"
            )
        if len(points) > 1:
            packages = " and ".join(map(_package, points))
            raise ConfigError(f"{self.what} {name!r} is registered by {packages}; uninstall one of them")
        return points[0]

    def _others(self) -> Iterator[tuple[str, EntryPoint]]:
        for point in entry_points(group=self.group):
            if point.name.startswith(self._prefix):
                yield point.name.removeprefix(self._prefix), point


def find_conf_folders() -> list[Path]:
    """Return the folders of configuration groups that installed packages bring.

    An entry point of the group `halspan.conf` names a package, and the folder `conf/` in it holds the groups.

    Raises:
        ConfigError: A package that is named has no such folder.
    """
    folders = []
    for point in sorted(entry_points(group=CONF_GROUP)):
        spec = find_spec(point.value)  # runs no code, unless the package is inside another one
        places = [Path(place, "conf") for place in (spec and spec.submodule_search_locations) or ()]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise ConfigError(
                f"{_package(point)}: {point.value!r} is not a package with a folder conf/; repair or uninstall it "
                f"(entry point {point.name} of the group {CONF_GROUP})"
            )
        folders.append(folder)
    return folders


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "halspan"
