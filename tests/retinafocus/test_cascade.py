"""A photo's whole way, with a network that calls every red square a face."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from retinafocus.anchors import anchor_boxes
from retinafocus.boxes import encode_boxes, encode_landmarks
from retinafocus.cascade import PreparedPhoto, decode_base, level_pixels, look, prepare, shown_area
from retinafocus.errors import PhotoError
from retinafocus.levels import Level, plan_levels
from retinafocus.models import Outputs, get_preset
from retinafocus.photos import read_header
from retinafocus.postprocessing import PostConfig

PRESET = get_preset("mobilenet025-1mb")
BAND = (12.0, 400.0)
RED = (255, 0, 0)


class RedSquareEngine:
    """Finds every red rectangle, whatever its size; the nose is its centre, the other points its corners."""

    name = "red squares"
    device = "cpu"
    precision = "float32"
    preset = PRESET

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def run(self, pixels: np.ndarray) -> Outputs:
        self.sizes.append(pixels.shape[:2])
        red = (pixels[..., 0].astype(int) - pixels[..., 1] > 128).astype(np.uint8)
        rows = cv2.connectedComponentsWithStats(red)[2][1:, :4]
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows.tolist()], dtype=torch.float32).reshape(-1, 4)
        left, top, right, bottom = boxes.unbind(1)
        nose = ((left + right) / 2, (top + bottom) / 2)
        points = [(left, top), (right, top), nose, (left, bottom), (right, bottom)]
        landmarks = torch.stack([torch.stack(point, dim=1) for point in points], dim=1)
        anchors = anchor_boxes(PRESET.anchors, pixels.shape[:2])
        chosen = anchors[: len(boxes)]
        outputs = Outputs(
            torch.zeros(1, len(anchors), 2), torch.zeros(1, len(anchors), 4), torch.zeros(1, len(anchors), 10), None
        )
        outputs.class_logits[0, len(boxes) :, 0] = 20
        outputs.class_logits[0, : len(boxes), 1] = 3
        outputs.box_deltas[0, : len(boxes)] = encode_boxes(boxes, chosen, PRESET.variances)
        outputs.landmark_deltas[0, : len(boxes)] = encode_landmarks(landmarks, chosen, PRESET.variances)
        return outputs


def photo_with(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Grey, with red rectangles at x1, y1, x2, y2."""
    pixels = np.full((*size, 3), 90, np.uint8)
    for left, top, right, bottom in boxes:
        pixels[top:bottom, left:right] = RED
    return pixels


def encoded(pixels: np.ndarray, kind: str, orientation: int = 1) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {}
    Image.fromarray(pixels).save(file, kind, exif=exif, **options)
    return file.getvalue()


def prepared(photo: bytes | np.ndarray, min_face: float = 20, max_pixels: int = 2**28) -> PreparedPhoto:
    return prepare(photo, min_face=min_face, face_range=BAND, max_pixels=max_pixels)


