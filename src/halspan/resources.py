"""Folders that belong to halspan, in an installed package or at the top of the repository."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_REPOSITORY = _PACKAGE.parents[1]


def find_conf() -> Path:
    """Return the folder of configuration groups."""
    return _find("conf", "conf")


def find_shapes_backbone() -> Path:
    """Return the folder of the tiny backbone that was pre-trained on the shapes world."""
    return _find("shapes_backbone", "checkpoints/shapes_backbone")


def _find(packaged: str, in_repository: str) -> Path:
    folder = _PACKAGE / packaged
    return folder if folder.is_dir() else _REPOSITORY / in_repository
