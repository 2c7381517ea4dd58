"""A photo's whole way, with a network that calls every red square a face."""

from __future__ import annotations

import dataclasses
import io
import math
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from retinafocus import cascade
from retinafocus.anchors import anchor_boxes
from retinafocus.boxes import encode_boxes, encode_landmarks
from retinafocus.cascade import CascadeConfig, PhotoResult, PreparedPhoto, look_many, prepare
from retinafocus.engines import TorchEngine
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.focus.chips import ChipConfig
from retinafocus.focus.stacking import Look, Stack, stack
from retinafocus.levels import Level
from retinafocus.models import FocusConfig, Outputs, Preset, RetinaFocus, get_preset
from retinafocus.photos import read_header
from retinafocus.postprocessing import PostConfig
from retinafocus.sources import GivenPixels
from retinafocus.streams import StreamedPhoto

BAND = (12.0, 400.0)
PRESET = dataclasses.replace(get_preset("mobilenet025-1mb"), face_range=BAND)
FOCUS_PRESET = dataclasses.replace(PRESET, focus=FocusConfig(smallest=3, thresholds=(0.5,)))
STRIDE = 8
RED = (255, 0, 0)


class RedSquareEngine:
    """Finds every red rectangle, whatever its size; the nose is its centre, the other points its corners.

    With a focus branch it marks the cells that a rectangle of less than 20 px touches.
    """

    name = "red squares"
    device = "cpu"
    precision = "float32"

    def __init__(self, preset: Preset = PRESET, batch: int = 1) -> None:
        self.preset = preset
        self.batch = batch
        self.sizes: list[tuple[int, ...]] = []
        self.calls: list[int] = []

    def run(self, pixels: np.ndarray) -> Outputs:
        assert 1 <= len(pixels) <= self.batch
        self.calls.append(len(pixels))
        outputs = [self._see(picture) for picture in pixels]
        together = Outputs(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))
        return together if self.preset.focus is not None else together._replace(focus_logits=None)

    def _see(self, pixels: np.ndarray) -> Outputs:
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
        focus = torch.full((1, 1, *(math.ceil(side / STRIDE) for side in pixels.shape[:2])), -9.0)
        for x, y, w, h in rows.tolist():
            if w * h < 20**2:
                focus[0, 0, y // STRIDE : -(-(y + h) // STRIDE), x // STRIDE : -(-(x + w) // STRIDE)] = 9
        outputs = Outputs(
            torch.zeros(1, len(anchors), 2), torch.zeros(1, len(anchors), 4), torch.zeros(1, len(anchors), 10), focus
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
    return prepare(photo, min_face=min_face, preset=PRESET, config=CascadeConfig(zoom=4), max_pixels=max_pixels)


def look(photo: PreparedPhoto, engine: RedSquareEngine, post: PostConfig) -> PhotoResult:
    return cascade.look(photo, engine, CascadeConfig(zoom=4), post)


def focused(
    photo: bytes | np.ndarray, config: CascadeConfig | None = None, min_face: float = 20, batch: int = 1
) -> PhotoResult:
    """Looked at with a focus branch."""
    config = CascadeConfig(zoom=4) if config is None else config
    ready = prepare(photo, min_face=min_face, preset=FOCUS_PRESET, config=config)
    return cascade.look(ready, RedSquareEngine(FOCUS_PRESET, batch), config, PostConfig())


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
        assert result.ms_decode >= ready.ms_decode > 0
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
        for level, shape in zip(ready.plan.levels, [(151, 201, 3), (602, 801, 3)], strict=True):
            ((number, pixels),) = ready.source.read(level, np.array([(0, 0, *level.size[::-1])], np.int32))
            assert (number, pixels.shape, pixels.dtype.name) == (0, shape, "uint8")
            assert pixels.flags.c_contiguous

    def test_pixels_given_in_another_memory_order_are_taken(self) -> None:
        bgr = photo_with((50, 60), (10, 10, 40, 40))[:, :, ::-1].copy()
        result = look(prepared(bgr[:, :, ::-1]), RedSquareEngine(), PostConfig())
        assert result.faces.boxes == pytest.approx(np.array([[10, 10, 40, 40]]), abs=1e-3)

    def test_photo_that_takes_too_much_memory_even_in_strips_is_refused(self) -> None:
        data = encoded(photo_with((100, 100)), "png")
        with pytest.raises(PhotoError, match="raise max_pixels") as caught:
            prepared(data, min_face=1000, max_pixels=9_999)
        assert caught.value.status == "too_large"
        assert prepared(data, max_pixels=10_000).plan.pixels == 10_000

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


FACES = [(100, 80, 130, 110), (1500, 900, 1524, 924), (700, 200, 800, 300), (300, 500, 900, 1100)]


class TestFocus:
    """Photos of 1600 x 1200 px: a quarter of them is looked at whole, chips of them at full size."""

    PHOTO = photo_with((1200, 1600), *FACES)

    def test_small_faces_are_found_in_chips_and_the_rest_is_not_looked_at(self) -> None:
        result = focused(self.PHOTO)
        assert sorted(map(tuple, result.faces.boxes.round().tolist())) == sorted(FACES)
        # Both faces under 80 px have a chip of 8 x 8 cells, 256 x 256 px.
        assert result.chips == 2
        assert result.pixels_processed == 300 * 400 + 2 * 256 * 256
        assert result.chip_pixels == 2 * 256 * 256
        assert 0.06 < result.focus_share < 0.11  # 2 * 256 * 256 of 1200 * 1600, on a grid of 32 px

    def test_exhaustive_mode_finds_the_same_and_looks_everywhere(self) -> None:
        result = focused(self.PHOTO, CascadeConfig(zoom=4, mode="exhaustive"))
        assert sorted(map(tuple, result.faces.boxes.round().tolist())) == sorted(FACES)
        assert (result.chips, result.focus_share) == (0, 1)
        assert result.pixels_processed == result.plan.pixels == 300 * 400 + 1200 * 1600

    def test_photo_without_small_faces_is_looked_at_coarsely_alone(self) -> None:
        result = focused(photo_with((1200, 1600), (300, 500, 900, 1100)))
        assert result.faces.boxes.round().tolist() == [[300, 500, 900, 1100]]
        assert (result.pixels_processed, result.chips, result.focus_share) == (300 * 400, 0, 0)

    def test_photo_without_faces(self) -> None:
        result = focused(photo_with((1200, 1600)))
        assert (len(result.faces), result.pixels_processed) == (0, 300 * 400)

    @pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (31, 33)], ids=str)
    def test_photo_of_a_few_pixels_a_side(self, size: tuple[int, int]) -> None:
        assert len(focused(photo_with(size)).faces) == 0

    @pytest.mark.parametrize(
        "box",
        [(0, 0, 24, 24), (1576, 0, 1600, 24), (0, 1176, 24, 1200), (1576, 1176, 1600, 1200), (800, 1180, 830, 1200)],
        ids=str,
    )
    def test_small_face_at_the_border(self, box: tuple[int, int, int, int]) -> None:
        assert focused(photo_with((1200, 1600), box)).faces.boxes.round().tolist() == [list(box)]

    def test_level_nearly_full_of_chips_is_looked_at_whole(self) -> None:
        boxes = [(x, y, x + 24, y + 24) for x in range(40, 1500, 130) for y in range(40, 1100, 130)]
        result = focused(photo_with((1200, 1600), *boxes))
        assert len(result.faces) == len(boxes)
        assert result.pixels_processed == result.plan.pixels
        assert result.chips == 1

    def test_large_level_is_cut_into_tiles_and_nothing_is_lost_between_them(self) -> None:
        config = CascadeConfig(zoom=4, mode="exhaustive", network_pixels=900**2)
        boxes = [(x, y, x + 36, y + 36) for x in range(5, 1560, 47) for y in range(5, 1160, 47)]
        engine = RedSquareEngine(FOCUS_PRESET)
        photo = prepare(photo_with((1200, 1600), *boxes), min_face=20, preset=FOCUS_PRESET, config=config)
        result = cascade.look(photo, engine, config, PostConfig())
        assert sorted(map(tuple, result.faces.boxes.round().tolist())) == sorted(boxes)
        assert max(height * width for height, width in engine.sizes) <= 900**2
        assert len(engine.sizes) > 4

    def test_zoom_of_two_adds_a_level_with_chips_of_its_own(self) -> None:
        # From 1/4 to 1/2, the face of 24 px is still marked there, to full size.
        result = focused(self.PHOTO, CascadeConfig(zoom=2))
        assert [level.scale for level in result.plan.levels] == [1 / 4, 1 / 2, 1]
        assert result.plan.whole == 1
        assert sorted(map(tuple, result.faces.boxes.round().tolist())) == sorted(FACES)
        assert {look.level.index for look in result.trace.looks} == {0, 1, 2}

    def test_crowd_skips_the_levels_between(self) -> None:
        boxes = [(x, y, x + 24, y + 24) for x in range(40, 1500, 30) for y in range(40, 1100, 30)]
        result = focused(photo_with((1200, 1600), *boxes), CascadeConfig(zoom=2))
        assert [look.level.scale for look in result.trace.looks] == [1 / 4, 1]
        assert result.pixels_processed == 300 * 400 + 1200 * 1600
        assert len(result.trace.times) == 3
        assert len(result.faces) == len(boxes)

    def test_focus_map_that_is_not_finite_is_an_error_of_the_photo(self) -> None:
        class Sick(RedSquareEngine):
            def run(self, pixels: np.ndarray) -> Outputs:
                outputs = super().run(pixels)
                assert outputs.focus_logits is not None
                return outputs._replace(focus_logits=outputs.focus_logits * math.nan)

        ready = prepare(self.PHOTO, min_face=20, preset=FOCUS_PRESET)
        with pytest.raises(PhotoError, match="not finite"):
            cascade.look(ready, Sick(FOCUS_PRESET), CascadeConfig(), PostConfig())

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            pytest.param(cv2.error("Insufficient memory"), "out_of_memory", id="opencv"),
            pytest.param(MemoryError(), "out_of_memory", id="python"),
            pytest.param(RuntimeError("strange"), "model_error", id="other"),
        ],
    )
    def test_whatever_reading_raises_is_an_error_of_that_photo(self, error: Exception, status: str) -> None:
        class Breaking(GivenPixels):
            def load(self, level: Level) -> None:
                raise error

        photo = photo_with((1200, 1600))
        good = prepare(photo, min_face=20, preset=FOCUS_PRESET)
        bad = dataclasses.replace(good, source=Breaking(photo))
        results = look_many([bad, good], RedSquareEngine(FOCUS_PRESET, 2), CascadeConfig(), PostConfig())
        assert isinstance(results[0], PhotoError)
        assert results[0].status == status
        assert isinstance(results[1], PhotoResult)

    def test_zoom_is_two_with_chips_and_four_without_unless_it_is_named(self) -> None:
        scales = [
            [level.scale for level in config.plan((1200, 1600), 20, FOCUS_PRESET).levels]
            for config in (CascadeConfig(), CascadeConfig(mode="exhaustive"), CascadeConfig(zoom=4))
        ]
        assert scales == [[1 / 4, 1 / 2, 1], [1 / 4, 1], [1 / 4, 1]]

    def test_each_level_has_its_own_chip_settings(self) -> None:
        chips = (ChipConfig(min_chip=64), ChipConfig(threshold=0.99999))
        result = focused(self.PHOTO, CascadeConfig(zoom=2, chips=chips))
        assert {look.level.index for look in result.trace.looks} == {0, 1}  # logit 9 is a probability of 0.9999

    def test_faces_are_found_from_every_kind_of_file(self) -> None:
        for data in (encoded(self.PHOTO, "jpeg"), encoded(self.PHOTO, "png"), encoded(self.PHOTO, "jpeg", 6)):
            assert len(focused(data).faces) == len(FACES)

    def test_decoding_whole_at_once_finds_the_same(self) -> None:
        data = encoded(self.PHOTO, "jpeg")
        for share in (0.0, 1.0):
            boxes = focused(data, CascadeConfig(zoom=4, finer_looks=share)).faces.boxes.round().tolist()
            assert sorted(map(tuple, boxes)) == sorted(FACES)

    @pytest.mark.parametrize(("kind", "orientation"), [("jpeg", 1), ("jpeg", 8), ("png", 1), ("tiff", 1)])
    def test_photo_too_large_to_decode_at_once_is_read_in_strips_and_gives_the_same(
        self, kind: str, orientation: int
    ) -> None:
        size, places = (1600, 2400), [(100, 80), (1500, 900), (2300, 1500), (40, 1500)]
        data = encoded(photo_with(size, *((x, y, x + 30, y + 30) for x, y in places)), kind, orientation)
        config = CascadeConfig(zoom=4, network_pixels=900**2)
        for mode in ("focus", "exhaustive"):
            config = dataclasses.replace(config, mode=mode)
            results = []
            for max_pixels in (2**22, 3_800_000):
                ready = prepare(data, min_face=20, preset=FOCUS_PRESET, config=config, max_pixels=max_pixels)
                results.append(cascade.look(ready, RedSquareEngine(FOCUS_PRESET), config, PostConfig()))
            assert isinstance(ready.source, StreamedPhoto)
            whole, in_strips = (sorted(map(tuple, result.faces.boxes.round().tolist())) for result in results)
            assert len(whole) == len(places)
            assert whole == in_strips

    def test_trace_holds_the_focus_map_and_every_look(self) -> None:
        trace = focused(self.PHOTO).trace
        assert list(trace.focus_maps) == [0]
        assert trace.focus_maps[0].shape == (38, 50)
        assert len(trace.looks) == 3

    def test_focus_without_a_focus_branch_is_refused(self) -> None:
        with pytest.raises(SettingsError, match=r"cascade\.mode is focus, but .* have no focus branch"):
            prepare(self.PHOTO, min_face=20, preset=PRESET, config=CascadeConfig(zoom=4, mode="focus"))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("mode", "best"),
            ("border", -1.0),
            ("whole_above", 1.5),
            ("finer_looks", -0.1),
            ("chips", ()),
            ("zoom", 3),
            ("zoom", 2.0),
            ("network_pixels", 0),
            ("crowded", 2.0),
        ],
    )
    def test_wrong_settings_name_the_field(self, field: str, value: Any) -> None:
        with pytest.raises(SettingsError, match=rf"cascade\.{field} is"):
            CascadeConfig(**{field: value})


