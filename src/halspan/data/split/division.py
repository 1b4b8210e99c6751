"""Division of images into train, val and test shares by a hash of their content, singly or in groups."""

import hashlib
from collections.abc import Collection, Iterable

import numpy as np

DIVIDED = ("train", "val", "test_seen")
VAL_SHARE = 0.15
TEST_SHARE = 0.15


def divide_images(
    hashes: Iterable[str],
    *,
    val_share: float = VAL_SHARE,
    test_share: float = TEST_SHARE,
    shared: Collection[str] = (),
    shared_test_share: float | None = None,
) -> dict[str, str]:
    """Assign image contents to train, val and test_seen.

    The first 64 bits of the hash, as a fraction of 1, determine the part: the highest fractions are test_seen, the next
    ones val, and the lowest ones train. A larger `test_share` therefore contains every image of a smaller one. If a
    part would be empty and another one has two images or more, the image with the nearest fraction moves; train is
    filled first, then val, then test_seen.

    Args:
        hashes: SHA-256 of the images' content, in hexadecimal.
        val_share: Share of images in val, 0 to 1.
        test_share: Share of images in test_seen, 0 to 1.
        shared: Images that have a test share of their own.
        shared_test_share: Share of these images in test_seen, 0 to 1; None for `test_share`.

    Returns:
        The part of each image, by hash.

    >>> divide_images(["00" * 32, "80" * 32, "f0" * 32], val_share=0.25, test_share=0.25).values()
    dict_values(['train', 'val', 'test_seen'])
    """
    cuts = (1 - val_share - test_share, 1 - test_share)
    fractions = {hash_: _fraction(hash_) for hash_ in hashes}
    if shared_test_share is not None:
        own = (1 - val_share - shared_test_share, 1 - shared_test_share)
        fractions |= {hash_: _stretch(_fraction(hash_), own, cuts) for hash_ in shared}
    ordered = sorted(fractions, key=lambda hash_: (fractions[hash_], hash_))
    n_train, n_val = (sum(fraction < cut for fraction in fractions.values()) for cut in cuts)
    n_train, n_val = _at_least_one(n_train, n_val - n_train, len(ordered))
    names = ["train"] * n_train + ["val"] * n_val + ["test_seen"] * (len(ordered) - n_train - n_val)
    return dict(zip(ordered, names, strict=True))


def group_images(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Group images that share a text, directly or through other images.

    Args:
        pairs: Image hash and normalized text of each caption.

    Returns:
        A hash for the group of each image, to divide in place of the image's. An image without a group keeps its own
        hash. A group has the lowest hash of its images, hashed again, because the lowest of many is nearly always in
        train.
    """
    parents: dict[str, str] = {}
    first_with: dict[str, str] = {}
    for image, text in pairs:
        parents.setdefault(image, image)
        one, other = _find(parents, image), _find(parents, first_with.setdefault(text, image))
        parents[max(one, other)] = min(one, other)
    roots = {image: _find(parents, image) for image in parents}
    shared = {root for image, root in roots.items() if image != root}
    return {
        image: hashlib.sha256(root.encode()).hexdigest() if root in shared else root for image, root in roots.items()
    }


def _find(parents: dict[str, str], image: str) -> str:
    """Return the lowest image of a group, and shorten the path to it."""
    while parents[image] != image:
        parents[image] = parents[parents[image]]
        image = parents[image]
    return image


def _fraction(hash_: str) -> float:
    return int(hash_[:16], 16) / 2**64


def _stretch(fraction: float, own: tuple[float, float], cuts: tuple[float, float]) -> float:
    """Map a fraction from the cuts of shared images to the cuts of all images; the order stays."""
    return float(np.interp(fraction, [0, *own, 1], [0, *cuts, 1]))


def _at_least_one(n_train: int, n_val: int, n_images: int) -> tuple[int, int]:
    """Move the two cuts as little as possible so that train, val and test_seen each get an image."""
    cuts = [n_train, n_train + n_val]
    if n_images >= 3:
        first = min(max(cuts[0], 1), n_images - 2)
        return first, min(max(cuts[1], first + 1), n_images - 1) - first
    return min(n_images, 1), n_images - min(n_images, 1)