class TestWholeWay:
    def test_faces_of_every_size_are_found_once_and_where_they_are(self) -> None:
        boxes = [
            (32, 16, 52, 36),
            (100, 100, 132, 132),
            (200, 40, 300, 140),
            (1000, 64, 1300, 364),
            (400, 400, 1400, 1400),
        ]
        engine = RedSquareEngine()
        result = look(prepared(photo_with((1500, 2000), *boxes)), engine, PostConfig())
        assert sorted(map(tuple, result.faces.boxes.round().tolist())) == sorted(boxes)
        assert engine.sizes == [level.size for level in result.plan.levels] == [(375, 500), (1500, 2000)]
        assert result.pixels_processed == 375 * 500 + 1500 * 2000

    def test_landmarks_lie_in_photo_pixels(self) -> None:
        result = look(
            prepared(photo_with((960, 704), (80, 160, 480, 560)), min_face=200), RedSquareEngine(), PostConfig()
        )
        assert result.plan.finest.scale == 1 / 16
        assert result.faces.landmarks.round().tolist() == [[[80, 160], [480, 160], [280, 360], [80, 560], [480, 560]]]

    @pytest.mark.parametrize("kind", ["jpeg", "png"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_reduced_photo_of_odd_size_and_any_orientation_keeps_its_faces_in_place(
        self, kind: str, orientation: int
    ) -> None:
        # At 1/8 the 1001 x 803 px become 126 x 101: JPEG shows 1008 x 808 px with them, PNG the photo.
        data = encoded(photo_with((803, 1001), (720, 480, 960, 720)), kind, orientation)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        rows, columns = np.nonzero(upright[..., 0].astype(int) - upright[..., 1] > 128)
        wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        result = look(prepared(data, min_face=96), RedSquareEngine(), PostConfig())
        assert result.plan.finest.scale == 1 / 8
        assert sorted(result.plan.finest.size) == [101, 126]
        # Whole blocks are red, so JPEG is exact; PNG's fractions of a pixel round to half a pixel of the level.
        assert result.faces.boxes == pytest.approx(np.array([wanted]), abs=0.1 if kind == "jpeg" else 4.1)

    def test_png_and_its_pixels_give_the_same_faces(self) -> None:
        pixels = photo_with((403, 601), (50, 60, 100, 130), (300, 200, 420, 320))
        for min_face in (6, 20, 50, 300):
            results = [
                look(prepared(photo, min_face=min_face), RedSquareEngine(), PostConfig())
                for photo in (pixels, encoded(pixels, "png"))
            ]
            assert results[0].faces == results[1].faces
            assert len(results[0].faces) > 0

    def test_photo_without_faces_has_none(self) -> None:
        result = look(prepared(photo_with((300, 400))), RedSquareEngine(), PostConfig())
        assert len(result.faces) == 0
        assert result.pixels_processed == 300 * 400

    def test_one_pixel(self) -> None:
        engine = RedSquareEngine()
        assert len(look(prepared(photo_with((1, 1))), engine, PostConfig()).faces) == 0
        red = look(prepared(photo_with((1, 1), (0, 0, 1, 1))), engine, PostConfig())
        assert red.faces.boxes == pytest.approx(np.array([[0, 0, 1, 1]]), abs=1e-3)

    @pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)], ids=str)
    @pytest.mark.parametrize("min_face", [6, 20, 100])
    def test_thread_of_a_photo(self, size: tuple[int, int], min_face: float) -> None:
        engine = RedSquareEngine()
        assert len(look(prepared(photo_with(size), min_face=min_face), engine, PostConfig()).faces) == 0

    @pytest.mark.parametrize(
        "box",
        [
            pytest.param((0, 0, 40, 40), id="corner"),
            pytest.param((560, 100, 600, 140), id="right border"),
            pytest.param((100, 360, 140, 400), id="bottom border"),
            pytest.param((0, 0, 600, 400), id="fills the photo"),
        ],
    )
    def test_face_at_the_border(self, box: tuple[int, int, int, int]) -> None:
        result = look(prepared(photo_with((400, 600), box)), RedSquareEngine(), PostConfig())
        assert result.faces.boxes == pytest.approx(np.array([list(box)]), abs=1e-3)

    def test_face_that_fills_a_photo_of_several_levels(self) -> None:
        result = look(prepared(photo_with((1000, 1600), (0, 0, 1600, 1000))), RedSquareEngine(), PostConfig())
        assert len(result.plan.levels) == 2
        assert result.faces.boxes == pytest.approx(np.array([[0, 0, 1600, 1000]]), abs=1e-3)

    def test_thousands_of_faces(self) -> None:
        boxes = [(24 * x + 4, 24 * y + 4, 24 * x + 20, 24 * y + 20) for y in range(50) for x in range(60)]
        result = look(prepared(photo_with((1200, 1440), *boxes), min_face=12), RedSquareEngine(), PostConfig())
        assert len(result.faces) == 3000
        assert set(map(tuple, result.faces.boxes.round().tolist())) == set(boxes)

    def test_enlarged_photo_reports_what_went_through_the_network(self) -> None:
        result = look(prepared(photo_with((60, 80), (20, 20, 28, 28)), min_face=6), RedSquareEngine(), PostConfig())
        assert result.pixels_processed == 120 * 160
        assert result.faces.boxes == pytest.approx(np.array([[20, 20, 28, 28]]), abs=0.51)

    def test_costs_are_reported_in_milliseconds(self) -> None:
        data = encoded(photo_with((300, 400), (20, 20, 60, 60)), "jpeg")
        ready = prepared(data)
        result = look(ready, RedSquareEngine(), PostConfig())
        assert result.ms_decode == ready.ms_decode > 0
        assert 0 < result.ms_network < 10_000
        assert 0 < result.ms_other < 10_000
        assert result.header == read_header(data)

    def test_failure_of_the_network_passes_through(self) -> None:
        class Failing(RedSquareEngine):
            def run(self, pixels: np.ndarray) -> Outputs:
                raise PhotoError("model_error", "broken")

        with pytest.raises(PhotoError, match="broken"):
            look(prepared(photo_with((30, 30))), Failing(), PostConfig())