class TestManyPhotos:
    @staticmethod
    def photos(config: CascadeConfig) -> list[PreparedPhoto]:
        generator = random.Random(5)
        ready = []
        for number in range(7):
            size = generator.choice([(1200, 1600), (1600, 1200), (600, 800)])
            places = [(generator.randrange(size[1] - 30), generator.randrange(size[0] - 30)) for _ in range(number)]
            photo = photo_with(size, *((x, y, x + 26, y + 26) for x, y in places))
            ready.append(prepare(photo, min_face=20, preset=FOCUS_PRESET, config=config))
        return ready

    def test_answer_does_not_depend_on_the_neighbours(self) -> None:
        config = CascadeConfig(zoom=4)
        one = RedSquareEngine(FOCUS_PRESET)
        alone = [cascade.look(photo, one, config, PostConfig()) for photo in self.photos(config)]
        assert sum(len(result.faces) for result in alone) >= 15
        order = list(range(7))
        generator = random.Random(1)
        for batch in (2, 3, 16):
            generator.shuffle(order)
            cut = generator.randrange(1, 7)
            photos = self.photos(config)
            engine = RedSquareEngine(FOCUS_PRESET, batch)
            for group in (order[:cut], order[cut:]):
                for number, result in zip(
                    group, look_many([photos[n] for n in group], engine, config, PostConfig()), strict=True
                ):
                    assert isinstance(result, PhotoResult)
                    assert result.faces == alone[number].faces
                    assert result.pixels_processed == alone[number].pixels_processed
            assert max(engine.calls) > 1

    def test_no_photos_are_no_results(self) -> None:
        assert look_many([], RedSquareEngine(), CascadeConfig(zoom=4), PostConfig()) == []

    def test_photo_that_fails_fails_alone(self) -> None:
        class Picky(RedSquareEngine):
            def run(self, pixels: np.ndarray) -> Outputs:
                if (pixels[:, :8, :8, 2] == 255).any():
                    raise PhotoError("out_of_memory", "too blue")
                return super().run(pixels)

        blue = photo_with((300, 400), (20, 20, 60, 60))
        blue[:8, :8] = (0, 0, 255)
        photos = [photo_with((300, 400), (20, 20, 60, 60)), blue, photo_with((300, 400))]
        ready = [prepare(photo, min_face=20, preset=FOCUS_PRESET, config=CascadeConfig(zoom=4)) for photo in photos]
        results = look_many(ready, Picky(FOCUS_PRESET, 4), CascadeConfig(zoom=4), PostConfig())
        assert [isinstance(result, PhotoError) for result in results] == [False, True, False]
        assert isinstance(results[0], PhotoResult)
        assert len(results[0].faces) == 1

    def test_photo_whose_faces_take_too_much_memory_fails_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def picky(looks: Sequence[Look], **settings: Any) -> Stack:
            if looks[0].level.photo_size == (300, 400):
                raise MemoryError
            return stack(looks, **settings)

        monkeypatch.setattr("retinafocus.focus.way.stack", picky)
        config = CascadeConfig(zoom=4)
        photos = [photo_with(size, (20, 20, 60, 60)) for size in ((300, 400), (300, 404))]
        ready = [prepare(photo, min_face=20, preset=FOCUS_PRESET, config=config) for photo in photos]
        failed, found = look_many(ready, RedSquareEngine(FOCUS_PRESET), config, PostConfig())
        assert isinstance(failed, PhotoError)
        assert failed.status == "out_of_memory"
        assert isinstance(found, PhotoResult)
        assert len(found.faces) == 1

    def test_nothing_more_is_looked_at_of_a_photo_that_failed(self) -> None:
        class Failing(RedSquareEngine):
            def run(self, pixels: np.ndarray) -> Outputs:
                super().run(pixels)
                raise PhotoError("model_error", "no")

        config = CascadeConfig(mode="exhaustive", network_pixels=900 * 900)
        ready = prepare(photo_with((300, 4000)), min_face=20, preset=PRESET, config=config)  # of two tiles
        engine = Failing()
        (failed,) = look_many([ready], engine, config, PostConfig())
        assert isinstance(failed, PhotoError)
        assert engine.calls == [1]

    def test_what_fails_together_is_tried_in_halves(self) -> None:
        sizes = []

        class Small(RedSquareEngine):
            def run(self, pixels: np.ndarray) -> Outputs:
                sizes.append(len(pixels))
                if len(pixels) > 2:
                    raise PhotoError("out_of_memory", "too many")
                return super().run(pixels)

        photo = photo_with((300, 400), (20, 20, 60, 60))
        config = CascadeConfig(zoom=4, mode="exhaustive")
        ready = [prepare(photo, min_face=60, preset=FOCUS_PRESET, config=config) for _ in range(8)]
        results = look_many(ready, Small(FOCUS_PRESET, 8), config, PostConfig())
        assert sizes[:7] == [8, 4, 2, 2, 4, 2, 2]
        assert all(isinstance(result, PhotoResult) for result in results)

    def test_photo_that_breaks_off_at_the_finer_look_fails_alone(self) -> None:
        class Breaking(GivenPixels):
            def load(self, level: Level) -> None:
                if level.scale == 1:
                    raise PhotoError("corrupt", "broken")

        config = CascadeConfig(zoom=4)
        photo = photo_with((1200, 1600), *FACES)
        ready = prepare(photo, min_face=20, preset=FOCUS_PRESET, config=config)
        broken = dataclasses.replace(ready, source=Breaking(photo))
        results = look_many([broken, ready], RedSquareEngine(FOCUS_PRESET, 2), config, PostConfig())
        assert isinstance(results[0], PhotoError)
        assert isinstance(results[1], PhotoResult)


def test_raising_the_floor_only_removes_what_is_below_it() -> None:
    torch.manual_seed(0)
    model = RetinaFocus(get_preset("mobile025")).eval()
    pixels = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    engine = TorchEngine(model)
    answers = []
    for floor in (0.02, 0.505):
        photo = prepare(pixels, min_face=20, preset=model.preset, config=CascadeConfig(zoom=4))
        answers.append(
            cascade.look(photo, engine, CascadeConfig(zoom=4), PostConfig(score_floor=floor, top_k=None)).faces
        )
    assert 0 < len(answers[1]) < len(answers[0])
    assert answers[0].above(0.505) == answers[1]
