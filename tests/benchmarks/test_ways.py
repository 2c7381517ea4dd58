"""The ways the cascade is compared with, and the table of them."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from benchmarks import ways
from benchmarks.ways import Settings, make_way, slices
from retinafocus import Detector, DetectorConfig
from retinafocus.cascade import CascadeConfig


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv2_threads)


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A JPEG of 700 x 1500 with a photographed face of 100 px, if the demo's photographs are installed."""
    astronaut = pytest.importorskip("skimage.data").astronaut()
    canvas = np.full((700, 1500, 3), 127, np.uint8)
    canvas[100:612, 800:1312] = astronaut
    return cv2.imencode(".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))[1].tobytes()


def test_slices_of_a_4k_photo_are_eight_and_the_last_ones_are_shifted_back() -> None:
    # Steps of 1280 - 256; the last start is 3840 - 1280, or 2160 - 1280.
    lefts, tops = (0, 1024, 2048, 2560), (0, 880)
    assert slices((2160, 3840)) == [(x, y, x + 1280, y + 1280) for y in tops for x in lefts]


@pytest.mark.parametrize("size", [(1280, 1280), (5, 7), (1, 1280)])
def test_a_picture_no_larger_than_a_slice_is_one_slice(size: tuple[int, int]) -> None:
    assert slices(size) == [(0, 0, size[1], size[0])]


@pytest.mark.parametrize("size", [(2160, 3840), (1281, 1280), (4320, 7680), (700, 1500)])
def test_slices_are_those_of_the_sahi_package(size: tuple[int, int]) -> None:
    slicing = pytest.importorskip("sahi.slicing")
    theirs = slicing.get_slice_bboxes(*size, slice_height=ways.SLICE, slice_width=ways.SLICE)
    assert sorted(slices(size)) == sorted(map(tuple, theirs))


@pytest.mark.parametrize("name", ways.usable_ways())
def test_every_way_finds_the_face_and_says_what_it_looked_at(name: str, photo: bytes) -> None:
    answer = make_way(name, Settings(engine="torch"))(photo)
    left, top, right, bottom = answer.faces.boxes[0]
    assert answer.faces.scores[0] > 0.9
    # The face in the portrait is xyxy 176, 68, 270, 187; the portrait's corner lies at 800, 100.
    assert (left + right) / 2 == pytest.approx(800 + 223, abs=15)
    assert (top + bottom) / 2 == pytest.approx(100 + 127, abs=15)
    whole = 700 * 1500
    slices_and_shrunk = 2 * 1280 * 700 + 1280 * 597
    pyramid = whole * (1 + 1 / 16 + 1 / 256)
    expected = {"whole": whole, "tiles": slices_and_shrunk, "sahi": slices_and_shrunk, "exhaustive": pyramid}
    if name in expected:
        assert answer.pixels == pytest.approx(expected[name], rel=0.001)
    assert answer.finest_pixels == whole


def test_the_exhaustive_way_is_the_library(photo: bytes) -> None:
    answer = make_way("exhaustive", Settings(engine="torch"))(photo)
    config = DetectorConfig(device="cpu", engine="torch", threads=1, cascade=CascadeConfig(mode="exhaustive"))
    faces = Detector.from_pretrained(None, config).detect(photo)
    np.testing.assert_array_equal(answer.faces.boxes, faces.boxes)
    np.testing.assert_array_equal(answer.faces.scores, faces.scores)


@pytest.mark.parametrize("name", ways.DECODERS)
def test_a_decoder_only_decodes(name: str, photo: bytes) -> None:
    answer = make_way(name, Settings())(photo)
    assert (len(answer.faces.boxes), answer.pixels) == (0, 0)