class TestPrepare:
    def test_pixels_are_those_of_the_plan(self) -> None:
        ready = prepared(encoded(photo_with((1203, 1601)), "jpeg"), min_face=40)
        assert [level.scale for level in ready.plan.levels] == [1 / 8, 1 / 2]
        assert [pixels.shape for pixels in ready.pixels] == [(151, 201, 3), (602, 801, 3)]
        assert all(pixels.dtype == np.uint8 and pixels.flags.c_contiguous for pixels in ready.pixels)

    def test_pixels_given_in_another_memory_order_are_taken(self) -> None:
        bgr = photo_with((50, 60), (10, 10, 40, 40))[:, :, ::-1].copy()
        result = look(prepared(bgr[:, :, ::-1]), RedSquareEngine(), PostConfig())
        assert result.faces.boxes == pytest.approx(np.array([[10, 10, 40, 40]]), abs=1e-3)

    @pytest.mark.parametrize(
        ("min_face", "base"),
        [
            pytest.param(6, (400, 604), id="enlarged from full size"),
            pytest.param(20, (400, 604), id="full size"),
            pytest.param(24, (200, 302), id="1/2"),
            pytest.param(95, (100, 151), id="1/4"),
            pytest.param(96, (50, 76), id="1/8"),
            pytest.param(1000, (50, 76), id="1/64 from 1/8"),
        ],
    )
    def test_no_more_is_decoded_than_the_finest_level_needs(self, min_face: float, base: tuple[int, int]) -> None:
        data = encoded(photo_with((400, 604)), "jpeg")
        plan = plan_levels((400, 604), min_face=min_face, face_range=BAND)
        assert decode_base(data, read_header(data), plan, 2**28)[0].shape[:2] == base

    def test_photo_above_the_limit_is_refused(self) -> None:
        data = encoded(photo_with((100, 100)), "png")
        with pytest.raises(PhotoError, match="raise max_pixels") as caught:
            prepared(data, min_face=1000, max_pixels=9_999)
        assert caught.value.status == "too_large"
        assert prepared(data, max_pixels=10_000).plan.pixels == 10_000

    def test_level_above_the_limit_is_refused_before_it_is_made(self) -> None:
        text = "faces of 6 px need a level of 200 x 200 pixels, more than max_pixels 39999 admits; raise max_pixels or"
        with pytest.raises(PhotoError, match=text) as caught:
            prepared(photo_with((100, 100)), min_face=6, max_pixels=39_999)
        assert caught.value.status == "too_large"

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            pytest.param(b"", "truncated", id="empty"),
            pytest.param(b"this is not a picture at all", "unsupported_format", id="text"),
            pytest.param(encoded(photo_with((300, 300)), "jpeg")[:2000], "truncated", id="half a JPEG"),
        ],
    )
    def test_broken_photo_is_a_photo_error(self, data: bytes, status: str) -> None:
        with pytest.raises(PhotoError) as caught:
            prepared(data)
        assert caught.value.status == status


class TestLevelPixels:
    @pytest.mark.parametrize(
        ("base", "size"),
        [
            pytest.param((403, 601), (403, 601), id="same"),
            pytest.param((403, 601), (101, 151), id="quarter"),
            pytest.param((403, 601), (806, 1202), id="double"),
            pytest.param((1, 60_000), (1, 15_000), id="row"),
            pytest.param((1, 60_000), (2, 120_000), id="row doubled"),
            pytest.param((60_000, 1), (120_000, 2), id="column doubled"),
            pytest.param((3, 3), (1, 1), id="to one pixel"),
        ],
    )
    def test_size_is_exact(self, base: tuple[int, int], size: tuple[int, int]) -> None:
        level = Level(index=0, scale=1, size=size, photo_size=base, covered=(0, 0, base[1], base[0]), face_range=(0, 1))
        assert level_pixels(photo_with(base), level).shape == (*size, 3)

    def test_shrinking_averages_every_pixel(self) -> None:
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[::4, ::4] = 160  # one pixel of sixteen: nearest neighbour would see only them, or none
        level = Level(index=0, scale=1 / 4, size=(2, 2), photo_size=(8, 8), covered=(0, 0, 8, 8), face_range=(0, 1))
        assert (level_pixels(pixels, level) == 10).all()

    def test_unchanged_pixels_are_not_copied(self) -> None:
        pixels = photo_with((5, 5))
        level = Level(index=0, scale=1, size=(5, 5), photo_size=(5, 5), covered=(0, 0, 5, 5), face_range=(0, 1))
        assert level_pixels(pixels, level) is pixels


@pytest.mark.parametrize(
    ("orientation", "area"),
    [
        # 90 x 43 px as stored; in blocks of 8: 96 x 48, so 6 px too many at the stored right and 5 at the bottom.
        pytest.param(1, (0, 0, 96, 48), id="as stored"),
        pytest.param(2, (-6, 0, 90, 48), id="mirrored"),
        pytest.param(3, (-6, -5, 90, 43), id="half turn"),
        pytest.param(4, (0, -5, 96, 43), id="upside down"),
        pytest.param(5, (0, 0, 48, 96), id="transposed"),
        pytest.param(6, (-5, 0, 43, 96), id="quarter turn"),
        pytest.param(7, (-5, -6, 43, 90), id="transposed the other way"),
        pytest.param(8, (0, -6, 48, 90), id="quarter turn back"),
    ],
)
def test_last_blocks_of_a_jpeg_lie_where_the_orientation_turns_them(
    orientation: int, area: tuple[int, int, int, int]
) -> None:
    header = read_header(encoded(photo_with((43, 90)), "jpeg", orientation))
    assert shown_area(header, 8) == area
    assert shown_area(header, 1) == (0, 0, header.width, header.height)
