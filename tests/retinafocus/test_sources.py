"""Where pixels come from: every size exact, every rectangle where it belongs, nothing decoded that need not be."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from retinafocus.levels import Level, plan_levels
from retinafocus.photos import decode, read_header
from retinafocus.sources import (
    DecodedPhoto,
    DecodePlan,
    GivenPixels,
    halve,
    level_pixels,
    plan_decoding,
    reduction_for,
    shown_area,
)

BAND = (12.0, 400.0)


def photo_of(size: tuple[int, int]) -> np.ndarray:
    """Noise, smooth enough for JPEG."""
    rough = np.random.default_rng(0).integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize(size[::-1], Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str, orientation: int = 1, **options: Any) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(file, kind, exif=exif, **options)
    return file.getvalue()


# The orientation that undoes another: only the quarter turns are not their own.
INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def with_orientation(pixels: np.ndarray, orientation: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(pixels, "png", orientation)))


class TestPlanDecoding:
    @pytest.mark.parametrize(
        ("kind", "options", "finer_looks", "plan"),
        [
            # Twice costs 0.79 + share, once 1 + 0.12 for shrinking.
            pytest.param("jpeg", {}, 0.3, DecodePlan(coarse=4, fine=1), id="few finer looks"),
            pytest.param("jpeg", {}, 0.4, DecodePlan(coarse=1, fine=1), id="many finer looks"),
            pytest.param("jpeg", {"progressive": True}, 0.0, DecodePlan(coarse=1, fine=1), id="progressive"),
            pytest.param("png", {}, 0.0, DecodePlan(coarse=1, fine=1), id="png"),
        ],
    )
    def test_cheaper_way_is_chosen_from_the_header(
        self, kind: str, options: dict[str, Any], finer_looks: float, plan: DecodePlan
    ) -> None:
        header = read_header(encoded(photo_of((600, 800)), kind, **options))
        levels = plan_levels((600, 800), min_face=12, face_range=BAND, focus_from=3)
        assert [level.scale for level in levels.levels] == [1 / 4, 1]
        assert plan_decoding(header, levels, finer_looks) == plan

    @pytest.mark.parametrize(
        ("min_face", "reduction"),
        [
            pytest.param(6, 1, id="enlarged from full size"),
            pytest.param(12, 1, id="full size"),
            pytest.param(24, 2, id="1/2"),
            pytest.param(95, 4, id="1/4"),
            pytest.param(96, 8, id="1/8"),
            pytest.param(1000, 8, id="1/64 from 1/8"),
        ],
    )
    def test_no_more_is_decoded_than_the_finest_level_needs(self, min_face: float, reduction: int) -> None:
        header = read_header(encoded(photo_of((400, 604)), "jpeg"))
        plan = plan_levels((400, 604), min_face=min_face, face_range=BAND)
        assert plan_decoding(header, plan, 0.5) == DecodePlan(coarse=reduction, fine=reduction)


def read_all(
    source: DecodedPhoto | GivenPixels, level: Level, boxes: list[tuple[int, int, int, int]]
) -> list[np.ndarray]:
    return [pixels for _, pixels in sorted(source.read(level, np.array(boxes, np.int32)), key=lambda one: one[0])]


class TestReading:
    SIZE = (403, 601)

    @pytest.mark.parametrize("min_face", [pytest.param(6, id="enlarged"), pytest.param(12, id="as it is"), 24, 48, 200])
    def test_rectangle_is_that_part_of_the_whole_level(self, min_face: float) -> None:
        source = GivenPixels(photo_of(self.SIZE))
        for level in plan_levels(self.SIZE, min_face=min_face, face_range=BAND).levels:
            height, width = level.size
            boxes = [
                (0, 0, width, height),
                (width // 3, height // 4, width // 3 + width // 2, height // 4 + height // 2),
                (width - 1, height - 1, width, height),
                (width // 2, 0, width, height // 2 + 1),
            ]
            whole, *parts = read_all(source, level, boxes)
            assert whole.shape == (height, width, 3)
            for (left, top, right, bottom), part in zip(boxes[1:], parts, strict=True):
                assert part.flags.c_contiguous
                assert (part == whole[top:bottom, left:right]).all()

    def test_decoded_photo_and_its_pixels_agree(self) -> None:
        pixels = photo_of(self.SIZE)
        plan = plan_levels(self.SIZE, min_face=12, face_range=BAND)
        decoded = DecodedPhoto(
            encoded(pixels, "png"), read_header(encoded(pixels, "png")), plan, DecodePlan(coarse=1, fine=1), 10**6
        )
        for level in plan.levels:
            box = (0, 0, level.size[1], level.size[0])
            assert (read_all(decoded, level, [box])[0] == read_all(GivenPixels(pixels), level, [box])[0]).all()

    def test_finer_pixels_are_decoded_when_they_are_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reductions = []

        def counted(*arguments: Any, reduction: int, **options: Any) -> Any:
            reductions.append(reduction)
            return decode(*arguments, reduction=reduction, **options)

        monkeypatch.setattr("retinafocus.sources.decode", counted)
        data = encoded(photo_of((403, 601)), "jpeg")
        plan = plan_levels((403, 601), min_face=12, face_range=BAND, focus_from=3)
        photo = DecodedPhoto(data, read_header(data), plan, DecodePlan(coarse=4, fine=1), 10**6)
        read_all(photo, plan.levels[0], [(0, 0, 100, 100)])
        assert reductions == [4]
        for _ in range(3):
            read_all(photo, plan.levels[1], [(0, 0, 64, 64), (64, 0, 128, 64)])
        assert reductions == [4, 1]

    def test_reduced_jpeg_covers_whole_blocks_and_the_finer_level_the_photo(self) -> None:
        data = encoded(photo_of((403, 601)), "jpeg")
        plan = plan_levels((403, 601), min_face=12, face_range=BAND, focus_from=3)
        photo = DecodedPhoto(data, read_header(data), plan, DecodePlan(coarse=4, fine=1), 10**6)
        assert photo.covered(1 / 4) == (0, 0, 604, 404)
        assert photo.covered(1) == (0, 0, 601, 403)

    def test_given_pixels_cover_whole_blocks(self) -> None:
        source = GivenPixels(photo_of((403, 601)))
        assert source.covered(2) == source.covered(1) == (0, 0, 601, 403)
        assert source.covered(1 / 4) == (0, 0, 604, 404)
        assert source.covered(1 / 16) == (0, 0, 608, 416)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["jpeg", "png"])
    @pytest.mark.parametrize("reduction", [1, 4])
    def test_what_a_level_is_said_to_cover_is_where_its_pixels_lie(
        self, kind: str, orientation: int, reduction: int
    ) -> None:
        # Dark left of and above a line far from the origin: the sum of the dark says where the line lies.
        pixels = np.full((603, 403, 3), 255, np.uint8)
        pixels[:560, :368] = 0
        stored = np.asarray(ImageOps.exif_transpose(with_orientation(pixels, orientation)))
        data = encoded(stored, kind, INVERSE[orientation], **({"quality": 100} if kind == "jpeg" else {}))
        header = read_header(data)
        plan = plan_levels((header.height, header.width), min_face=12, face_range=(12.0, 30.0), focus_from=3, zoom=2)
        source = DecodedPhoto(data, header, plan, DecodePlan(coarse=reduction, fine=1), 10**6)
        for level in plan.covering({level.scale: source.covered(level.scale) for level in plan.levels}).levels:
            dark = 1 - read_all(source, level, [(0, 0, *level.size[::-1])])[0][..., 0] / 255.0
            assert level.covered[1] + dark[:, 0].sum() * level.ratio[0] == pytest.approx(560, abs=1), level.scale
            assert level.covered[0] + dark[0].sum() * level.ratio[1] == pytest.approx(368, abs=1), level.scale

    def test_levels_may_be_asked_for_again(self) -> None:
        pixels = photo_of(self.SIZE)
        source = GivenPixels(pixels)
        plan = plan_levels(self.SIZE, min_face=12, face_range=(12.0, 60.0), zoom=2)
        assert [level.scale for level in plan.levels] == [1 / 8, 1 / 4, 1 / 2, 1]
        first, again = (
            [read_all(source, level, [(0, 0, *level.size[::-1])])[0] for level in plan.levels] for _ in range(2)
        )
        assert all((one == other).all() for one, other in zip(first, again, strict=True))


class TestHalve:
    def test_each_pixel_is_the_mean_of_four(self) -> None:
        pixels = np.repeat(np.array([[0, 4, 100, 104], [8, 12, 108, 112]], np.uint8)[..., None], 3, axis=2)
        assert halve(pixels)[..., 0].tolist() == [[6, 106]]

    def test_odd_last_row_and_column_stand_for_two(self) -> None:
        pixels = np.repeat(np.array([[0, 4, 100], [8, 12, 108], [20, 24, 200]], np.uint8)[..., None], 3, axis=2)
        assert halve(pixels)[..., 0].tolist() == [[6, 104], [22, 200]]

    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 60_001)])
    def test_no_photo_is_too_thin(self, size: tuple[int, int]) -> None:
        assert halve(np.full((*size, 3), 7, np.uint8)).shape == (1, -(-size[1] // 2), 3)


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
        assert level_pixels(np.zeros((*base, 3), np.uint8), size).shape == (*size, 3)

    def test_shrinking_averages_every_pixel(self) -> None:
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[::4, ::4] = 160  # one pixel of sixteen: nearest neighbour would see only them, or none
        assert (level_pixels(pixels, (2, 2)) == 10).all()

    def test_unchanged_pixels_are_not_copied(self) -> None:
        pixels = photo_of((5, 5))
        assert level_pixels(pixels, (5, 5)) is pixels


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
    header = read_header(encoded(photo_of((43, 90)), "jpeg", orientation))
    assert shown_area(header, 8) == area
    assert shown_area(header, 1) == (0, 0, header.width, header.height)


@pytest.mark.parametrize(
    ("scale", "reduction"),
    [(2, 1), (1, 1), (0.6, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.13, 4), (0.125, 8), (0.01, 8)],
)
def test_reduction_in_the_decoder_leaves_every_pixel_of_a_level_of_any_scale(scale: float, reduction: int) -> None:
    assert reduction_for(scale) == reduction
