"""Repeats: what the hash of a picture survives, what it tells apart, and the search among many."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from retinafocus.datasets.likeness import (
    ALIKE_BITS,
    HASH_BITS,
    content_hash,
    first_alike,
    mirrored,
    picture_hash,
)


def scene(seed: int, height: int = 240, width: int = 320) -> NDArray[np.uint8]:
    """A soft random picture; cells of its own, so that any two differ everywhere."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def saved_again(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", half, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1), np.uint8)


def brighter(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (pixels * 0.8 + 40).astype(np.uint8)


def cut(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels[3:, 3:]


@pytest.mark.parametrize("change", [saved_again, brighter, cut])
@pytest.mark.parametrize("seed", range(5))
def test_a_changed_copy_is_alike(change, seed: int) -> None:  # type: ignore[no-untyped-def]
    distance = int((picture_hash(scene(seed)) != picture_hash(change(scene(seed)))).sum())
    assert distance <= ALIKE_BITS


def test_different_scenes_differ_in_about_half_their_bits() -> None:
    hashes = np.array([picture_hash(scene(seed)) for seed in range(40)])
    distances = (hashes[:, None] != hashes[None]).sum(axis=2)[np.triu_indices(40, 1)]
    assert distances.min() > 2 * ALIKE_BITS
    assert abs(distances.mean() - HASH_BITS / 2) < 8


def test_a_mirrored_copy_is_alike_when_mirrored_back() -> None:
    turned = picture_hash(mirrored(scene(1)))
    assert (picture_hash(scene(1)) != turned).sum() > ALIKE_BITS
    assert (picture_hash(mirrored(mirrored(scene(1)))) == picture_hash(scene(1))).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2), (5000, 3)])
def test_any_size_has_a_hash(size: tuple[int, int]) -> None:
    assert picture_hash(np.full((*size, 3), 7, np.uint8)).tolist() == [False] * HASH_BITS


def test_files_are_the_same_by_their_bytes() -> None:
    assert content_hash(b"") != content_hash(b"\0")
    assert content_hash(b"photo") == content_hash(bytearray(b"photo"))
    assert len(content_hash(b"photo")) == 32


def bits(*ones: int) -> NDArray[np.bool_]:
    row = np.zeros(HASH_BITS, np.bool_)
    row[list(ones)] = True
    return row


def test_the_first_of_those_near_enough_is_named() -> None:
    near, far = bits(*range(ALIKE_BITS)), bits(*range(ALIKE_BITS + 1))
    hashes = np.array([bits(), far, near, bits()])
    assert first_alike(hashes, np.array([far, near, bits()])).tolist() == [1, 0, 0, 1]
    assert first_alike(hashes, hashes, earlier=True).tolist() == [-1, -1, 0, 0]


def test_none_and_thousands() -> None:
    nothing = np.zeros((0, HASH_BITS), np.bool_)
    assert first_alike(nothing, nothing).tolist() == []
    assert first_alike(np.array([bits()]), nothing).tolist() == [-1]
    many = np.random.default_rng(2).integers(0, 2, (3000, HASH_BITS)).astype(np.bool_)
    many[2999] = many[1500]
    found = first_alike(many, many, earlier=True)
    assert (np.flatnonzero(found >= 0).tolist(), found[2999]) == ([2999], 1500)
