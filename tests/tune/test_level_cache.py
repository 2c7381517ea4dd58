"""Cached levels: the cascade walks through them as through photos, and a killed pass goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from retinafocus import Detector, DetectorConfig
from retinafocus.cascade import CascadeConfig, PhotoResult, look, prepare
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import RunError, SettingsError
from retinafocus.focus.chips import ChipConfig
from retinafocus.levels import Level
from retinafocus.postprocessing import PostConfig
from tune import photo_parts
from tune.chip_answers import ChipAnswers, Recent
from tune.estimate import CachedPixels, estimate
from tune.level_cache import LevelCache, read_cache, route_of, write_cache

RECORD: dict[str, Any] = {"min_face": 20.0, "weights": "those"}
POST = PostConfig(score_floor=0.02)
ROUTES = [CascadeConfig(mode="focus"), CascadeConfig(mode="focus", zoom=4), CascadeConfig(mode="exhaustive")]
LOW = (ChipConfig(threshold=0.05, dilation=1, min_chip=16),)
"""Many small chips."""


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained(None, DetectorConfig(device="cpu", engine="torch", threads=1))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledPhoto]:
    """Three photos of odd sizes with ovals that may pass for faces, one of them too small for chips."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(1)
    made = []
    for name, (height, width) in {"a.png": (403, 541), "b.jpg": (390, 645), "c.jpg": (90, 120)}.items():
        small = random.integers(60, 120, (height // 60 + 2, width // 60 + 2, 3), dtype=np.uint8)
        picture = np.ascontiguousarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
        for _ in range(3):
            x, y = int(random.integers(0, width)), int(random.integers(0, height))
            side = int(random.integers(8, 20))
            cv2.ellipse(picture, (x, y), (side, side * 5 // 4), 0, 0, 360, (150, 180, 230), -1)
            for shift in (-1, 1):
                cv2.circle(picture, (x + shift * side // 3, y - side // 4), max(1, side // 6), (30, 30, 60), -1)
        assert cv2.imwrite(str(root / name), picture)
        none = np.zeros((0, 4), np.float32)
        made.append(LabelledPhoto(root / name, (height, width), none, np.zeros((0, 5, 2), np.float32), none, "t", ()))
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, photos: list[LabelledPhoto], detector: Detector) -> LevelCache:
    folder = tmp_path_factory.mktemp("cache")
    write_cache(folder, photos, detector.engine, ROUTES, RECORD)
    return read_cache(folder, photos)


def really(photo: LabelledPhoto, detector: Detector, cascade: CascadeConfig, post: PostConfig = POST) -> PhotoResult:
    ready = prepare(photo.path.read_bytes(), min_face=20, preset=detector.preset, config=cascade)
    return look(ready, detector.engine, cascade, post)


def estimated(
    cache: LevelCache, number: int, detector: Detector, cascade: CascadeConfig, post: PostConfig = POST, **more: Any
) -> PhotoResult:
    return estimate(cache.photos[number], min_face=20, cascade=cascade, post=post, preset=detector.preset, **more)


def assert_same(one: PhotoResult, other: PhotoResult) -> None:
    assert one.faces == other.faces
    assert (one.pixels_processed, one.chips, one.plan) == (other.pixels_processed, other.chips, other.plan)
    assert [look.box for look in one.trace.looks] == [look.box for look in other.trace.looks]


@pytest.mark.parametrize(
    ("cascade", "post"),
    [
        pytest.param(CascadeConfig(mode="exhaustive"), POST, id="every level whole"),
        pytest.param(CascadeConfig(mode="focus"), POST, id="default"),
        pytest.param(CascadeConfig(mode="focus", chips=LOW, whole_above=1, crowded=1), POST, id="many chips"),
        pytest.param(CascadeConfig(mode="focus", chips=LOW, zoom=4, whole_above=1, crowded=1), POST, id="zoom 4"),
        pytest.param(CascadeConfig(mode="focus", chips=LOW, border=0, overlap=0.5, left_to_finer=3), POST, id="ranges"),
        pytest.param(CascadeConfig(mode="focus", crowded=0, chips=LOW), POST, id="crowd"),
        pytest.param(
            CascadeConfig(mode="exhaustive"), PostConfig(score_floor=0.1, top_k=3, nms_iou=0.2, keep_top_k=2), id="post"
        ),
    ],
)
def test_estimate_with_chips_looked_at_equals_the_cascade(
    cascade: CascadeConfig, post: PostConfig, cache: LevelCache, photos: list[LabelledPhoto], detector: Detector
) -> None:
    answers = ChipAnswers(detector.engine, 20)
    for number, photo in enumerate(photos):
        assert_same(
            estimated(cache, number, detector, cascade, post, answers=answers), really(photo, detector, cascade, post)
        )


def test_those_settings_do_have_chips(cache: LevelCache, photos: list[LabelledPhoto], detector: Detector) -> None:
    cascade = CascadeConfig(mode="focus", chips=LOW, whole_above=1, crowded=1)
    answers = ChipAnswers(detector.engine, 20)
    found = [estimated(cache, number, detector, cascade, answers=answers) for number in range(len(photos))]
    assert sum(result.chips for result in found) > 3
    assert any(len(result.faces) for result in found)
    looked = answers.pixels
    assert len(answers) > 3
    for number in range(len(photos)):
        estimated(cache, number, detector, cascade, answers=answers)
    assert answers.pixels == looked  # each chip only once
    forgetful = ChipAnswers(detector.engine, 20, answer_bytes=0, pixel_bytes=0)
    again = [estimated(cache, number, detector, cascade, answers=forgetful) for number in range(len(photos))]
    assert forgetful.pixels == looked
    assert len(forgetful) == 0
    for one, other in zip(found, again, strict=True):
        assert_same(one, other)


def test_what_was_asked_for_longest_ago_is_let_go() -> None:
    recent: Recent[str] = Recent(most_bytes=10)
    for key in ("a", "b"):
        recent.put(key, key.upper(), 4)
    assert recent.get("a") == "A"
    recent.put("c", "C", 6)  # 14 bytes: without b they are 10
    assert [recent.get(key) for key in "abc"] == ["A", None, "C"]
    recent.put("d", "D", 11)  # larger than all there is
    assert [recent.get(key) for key in "acd"] == ["A", "C", None]


def test_chips_from_levels_cost_what_they_cost_where_their_map_is_whole(
    cache: LevelCache, photos: list[LabelledPhoto], detector: Detector
) -> None:
    cascade = CascadeConfig(mode="focus", chips=LOW, zoom=4, whole_above=1, crowded=1)
    chips = 0
    for number, photo in enumerate(photos):
        one, other = estimated(cache, number, detector, cascade), really(photo, detector, cascade)
        assert (one.pixels_processed, one.chips) == (other.pixels_processed, other.chips)
        chips += one.chips
        chosen = [seen for seen in one.trace.looks if seen.level.index == 1 and one.chips > 1]
        for seen in chosen:  # a candidate is where it was on the whole level
            centres = (seen.candidates.boxes[:, :2] + seen.candidates.boxes[:, 2:]) / 2
            size = np.array([seen.box[2] - seen.box[0], seen.box[3] - seen.box[1]])
            assert ((centres >= 0) & (centres < size)).all()
    assert chips > 1


def test_levels_in_tiles(tmp_path: Path, photos: list[LabelledPhoto], detector: Detector) -> None:
    tiled = CascadeConfig(mode="focus", network_pixels=352**2, chips=LOW, zoom=2)
    whole = CascadeConfig(mode="exhaustive", network_pixels=352**2)
    write_cache(tmp_path, photos, detector.engine, [tiled, whole], RECORD)
    cache = read_cache(tmp_path, photos)
    assert max(len(level.looks) for level in cache.photos[1].routes["exhaustive 4"].values()) > 1
    for number, photo in enumerate(photos):
        assert_same(estimated(cache, number, detector, whole), really(photo, detector, whole))
        answers = ChipAnswers(detector.engine, 20)
        assert_same(estimated(cache, number, detector, tiled, answers=answers), really(photo, detector, tiled))
        estimated(cache, number, detector, tiled)


def test_killed_pass_goes_on_and_gives_the_same(
    tmp_path: Path, photos: list[LabelledPhoto], cache: LevelCache, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_parts, "PHOTOS_IN_A_PART", 1)

    def die_after_two(photos_done: int) -> None:
        done.append(photos_done)
        if sum(done) == 2:
            raise KeyboardInterrupt

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path, photos, detector.engine, ROUTES, RECORD, die_after_two)
    with pytest.raises(RunError, match="the cache of photos is not finished; run the same command again"):
        read_cache(tmp_path, photos)
    again: list[int] = []
    write_cache(tmp_path, photos, detector.engine, ROUTES, RECORD, again.append)
    assert again == [1, 1, 1]  # the first was there; the second had not been written
    one, other = read_cache(tmp_path, photos), cache
    for number in range(len(photos)):
        assert_same(
            estimated(one, number, detector, CascadeConfig(mode="exhaustive")),
            estimated(other, number, detector, CascadeConfig(mode="exhaustive")),
        )


@pytest.mark.parametrize(
    ("record", "chosen", "message"),
    [
        pytest.param({"weights": "others"}, slice(None), "weights was those, is others", id="weights"),
        pytest.param({}, slice(1), "photos was", id="photos"),
    ],
)
def test_cache_made_otherwise_is_refused(
    tmp_path: Path,
    photos: Sequence[LabelledPhoto],
    detector: Detector,
    record: dict[str, Any],
    chosen: slice,
    message: str,
) -> None:
    write_cache(tmp_path, photos[2:], detector.engine, ROUTES[:1], RECORD)
    with pytest.raises(SettingsError, match=message):
        write_cache(tmp_path, photos[chosen], detector.engine, ROUTES[:1], {**RECORD, **record})


def test_route_that_was_not_cached_is_named(cache: LevelCache, detector: Detector) -> None:
    assert route_of(CascadeConfig(), detector.preset) == "focus 2"
    with pytest.raises(SettingsError, match="route 'exhaustive 2' is not in the cache, which has"):
        estimated(cache, 0, detector, CascadeConfig(mode="exhaustive", zoom=2))


def test_photo_that_is_gone_is_named(tmp_path: Path, photos: list[LabelledPhoto], detector: Detector) -> None:
    import dataclasses

    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    broken = dataclasses.replace(photos[0], path=tmp_path / "broken.jpg")
    with pytest.raises(RunError, match=r"broken\.jpg: .*; mend it or take it from the labels"):
        write_cache(tmp_path / "cache", [broken], detector.engine, ROUTES, RECORD)


def test_pixels_are_not_kept(cache: LevelCache) -> None:
    levels = cache.photos[0].routes["focus 2"]
    level = next(iter(levels))
    pixels = CachedPixels(levels)
    assert pixels.covered(level) == levels[level].covered
    plan = CascadeConfig(mode="exhaustive").plan((10, 10), 20, Detector.from_pretrained(None).preset)
    shown: Level = plan.finest
    with pytest.raises(RunError, match="the pixels of a cached photo are not kept"):
        list(pixels.read(shown, np.zeros((0, 4), np.int32)))
